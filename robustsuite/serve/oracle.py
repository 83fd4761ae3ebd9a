"""The served model as an adversary meets it: limited to its access, every question counted.

An attack holds an `Oracle`, which can ask and nothing else; the `Desk` behind it, with the network, the limits and the
counters, is the suite's alone. docs/access.md says what that holds off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import AccessRefused, BadValue, QueriesSpent
from robustsuite.maths.losses import CONFIDENCE_MARGIN, Loss
from robustsuite.maths.randomness import Rng
from robustsuite.serve.asking import TILE, Asked, Metered, answer, drawing, fed, feed, preserved
from robustsuite.serve.task import TASK

__all__ = ["LOOK", "TILE", "Ask", "Asked", "Asking", "Counts", "Desk", "Oracle", "answer", "fed", "feed", "preserved"]

LOOK = 4
"""Steps between two looks on a GPU. A look drains its queue; a step without one asks about the ended for nothing."""


class Ask(NamedTuple):
    """What one gradient question returns, all detached."""

    logits: Tensor
    loss: Tensor
    grad: Tensor


@dataclass
class Counts:
    """Images asked, an example each: forward and backward; the extra ones came from a peer's attack, in total."""

    forwards: Tensor
    backwards: Tensor
    extra_forwards: int = 0
    extra_backwards: int = 0

    @classmethod
    def zeros(cls, n: int, device: torch.device | str = "cpu") -> Counts:
        none = torch.zeros(n, dtype=torch.int64, device=device)
        return cls(none, none.clone())

    def copy(self) -> Counts:
        """The same numbers, to be written to by anybody."""
        return replace(self, forwards=self.forwards.clone(), backwards=self.backwards.clone())

    def billed(self) -> Tensor:
        """Forwards (N,) an example; a peer's uncounted ones are shared out evenly."""
        return self.forwards + self.extra_forwards // max(len(self.forwards), 1)

    def totals(self) -> tuple[int, int]:
        """All forwards and all backwards, in images."""
        return int(self.forwards.sum()) + self.extra_forwards, int(self.backwards.sum()) + self.extra_backwards


class Asking(NamedTuple):
    """The questions an oracle passes on, as plain functions: of (rows, x), (rows, x, loss), (rows,) or nothing."""

    scores: Callable[[Tensor, Tensor], Tensor]
    labels: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor, Loss], Ask]
    left: Callable[[Tensor], Tensor]
    network: Callable[[], nn.Module]
    metered: Callable[[], nn.Module]
    counts: Callable[[], Counts]
    bill: Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Oracle:
    """A network behind its threat's access. `model[rows]` asks on behalf of these examples.

    width: how many images an attack should keep in flight. eot: draws averaged in each gradient. confidence_margin: the
    one by which a wrong class must lead for an attack to stop there; infinite where what it sees is a stand-in or one
    draw of many, so that it goes on to its last step and returns its best. look: after how many steps an attack should
    ask who has ended; 1 where that costs nothing, or where idling would cost limited questions. None of them is what
    is enforced.
    """

    asking: Asking = field(repr=False)
    rows: Tensor
    width: int
    eot: int
    confidence_margin: float
    threat: str
    look: int

    @classmethod
    def over(cls, net: nn.Module, access: Access, rng: Rng, **limits: object) -> Oracle:
        """The oracle of a `Desk`, for whoever needs no more of it than the counts."""
        return Desk(net, access, rng, **limits).oracle()  # type: ignore[arg-type]

    def __getitem__(self, rows: Tensor) -> Oracle:
        """The same oracle and counters, asking for the examples `rows` (any number of times each)."""
        return replace(self, rows=self.rows[rows])

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K), detached. Needs SCORES."""
        return self.asking.scores(self.rows, x)

    def labels(self, x: Tensor) -> Tensor:
        """Predicted classes (N,), -1 where there is no answer. Needs LABELS."""
        return self.asking.labels(self.rows, x)

    def gradient(self, x: Tensor, loss: Loss) -> Ask:
        """Logits, loss (N,) and d loss / d x at x, averaged over `eot` draws. Needs GRADIENTS.

        Only the input's gradient is asked: about two forwards of work, a third less than with the weights'. `loss` is
        handed logits (N, K) that know nothing of the network.
        """
        return self.asking.gradient(self.rows, x, loss)

    def network(self) -> nn.Module:
        """The network itself, for bounds and for peers' attacks. Needs WEIGHTS; nothing asked of it is counted."""
        return self.asking.network()

    def metered(self) -> nn.Module:
        """The network for a peer's attack, which calls it by itself: counted in total. Needs WEIGHTS."""
        return self.asking.metered()

    def left(self) -> Tensor:
        """Queries left (N,) for these rows; a very large number where the threat sets no limit.

        Of a limit on all of them together each row has an equal share, so that one question a row can be asked while
        every row has one left.
        """
        return self.asking.left(self.rows)

    @property
    def counts(self) -> Counts:
        """What was asked so far, a copy."""
        return self.asking.counts()

    def bill(self, forwards: int, backwards: int = 0) -> None:
        """Count what an attack worked out on `network()` by itself, in images; raises BadValue below 0."""
        self.asking.bill(forwards, backwards)


