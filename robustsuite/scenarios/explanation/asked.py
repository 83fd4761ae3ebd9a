"""What is asked of an attribution method: the yaml keys, the threat that they make, and what a method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

from pydantic import Field
from torch import Tensor

from robustsuite.config.keys import Spec
from robustsuite.config.registry import carded
from robustsuite.config.threats import Threat
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle


class Attack(Protocol):
    """(the system, pictures (N, C, H, W), classes (N,)) -> maps (N, H, W), larger where pixels speak for the class."""

    def __call__(self, model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng) -> Tensor: ...


A = TypeVar("A", bound=Callable[..., Tensor])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an attribution method. needs: Access.GRADIENTS, WEIGHTS or SCORES."""
    return carded("attack", "explanation", **facts)


@dataclass(frozen=True, kw_only=True)
class ExplanationThreat(Threat):
    """What is granted, and which share of the pixels the networks of DiffROAR keep; None trains none."""

    diffroar: float | None = None


class ExplanationSpec(Spec):
    """diffroar: a share of the pixels; networks are trained on the first and on the last so many of each map."""

    diffroar: float | None = Field(default=None, gt=0, le=0.5)

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        self.only(name, ["queries", "queries_total"], least=0)
        plain = super().threat(name)
        told = () if self.diffroar is None else (("diffroar", self.diffroar),)
        given = {f.name: getattr(plain, f.name) for f in fields(plain)} | {"terms": told}
        return ExplanationThreat(**given, diffroar=self.diffroar)
