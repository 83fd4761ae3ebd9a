"""The served model as an adversary meets it: limited to its access, every question counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import AccessRefused, QueriesSpent
from robustsuite.maths.losses import CONFIDENCE_MARGIN, Loss
from robustsuite.maths.randomness import Rng, untouched
from robustsuite.serve.protocols import Stochastic
from robustsuite.serve.task import TASK

TILE = 16
"""Batches are padded to a multiple of this. BLAS and convolution kernels treat the last, odd rows differently in the
last bits; with whole tiles an image's logits and gradient are the same bits whatever stands beside it (CPU). Measured:
8 rows are enough for AVX2 kernels, AVX-512 takes 16; layers with more than about a thousand outputs are split by size
all the same."""


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

    def add_total(self, forwards: int, backwards: int) -> None:
        """Add work of a peer's attack that cannot be told apart by example."""
        self.extra_forwards += forwards
        self.extra_backwards += backwards

    def billed(self) -> Tensor:
        """Forwards (N,) an example; a peer's uncounted ones are shared out evenly."""
        return self.forwards + self.extra_forwards // max(len(self.forwards), 1)

    def totals(self) -> tuple[int, int]:
        """All forwards and all backwards, in images."""
        return int(self.forwards.sum()) + self.extra_forwards, int(self.backwards.sum()) + self.extra_backwards


def answer(net: nn.Module, x: Tensor, rng: Rng | None = None) -> Tensor:
    """Logits (N, K) of pictures (N, C, H, W), computed in whole tiles; `rng` feeds nets that draw noise."""
    if not len(x):  # a net may not take an empty batch; its width is learnt from one blank picture
        return answer(net, x.new_zeros(1, *x.shape[1:]), None)[:0]
    missing = -len(x) % TILE
    padded = torch.cat([x, _company(x, missing)]) if missing else x
    if rng is None:
        logits: Tensor = net(padded)
        return logits[: len(x)]
    with fed(net, Rng(torch.cat([rng.keys, rng.keys[-1:].expand(missing)]))):
        logits = net(padded)
    return logits[: len(x)]


