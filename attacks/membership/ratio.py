"""The plain ratio p(x | victim) / p(x), in logarithms: BASE (Lassila et al., 2025, arXiv:2505.24089).

    online   log p_victim - log of the mean p over all shadows
    offline  log p_victim - alpha times log of the mean p over shadows that were not trained on it

With one population for all examples, RMIA ranks them as this ratio does, whatever its gamma, up to ties.
"""

from __future__ import annotations

import math

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
    paper="Lassila et al., 2025, arXiv:2505.24089",
    cost=lambda classes, online, temperature, alpha: Cost(1),
    **MEMBERSHIP,
)
def ratio(
    model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, shadows: Shadows, online: bool = True, temperature: float = 1.0,
    alpha: float = 0.33,
) -> Tensor:  # fmt: skip
    """How much surer the victim is of the label than networks at large.

    temperature: logits are divided by it. alpha: what p(x) counts offline. Raises BadValue.
    """
    if not temperature > 0:
        raise BadValue(f"expected a temperature > 0, got {temperature!r}; write 1")
    own = log_softmax(asked(model, x), y, temperature)
    theirs = log_softmax(shadows.answers(x), y, temperature)
    if online:
        return own - (theirs.logsumexp(0) - math.log(len(theirs)))
    outside = sides(theirs, shadows.inside)[1]
    return own - alpha * (outside.logsumexp(0) - math.log(len(outside)))