@dataclass
class Desk:
    """What the suite keeps behind an oracle, for as many examples as `rng` has streams.

    queries, queries_total: limits an image and on all of them, None for none. recentred: (rows, x) -> the pictures
    really asked about, where an attack shall search around a point of its own choosing without knowing. shown: (rows,
    logits) -> the logits an attack is shown, where an undefined answer is not shown as it is. The others as `Oracle`
    says; look: None for what suits the device.
    """

    net: nn.Module
    access: Access
    rng: Rng
    width: int = 256
    eot: int = 1
    confidence_margin: float = CONFIDENCE_MARGIN
    queries: int | None = None
    queries_total: int | None = None
    threat: str = "this threat"
    recentred: Callable[[Tensor, Tensor], Tensor] | None = None
    shown: Callable[[Tensor, Tensor], Tensor] | None = None
    look: int | None = None

    def __post_init__(self) -> None:
        self.counts = Counts.zeros(len(self.rng), self.rng.keys.device)
        self.last: Asked | None = None
        self._watched = _watched()

    def oracle(self) -> Oracle:
        """What the attack is handed."""
        device = self.rng.keys.device
        free = device.type == "cpu" or not (self.queries is self.queries_total is None)
        questions: tuple[Callable[..., Any], ...] = (
            self.scores, self.labels, self.gradient, self.left, self.network, self.metered, self.counts.copy, self.bill
        )  # fmt: skip
        asking = Asking(*map(_behind, questions))
        look = self.look if self.look is not None else 1 if free else LOOK
        return Oracle(
            asking, torch.arange(len(self.rng), device=device), self.width, self.eot, self.confidence_margin,
            self.threat, look,
        )  # fmt: skip

    def scores(self, rows: Tensor, x: Tensor) -> Tensor:
        """As `Oracle.__call__`, for these rows."""
        self._need(Access.SCORES)
        with torch.no_grad():
            rng, placed = self._bill(rows, x), self._placed(rows, x)
            logits = answer(self.net, placed, rng)
            logits = self.seen(rows, logits)
            if rng is None:
                self.last = Asked(rows.clone(), placed.clone(), logits.clone())
            return logits

    def labels(self, rows: Tensor, x: Tensor) -> Tensor:
        """As `Oracle.labels`."""
        self._need(Access.LABELS)
        with torch.no_grad():
            return TASK.predicted(self.seen(rows, answer(self.net, self._placed(rows, x), self._bill(rows, x))))

    def gradient(self, rows: Tensor, x: Tensor, loss: Loss) -> Ask:
        """As `Oracle.gradient`."""
        self._need(Access.GRADIENTS)
        if not len(x):
            return Ask(answer(self.net, x).detach(), x.new_zeros(0), x.clone())
        total: Ask | None = None
        for _ in range(self.eot):
            rng = self._bill(rows, x)
            self.counts.backwards.scatter_add_(0, rows, torch.ones_like(rows))
            with torch.enable_grad():
                leaf = self._placed(rows, x).detach().requires_grad_()
                logits = self.seen(rows, answer(self.net, leaf, rng))
                # a graph that reached into the network would hand its weights to the attack's loss
                shown = logits.detach().requires_grad_()
                value = loss(shown)
                (slope,) = torch.autograd.grad(value, shown, torch.ones_like(value))
                self._unwatched(slope)
                (grad,) = torch.autograd.grad(logits, leaf, slope)
            if rng is None:
                self.last = Asked(rows.clone(), leaf.detach(), logits.detach().clone(), slope, grad)
            grad = grad.nan_to_num(nan=0.0)  # a rejecting system answers NaN; the attack's own copy
            one = Ask(logits.detach(), value.detach(), grad)
            total = one if total is None else Ask(*(a + b for a, b in zip(total, one, strict=True)))
        return total if self.eot == 1 and total else Ask(*(part / self.eot for part in total or ()))

    def network(self) -> nn.Module:
        """As `Oracle.network`."""
        self._need(Access.WEIGHTS)
        return self.net

    def metered(self) -> nn.Module:
        """As `Oracle.metered`."""
        return Metered(self.network(), _behind(self.bill), self.rng)

    def bill(self, forwards: int, backwards: int = 0) -> None:
        """Count images that cannot be told apart by example: they are held to the limits of all of them together."""
        if forwards < 0 or backwards < 0:
            raise BadValue(f"expected forwards and backwards >= 0 to bill, got {forwards} and {backwards}")
        each = None if self.queries is None else self.queries * len(self.counts.forwards)
        most = min((limit for limit in (self.queries_total, each) if limit is not None), default=None)
        if most is not None and self.counts.totals()[0] + forwards > most:
            raise QueriesSpent(f"an attack asked for more than the {most} queries of {self.threat}")
        self.counts.extra_forwards += forwards
        self.counts.extra_backwards += backwards

    def left(self, rows: Tensor) -> Tensor:
        """As `Oracle.left`."""
        each = (self.queries if self.queries is not None else 1 << 60) - self.counts.forwards[rows]
        if self.queries_total is None:
            return each
        return each.clamp(max=(self.queries_total - self.counts.totals()[0]) // max(len(rows), 1))

    def _placed(self, rows: Tensor, x: Tensor) -> Tensor:
        return x if self.recentred is None else self.recentred(rows, x)

    def seen(self, rows: Tensor, logits: Tensor) -> Tensor:
        """The logits (M, K) as an attack is shown them."""
        return logits if self.shown is None else self.shown(rows, logits)

    def _need(self, kind: Access) -> None:
        if kind not in self.access:
            raise AccessRefused(
                f"expected an attack that needs {self.access.words()} (granted by {self.threat}), got one that asks "
                f"for {kind.words()}; grant it in the threat's access"
            )

    def _unwatched(self, *tensors: Tensor) -> None:
        """Raise AccessRefused where what is computed next would pass through code of the attack's."""
        if _watched() != self._watched or not {*map(type, tensors)} <= {Tensor, nn.Parameter, type(self.rng.keys)}:
            raise AccessRefused(
                "expected plain tensors and no torch modes, saved-tensor hooks or module hooks of the attack's own "
                "around a question, got some: they would see the network's weights; ask without"
            )

    def _bill(self, rows: Tensor, x: Tensor) -> Rng | None:
        """Count one query for each row and return fresh streams for it, where the network draws noise."""
        self._unwatched(rows, x)
        if len(x) != len(rows):
            raise ValueError(f"expected {len(rows)} images, one for each row asked for, got {len(x)}; use model[rows]")
        self._within(rows)
        rng = self.rng[rows].fold(self.counts.forwards[rows]) if drawing(self.net) else None
        self.counts.forwards.scatter_add_(0, rows, torch.ones_like(rows))
        return rng

    def _within(self, rows: Tensor) -> None:
        """Raise QueriesSpent before a batch is sent that would go beyond a limit."""
        if self.queries is not None and len(rows):
            asked = self.counts.forwards.scatter_add(0, rows, torch.ones_like(rows))
            if int(asked.max()) > self.queries:
                words = f"the {self.queries} queries an image of {self.threat}"
                raise QueriesSpent(f"an attack asked for more than {words}")
        self.allows(len(rows))

    def allows(self, more: int) -> None:
        """Raise QueriesSpent where so many questions more would go beyond the limit on all of them together."""
        if self.queries_total is not None and self.counts.totals()[0] + more > self.queries_total:
            raise QueriesSpent(f"an attack asked for more than the {self.queries_total} queries of {self.threat}")


def _behind(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method as a plain function: it has no attribute that is the desk."""
    return lambda *given: method(*given)


def _watched() -> tuple[object, ...]:
    """Who sees every operation of torch or every module's call: modes, hooks on what autograd saves, global hooks."""
    return (
        torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(),
        torch._C._autograd._top_saved_tensors_default_hooks(True), nn.modules.module._has_any_global_hook(),
    )  # fmt: skip
