"""What is asked of an adversary: the yaml keys of the scenario, the threat that they make, and what an attack is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

from pydantic import Field
from torch import Tensor

from robustsuite.config.keys import Spec
from robustsuite.config.registry import carded
from robustsuite.config.threats import Threat
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle

OWN = ("pool", "subjects", "shadows")
"""What a threat of this scenario says besides, told where it is not the default."""


class Attack(Protocol):
    """(the victim, pictures (N, C, H, W), labels (N,)) -> scores (N,), larger for members.

    `shadows: Shadows` besides where it needs AUX_DATA.
    """

    def __call__(self, model: Oracle, x: Tensor, y: Tensor, *, rng: Rng) -> Tensor: ...


A = TypeVar("A", bound=Callable[..., Tensor])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register a membership inference. needs: Access.SCORES or LABELS, and AUX_DATA for shadows."""
    return carded("attack", "membership", **facts)


@dataclass(frozen=True, kw_only=True)
class MembershipThreat(Threat):
    """The adversary, and the draw. pool: so many of the train split, None for all; subjects: of these asked about."""

    pool: int | None
    subjects: int | None
    shadows: int


class MembershipSpec(Spec):
    """pool: training examples that members are drawn from. subjects: so many of them are asked about. None: all.

    shadows: networks of the adversary's own, an even number.
    """

    pool: int | None = Field(default=None, ge=2)
    subjects: int | None = Field(default=None, ge=2)
    shadows: int = Field(default=16, ge=2)

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        self.only(name, ["queries", "queries_total"], least=0)
        if self.shadows % 2:
            raise BadValue(f"expected an even number of shadows of {name!r}, got {self.shadows}; each example is in "
                           f"half of them")  # fmt: skip
        if self.pool and self.subjects and self.subjects > self.pool:
            raise BadValue(f"expected at most {self.pool} subjects of {name!r}, as many as its pool has, got "
                           f"{self.subjects}; lower them")  # fmt: skip
        plain = super().threat(name)
        own = {key: getattr(self, key) for key in OWN}
        told = {key: value for key, value in own.items() if value != type(self).model_fields[key].default}
        given = {f.name: getattr(plain, f.name) for f in fields(plain)} | {"terms": tuple(told.items())}
        return MembershipThreat(**given, **own)
