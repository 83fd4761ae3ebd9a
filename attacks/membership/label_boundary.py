"""By labels alone: how far is the boundary? What was learnt stands away from it (Choquette-Choo et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost, card_of
from robustsuite.config.taxonomy import MEMBERSHIP
from robustsuite.config.threats import Access, parse_ball
from robustsuite.errors import BadValue
from robustsuite.maths import projections
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import membership
from robustsuite.serve.oracle import Oracle


@membership.attack(
    needs=Access.LABELS,
    paper="Choquette-Choo et al., 2021, arXiv:2007.14321",
    cost=lambda classes, search, queries: Cost(queries + 1),
    differs=("the distance is searched by SurFree; the authors ask by HopSkipJump",),
    **MEMBERSHIP,
)
def label_boundary(
    model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, search: str = "surfree", queries: int = 500
) -> Tensor:
    """The l2 distance to the nearest wrong answer that a search by labels finds; 0 of what is answered wrong.

    search: an evasion attack by labels in l2. queries: of each example. Raises UnknownName, BadValue.
    """
    card = card_of("attack", search)
    if card.place != "evasion" or card.needs != Access.LABELS or "l2" not in card.norms:
        raise BadValue(f"expected an evasion attack by labels in l2 as the search, got {search!r}; write surfree")
    rows = torch.arange(len(x), device=x.device)
    right = torch.cat([model[i].labels(x[i]) for i in rows.split(model.width)]) == y
    distance = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    stands = right.nonzero().flatten()
    if len(stands):
        found = card.function(
            model[stands], x[stands], y[stands], parse_ball("l2", "inf"), rng=rng[stands], queries=queries
        )
        moved = projections.norm((found.x_adv.double() - x[stands].double()).flatten(1), "l2")
        never = moved == 0  # nothing wrong was found at all: farther than whatever was
        distance[stands] = torch.where(never, moved.max() + 1, moved)
    return distance
