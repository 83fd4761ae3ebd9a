"""By labels alone: of how many turned, moved and mirrored copies is the answer right? (Choquette-Choo et al., 2021)"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import MEMBERSHIP
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.maths.warping import turned
from robustsuite.methods.membership import views
from robustsuite.scenarios import membership
from robustsuite.serve.oracle import Oracle


@membership.attack(
    needs=Access.LABELS,
    paper="Choquette-Choo et al., 2021, arXiv:2007.14321",
    cost=lambda classes, angle: Cost(20),
    differs=("right answers are counted; the authors also learn which copies count, on a network of their own",),
    **MEMBERSHIP,
)
def label_augmentation(model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, angle: float = 4.0) -> Tensor:
    """How many of 20 copies are answered with the label: 18 mirrored and moved by a pixel, 2 turned.

    angle: degrees, either way. Raises BadValue.
    """
    if not 0 < angle < 90:
        raise BadValue(f"expected an angle above 0 and below 90 degrees, got {angle!r}; write 4")
    right = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    still = x.new_zeros(len(x))
    for copy in (*views(x, 18), *(turned(x, still + way * angle, still, still) for way in (1, -1))):
        right += torch.cat([model[i].labels(copy[i]) for i in rows.split(model.width)]) == y
    return right
