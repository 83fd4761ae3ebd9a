"""LiRA: how likely are the answers if it was a member, how likely if not? (Carlini et al., 2022, arXiv:2112.03570)

The scaled logit phi = log p_y - log sum over wrong j of p_j of one example is about normal over trainings, with one
mean and deviation where the example was in and others where it was out. Shadows give both:

    online   log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out)
    offline  log P[N(mu_out, s_out) <= phi], of shadows that were not trained on it
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import MEMBERSHIP
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.membership import by_side, middle
from robustsuite.scenarios import membership
from robustsuite.scenarios.membership import Shadows
from robustsuite.serve.oracle import Oracle

FEW = 32
"""Shadows of a side below which one deviation is shared by all examples."""

TINY = 1e-30


@membership.attack(
    needs=Access.SCORES | Access.AUX_DATA,
    paper="Carlini et al., 2022, arXiv:2112.03570",
    cost=lambda classes, online, variance, query_views: Cost(query_views),
    differs=(
        "a shared deviation of the shadows that are out is of their values; the authors' script takes that of the "
        "others, which are in",
        "offline an example counts as a member where it is answered more surely than if it were out; the authors' "
        "script scores answers that are less sure alike",
    ),
    **MEMBERSHIP,
)
def lira(
    model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, shadows: Shadows, online: bool = True, variance: str = "auto",
    query_views: int = 2,
) -> Tensor:  # fmt: skip
    """The likelihood ratio of what is answered, by normal distributions over shadows.

    variance: example, for a deviation of each example; fixed, one for all; auto: fixed below 32 shadows of a side.
    query_views: the picture, its mirror image, and both moved by a pixel (18); densities are averaged. Raises BadValue.
    """
    if variance not in ("auto", "example", "fixed"):
        raise BadValue(f"expected a variance of auto, example or fixed, got {variance!r}; leave it out for auto")
    shared = variance == "fixed" or (variance == "auto" and len(shadows.inside) < 2 * FEW)
    if not shared and len(shadows.inside) < 4:
        raise BadValue(f"expected two shadows of a side for a deviation of each example, got {len(shadows.inside)} in "
                       f"all; write variance: fixed")  # fmt: skip
    parts = []
    for phi, inside, outside in by_side(model, x, y, shadows, query_views):
        if online:
            parts.append(_density(phi, inside, shared) - _density(phi, outside, shared))
        else:
            parts.append(torch.special.log_ndtr(_standard(phi, outside, shared)[0]))
    return torch.stack(parts).mean(0)


def _standard(phi: Tensor, values: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    """phi (N,) in deviations from the middle of values (K, N), and the deviation."""
    deviation = (values.std(correction=0) if shared else values.std(0, correction=0)) + TINY
    return (phi - middle(values)) / deviation, deviation


def _density(phi: Tensor, values: Tensor, shared: bool) -> Tensor:
    z, deviation = _standard(phi, values, shared)
    return -z.square() / 2 - deviation.log()
