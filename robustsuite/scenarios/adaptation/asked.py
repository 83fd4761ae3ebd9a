"""What a stream is: the yaml keys of the scenario and the threat that they make, and what an attack is handed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from robustsuite.config.keys import Entries, Spec, named
from robustsuite.config.registry import canonical, card_of, carded, checked_parameters, identity
from robustsuite.config.sets import NAMES, parse_set
from robustsuite.config.threats import Access, Ball, Threat, within_box
from robustsuite.config.transforms import Transformation
from robustsuite.errors import AccessRefused, BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import parse_spec

ORDERS = ("episodic", "continual", "gradual", "mixed", "correlated")

SHARE = "share"
"""The budget's key besides a ball: the adversary's share of each batch."""

NOBODY = "benign"
"""The attack of a stream that nobody meddles with."""


@dataclass(frozen=True, kw_only=True)
class AdaptationThreat(Threat):
    """A stream: which corruptions in which order and batches, and which share of a batch is the adversary's.

    shift: name and parameters of the shift set. severity: of its variants, the highest where it rises and falls.
    dirichlet: how unlike the classes' places in a correlated stream are, 0: sorted. sees: the system that the adversary
    differentiates, as it stood before the stream or as it stands.
    """

    shift: tuple[str, tuple[tuple[str, Any], ...]]
    order: str
    batch: int
    severity: int
    dirichlet: float
    share: float
    sees: str


class AdaptationSpec(Spec):
    """shift: the shift set whose variants are streamed, at one severity. order, batch: how.

    dirichlet: of a correlated order. sees: what the adversary differentiates. The budget is a ball and a share of each
    batch, or nothing. attacks: benign, the stream as it comes, where it is not given.
    """

    attacks: Entries = Field(default=[NOBODY], min_length=1)
    shift: Any = "imagenet_c"
    order: Literal["episodic", "continual", "gradual", "mixed", "correlated"] = "continual"
    batch: int = Field(default=200, ge=1)
    severity: int = Field(default=5, ge=1, le=5)
    dirichlet: float = Field(default=0.0, ge=0)
    sees: Literal["snapshot", "live"] = "snapshot"

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        if self.dirichlet and self.order != "correlated":
            raise BadValue(f"expected dirichlet with order: correlated in {name!r}, got it with {self.order}")
        shift, given = parse_spec(self.shift, "shift set")
        card = card_of("shift", shift)
        given = checked_parameters(card, given)
        ball, share = self._owned(name)
        plain = Spec(scenario=self.scenario, access=self.access, attacks=["-"]).threat(name)
        told: dict[str, Any] = {"shift": canonical(card, given), "order": self.order, "batch": self.batch}
        own: dict[str, Any] = {"severity": self.severity, "dirichlet": self.dirichlet, "sees": self.sees}
        told |= {key: value for key, value in own.items() if value != type(self).model_fields[key].default}
        told |= {SHARE: share} if share else {}
        told["source"] = hashlib.sha256(json.dumps(identity(card, given)).encode()).hexdigest()[:8]
        facts = {f.name: getattr(plain, f.name) for f in fields(plain)} | {"terms": tuple(told.items()), "budget": ball}
        facts |= {"order": self.order, "batch": self.batch, "share": share}
        return AdaptationThreat(**facts, **own, shift=(shift, tuple(sorted(given.items()))))

    def _owned(self, name: str) -> tuple[Ball | None, float]:
        """The ball that the adversary moves its pictures in, and its share of each batch; None and 0 of nobody."""
        budget = self.only(name, [*NAMES, SHARE], least=0)
        norms = [key for key in budget if key != SHARE]
        share = budget.get(SHARE, 0.0)
        alone = [entry for entry in self.attacks if parse_spec(named(entry)[0], "attack")[0] == NOBODY]
        if not norms and not share:
            if len(alone) < len(self.attacks):
                raise BadValue(f"expected a set and a share as the budget of {name!r}, got none; write "
                               "{linf: 8/255, share: 0.2}")  # fmt: skip
            return None, 0.0
        if len(norms) != 1 or not isinstance(share, int | float) or not 0 < share < 1:
            raise BadValue(f"expected a set and a share between 0 and 1 as the budget of {name!r}, got {budget!r}; "
                           "write {linf: 8/255, share: 0.2}")  # fmt: skip
        if alone:
            raise BadValue(f"expected no budget in {name!r}, whose attack is {NOBODY}, got {budget!r}; leave it out")
        ball = within_box(parse_set(norms[0], budget[norms[0]]))
        if isinstance(ball, Transformation):
            raise BadValue(f"expected a norm's ball as the budget of {name!r}, got {norms[0]}; write linf: 8/255")
        return ball, float(share)


@dataclass(frozen=True)
class View:
    """What the adversary sees of the system: its answers to a whole batch, as far as access goes.

    stands: what it would answer, without changing. Counted are pictures, not batches.
    """

    stands: Callable[[Tensor], Tensor] = field(repr=False)
    access: Access
    count: list[int] = field(default_factory=lambda: [0, 0])

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, K) of a batch (B, C, H, W). Needs SCORES."""
        self._need(Access.SCORES)
        self.count[0] += len(x)
        with torch.no_grad():
            return self.stands(x)

    def gradient(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and d loss(logits) / dx (B, C, H, W), through whatever the batch shares. Needs GRADIENTS."""
        self._need(Access.GRADIENTS)
        self.count[0] += len(x)
        self.count[1] += len(x)
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            logits = self.stands(x)
            (grad,) = torch.autograd.grad(loss(logits), x, allow_unused=True)
        return logits.detach(), torch.zeros_like(x) if grad is None else grad.detach()

    def _need(self, kind: Access) -> None:
        if kind not in self.access:
            raise AccessRefused(f"expected an attack that needs {self.access.words()}, got one that asks for "
                                f"{kind.words()}; name it in its needs and grant it")  # fmt: skip


class Attack(Protocol):
    """A batch x (B, C, H, W) with labels y (B,), of which the adversary owns `own` (B,) bool, as the view sees it.

    Returns the batch with those pictures moved within the ball, and no other.
    """

    def __call__(self, view: View, x: Tensor, y: Tensor, own: Tensor, ball: Ball | None, *, rng: Rng) -> Tensor: ...


A = TypeVar("A", bound=Callable[..., Tensor])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an attack on a batch. needs: Access.GRADIENTS for `View.gradient`, SCORES for `View.logits`."""
    return carded("attack", "adaptation", **facts)


__all__ = ["NOBODY", "ORDERS", "AdaptationSpec", "AdaptationThreat", "Attack", "View", "attack"]