def _company(x: Tensor, missing: int) -> Tensor:
    """So many pictures to fill a tile with: x mirrored, then moved on by a row at a time; no picture twice."""
    rounds = -(-missing // len(x))
    return torch.cat([x.flip(3).roll(-i, 2) for i in range(rounds)])[:missing].detach()


def feed(net: nn.Module, rng: Rng | None) -> None:
    """Hand the streams of the coming batch to every module that draws noise; None: they draw the same for any."""
    for module in _drawing(net):
        module.rng = rng


@contextmanager
def fed(net: nn.Module, rng: Rng) -> Iterator[None]:
    """Feed one question, and leave no streams behind: what comes next must not answer by what was asked before."""
    feed(net, rng)
    try:
        yield
    finally:
        feed(net, None)


def _drawing(net: nn.Module) -> list[Stochastic]:
    """The modules that draw noise."""
    # hasattr first: isinstance takes ten times as long, and every question asks this of every module
    return [module for module in net.modules() if hasattr(module, "rng") and isinstance(module, Stochastic)]


@dataclass
class Oracle:
    """A network behind its threat's access. `model[rows]` asks on behalf of these examples.

    width: how many images an attack should keep in flight. eot: draws averaged in each gradient. confidence_margin: the
    one by which a wrong class must lead for an attack to stop there; infinite where what it sees is a stand-in or one
    draw of many, so that it goes on to its last step and returns its best. recentred: (rows, x) -> the pictures really
    asked about, where an attack shall search around a point of its own choosing without knowing. look: after how many
    steps an attack should ask who has ended; 1 where that costs nothing, or where idling would cost limited questions.
    shown: (rows, logits) -> the logits an attack is shown, where an undefined answer is not shown as it is.
    """

    net: nn.Module
    access: Access
    counts: Counts
    rng: Rng
    width: int = 256
    eot: int = 1
    confidence_margin: float = CONFIDENCE_MARGIN
    queries: int | None = None
    queries_total: int | None = None
    threat: str = "this threat"
    recentred: Callable[[Tensor, Tensor], Tensor] | None = None
    shown: Callable[[Tensor, Tensor], Tensor] | None = None
    look: int = 1
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @classmethod
    def over(cls, net: nn.Module, access: Access, rng: Rng, **limits: object) -> Oracle:
        """An oracle for as many examples as `rng` has streams."""
        n, device = len(rng), rng.keys.device
        free = device.type == "cpu" or not (limits.get("queries") is limits.get("queries_total") is None)
        given = {"look": 1 if free else LOOK, "rows": torch.arange(n, device=device), **limits}
        return cls(net, access, Counts.zeros(n, device), rng, **given)  # type: ignore[arg-type]

    def __getitem__(self, rows: Tensor) -> Oracle:
        """The same oracle and counters, asking for the examples `rows` (any number of times each)."""
        view = object.__new__(Oracle)
        view.__dict__.update(self.__dict__, rows=self.rows[rows])
        return view

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K), detached. Needs SCORES."""
        self._need(Access.SCORES)
        with torch.no_grad():
            return self._seen(answer(self.net, self._placed(x), self._bill(len(x))))

    def labels(self, x: Tensor) -> Tensor:
        """Predicted classes (N,), -1 where there is no answer. Needs LABELS."""
        self._need(Access.LABELS)
        with torch.no_grad():
            return TASK.predicted(self._seen(answer(self.net, self._placed(x), self._bill(len(x)))))

    def gradient(self, x: Tensor, loss: Loss) -> Ask:
        """Logits, loss (N,) and d loss / d x at x, averaged over `eot` draws. Needs GRADIENTS.

        Only the input's gradient is asked: about two forwards of work, a third less than with the weights'.
        """
        self._need(Access.GRADIENTS)
        if not len(x):
            return Ask(answer(self.net, x).detach(), x.new_zeros(0), x.clone())
        total: Ask | None = None
        for _ in range(self.eot):
            rng = self._bill(len(x))
            self.counts.backwards.scatter_add_(0, self.rows, torch.ones_like(self.rows))
            with torch.enable_grad():
                leaf = self._placed(x).detach().requires_grad_()
                logits = self._seen(answer(self.net, leaf, rng))
                value = loss(logits)
                (grad,) = torch.autograd.grad(value.sum(), leaf)
            grad = grad.nan_to_num(nan=0.0)  # a rejecting system answers NaN
            one = Ask(logits.detach(), value.detach(), grad)
            total = one if total is None else Ask(*(a + b for a, b in zip(total, one, strict=True)))
        return total if self.eot == 1 and total else Ask(*(part / self.eot for part in total or ()))

    def network(self) -> nn.Module:
        """The network itself, for bounds and for peers' attacks. Needs WEIGHTS; nothing asked of it is counted."""
        self._need(Access.WEIGHTS)
        return self.net

    def metered(self) -> nn.Module:
        """The network for a peer's attack, which calls it by itself: counted in total. Needs WEIGHTS."""
        return Metered(self.network(), self.counts, self.rng, self._within_all)

    def _within_all(self, n: int) -> None:
        """The same for a peer's questions, which cannot be told apart by image: held to all of them together."""
        spent, images = self.counts.totals()[0], len(self.counts.forwards)
        limits = [self.queries_total, None if self.queries is None else self.queries * images]
        most = min((limit for limit in limits if limit is not None), default=None)
        if most is not None and spent + n > most:
            raise QueriesSpent(f"an attack asked for more than the {most} queries of {self.threat}")

    def left(self) -> Tensor:
        """Queries left (N,) for these rows; a very large number where the threat sets no limit.

        Of a limit on all of them together each row has an equal share, so that one question a row can be asked while
        every row has one left.
        """
        spent = self.counts.forwards[self.rows]
        each = (self.queries if self.queries is not None else 1 << 60) - spent
        if self.queries_total is None:
            return each
        return each.clamp(max=(self.queries_total - self.counts.totals()[0]) // max(len(self.rows), 1))

    def _placed(self, x: Tensor) -> Tensor:
        return x if self.recentred is None else self.recentred(self.rows, x)

    def _seen(self, logits: Tensor) -> Tensor:
        return logits if self.shown is None else self.shown(self.rows, logits)

    def _need(self, kind: Access) -> None:
        if kind not in self.access:
            raise AccessRefused(
                f"expected an attack that needs {self.access.words()} (granted by {self.threat}), got one that asks "
                f"for {kind.words()}; grant it in the threat's access"
            )

    def _bill(self, n: int) -> Rng | None:
        """Count one query for each row and return fresh streams for it, where the network draws noise."""
        if n != len(self.rows):
            raise ValueError(f"expected {len(self.rows)} images, one for each row asked for, got {n}; use model[rows]")
        self._within(n)
        rng = self.rng[self.rows].fold(self.counts.forwards[self.rows]) if _drawing(self.net) else None
        self.counts.forwards.scatter_add_(0, self.rows, torch.ones_like(self.rows))
        return rng


    def _within(self, n: int) -> None:
        """Raise QueriesSpent before a batch is sent that would go beyond a limit."""
        if self.queries is not None and n:
            asked = self.counts.forwards.scatter_add(0, self.rows, torch.ones_like(self.rows))
            if int(asked.max()) > self.queries:
                words = f"the {self.queries} queries an image of {self.threat}"
                raise QueriesSpent(f"an attack asked for more than {words}")
        if self.queries_total is not None and self.counts.totals()[0] + n > self.queries_total:
            raise QueriesSpent(f"an attack asked for more than the {self.queries_total} queries of {self.threat}")


class Metered(nn.Module):
    """Adds the images asked to the totals; gives the very bits the bare network gives, so nothing is padded.

    eval() and train() stop here: a peer that calls them must not switch off what a defense does at test time.
    """

    streams: Rng

    def __init__(self, net: nn.Module, counts: Counts, streams: Rng, within: Callable[[int], None]) -> None:
        super().__init__()
        self.within = within
        self.net, self.counts, self.streams, self.calls = net, counts, streams, 0
        self.training = net.training

    def train(self, mode: bool = True) -> Metered:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.within(len(x))
        self.counts.add_total(len(x), 0)
        self.calls += 1
        places = torch.arange(len(x), device=self.streams.keys.device)
        with fed(self.net, Rng(self.streams.keys[:1].expand(len(x))).fold(places).fold(self.calls)):
            logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(lambda grad: self.counts.add_total(0, len(grad)))
        return logits


@contextmanager
def preserved(net: nn.Module) -> Iterator[None]:
    """Leave the network and the global random states as they were, whatever happens inside.

    Restores: training flags, parameters' requires_grad and grad, hooks, values of parameters and buffers
    if they changed, and the random states of python, numpy and torch.
    """
    modules = [(m, m.training, {h: dict(getattr(m, h)) for h in _HOOKS if hasattr(m, h)}) for m in net.modules()]
    params = [(p, p.requires_grad, p.grad) for p in net.parameters()]
    tensors = _kinds([*net.parameters(), *net.buffers()])
    values = [_joined(kind) for kind in tensors]
    try:
        with untouched():
            yield
    finally:
        for module, training, hooks in modules:
            module.training = training
            for name, saved in hooks.items():
                current = getattr(module, name)
                current.clear()
                current.update(saved)
        for p, requires_grad, grad in params:
            p.requires_grad_(requires_grad)
            p.grad = grad
        with torch.no_grad():
            for kind, value in zip(tensors, values, strict=True):
                if not torch.equal(_joined(kind), value):
                    for tensor, part in zip(kind, value.split([t.numel() for t in kind]), strict=True):
                        tensor.copy_(part.view_as(tensor))


def _kinds(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors, those of one type and device together."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(kinds.values())


def _joined(tensors: list[Tensor]) -> Tensor:
    """All their values in one row, a copy: one launch however many layers there are."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
