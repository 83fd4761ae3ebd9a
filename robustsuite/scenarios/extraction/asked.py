"""What is asked of a thief: the yaml keys of the scenario and the threat that they make."""

from __future__ import annotations

from dataclasses import dataclass, fields

from robustsuite.config.keys import BallSpec
from robustsuite.config.threats import Access, Ball, Threat
from robustsuite.config.transforms import Allowed, Transformation
from robustsuite.errors import BadValue

NORMS = ("linf", "l2", "l1")
"""Budgets within which attacks are transferred: those that Auto-PGD works in."""


@dataclass(frozen=True, kw_only=True)
class ExtractionThreat(Threat):
    """The thief: what it may ask in total, the spec of its clone, and the ball that attacks on the clone stay in."""

    clone: str
    asks: int
    ball: Ball


class ExtractionSpec(BallSpec):
    """clone: the spec of a model that brings a recipe, whose architecture clone and stranger have.

    The budget holds queries_total, and the ball in which attacks on the clone are taken to the victim.
    """

    clone: str

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        plain = super().threat(name)
        if plain.queries_total is None or plain.queries is not None:
            raise BadValue(f"expected queries_total and no queries in the budget of {name!r}, got {self.budget!r}; a "
                           f"thief asks about pictures of its own, so write {{queries_total: 10000}}")  # fmt: skip
        if plain.goal.name != "untargeted" or _norm(plain.budget) not in NORMS:
            raise BadValue(f"expected one of {', '.join(NORMS)} in the budget of {name!r} and no goal, got "
                           f"{self.budget!r} towards {plain.goal}; attacks on the clone are Auto-PGD's")  # fmt: skip
        if not plain.access & Access.LABELS:
            raise BadValue(f"expected labels or scores in the access of {name!r}, got {plain.access.words()}; a thief "
                           f"learns from answers, add them")  # fmt: skip
        assert plain.budget is not None
        assert not isinstance(plain.budget, Transformation)
        given = {f.name: getattr(plain, f.name) for f in fields(plain)} | {"terms": (("clone", self.clone),)}
        return ExtractionThreat(**given, clone=self.clone, asks=plain.queries_total, ball=plain.budget)


def _norm(ball: Allowed | None) -> str:
    return "" if ball is None else ball.norm
