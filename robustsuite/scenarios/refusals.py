"""What several scenarios refuse, in the same sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from robustsuite.registry import AttackCard
from robustsuite.threats import Ball
from robustsuite.verdict import Verdict

if TYPE_CHECKING:
    from robustsuite.plan import Cell


def unfit(card: AttackCard, ball: Ball) -> Verdict | None:
    """Why an attack cannot work in this ball; None where it can."""
    if not (math.isfinite(ball.eps) or card.minimum_norm):
        return Verdict("refused", "budget", f"{card.name} needs a finite budget; the threat allows any change")
    if card.norms and ball.norm not in card.norms:
        return Verdict("refused", "budget", f"{card.name} works in {', '.join(card.norms)}, not in {ball.norm}")
    return None


def trained_already(cell: Cell) -> Verdict | None:
    """Why nothing can be poisoned here: the model comes with its weights; None where it brings a recipe."""
    model = cell.lifecycle.model
    if model.pretrained:
        return Verdict("refused", "recipe", f"{model.name} comes trained; poison a model that brings a recipe")
    return None
