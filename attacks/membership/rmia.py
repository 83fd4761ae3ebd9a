"""RMIA: how often does x beat a picture z of the population? (Zarifzadeh, Liu, Shokri, 2024, arXiv:2312.03262)

    the share of z with [p(x | victim) / p(x)] / [p(z | victim) / p(z)] > gamma

p(x) is the mean of p over all shadows, or offline ((1 + a) p_out(x) + 1 - a) / 2, of those not trained on x. The share
is a p-value's complement; as a ranking it is the plain ratio's, cut into as many steps as there are z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import MEMBERSHIP
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.membership import asked, log_softmax, sides
from robustsuite.scenarios import membership
from robustsuite.scenarios.membership import Shadows
from robustsuite.serve.oracle import Oracle


@membership.attack(
    needs=Access.SCORES | Access.AUX_DATA,
    paper="Zarifzadeh, Liu, Shokri, 2024, arXiv:2312.03262",
    cost=lambda classes, online, gamma, a: Cost(2),
    differs=(
        "the population are pictures of the val split, no more than there are examples to tell, and one for all",
        "a is given; the authors' code tunes it on the complement of the victim, with that network's members",
    ),
    **MEMBERSHIP,
)
def rmia(
    model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, shadows: Shadows, online: bool = True, gamma: float = 1.0,
    a: float = 0.3,
) -> Tensor:  # fmt: skip
    """The share of a population that each example's likelihood ratio beats by gamma.

    online: p(x) is of all shadows, else of those not trained on x, with a for what they lack. Raises BadValue.
    """
    if not (gamma > 0 and 0 <= a <= 1):
        raise BadValue(f"expected gamma > 0 and a in [0, 1], got {gamma!r} and {a!r}; leave them out for 1 and 0.3")
    others = shadows.population.first(min(len(x), len(shadows.population)))
    z, labels = others.images(torch.arange(len(others))).to(x), others.y.to(y)

    def relative(pictures: Tensor, y: Tensor, inside: Tensor | None) -> Tensor:
        own, theirs = log_softmax(asked(model, pictures), y), log_softmax(shadows.answers(pictures), y).exp()
        if online:
            return own - theirs.mean(0).log()
        outside = theirs if inside is None else sides(theirs, inside)[1]
        return own - (((1 + a) * outside.mean(0) + 1 - a) / 2).log()

    beaten = relative(z, labels, None).sort().values
    threshold = relative(x, y, shadows.inside) - torch.tensor(gamma, dtype=torch.float64).log()
    return torch.searchsorted(beaten, threshold).double() / len(beaten)
