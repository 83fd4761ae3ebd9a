"""What several scenarios refuse, in the same sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from robustsuite.config.decision import Decision
from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import BALLS
from robustsuite.config.transforms import Allowed

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell


def unfit(card: AttackCard, ball: Allowed) -> Decision | None:
    """Why an attack cannot work in this ball or set; None where it can."""
    if not (math.isfinite(ball.eps) or card.minimum_norm):
        return Decision("refused", "budget", f"{card.name} needs a finite budget; the threat allows any change")
    if card.norms and ball.norm not in card.norms:
        return Decision("refused", "budget", f"{card.name} works in {', '.join(card.norms)}, not in {ball.norm}")
    if not card.norms and ball.norm not in BALLS:
        return Decision("refused", "budget", f"{card.name} does not say that it works in {ball.norm}")
    return None


def trained_already(cell: Cell) -> Decision | None:
    """Why nothing can be poisoned here: the model comes with its weights; None where it brings a recipe."""
    model = cell.lifecycle.model
    if model.pretrained:
        return Decision("refused", "recipe", f"{model.name} comes trained; poison a model that brings a recipe")
    return None
