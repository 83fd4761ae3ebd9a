"""QuadAttacK: draw the features to the nearest ones whose logits stand in the wanted order.

(Paniagua, Grainger, Wu, 2023, arXiv:2312.11510.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import ordered_topk, quadratic
from robustsuite.methods.head import linear_head
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES | Access.WEIGHTS,
    norms=("l2",),
    goals=("ordered_topk",),
    paper="Paniagua, Grainger, Wu, 2023, arXiv:2312.11510",
    cost=ordered_topk.cost,
    minimum_norm=True,
    family=("minimum norm",),
    **WHITE_BOX,
    least=ordered_topk.LEAST,
    differs=(
        "the quadratic program is solved exactly, in logit space, and from the last step's solution",
        "its gradient is 2 (f - z*) by the envelope theorem; no solver is differentiated",
        "as in the paper, nothing shortens what AdamW found: its steps go by signs, and with 9 x 60 of them and K = 1"
        " on a linear net l2 ends 4 % above the least, 3 % of it sideways (1 % with gradient descent)",
        "bisection moves to the weight a search started from, not to the one it had eased to",
    ),
)
def quadattack(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    targets: Tensor | None,
    rng: Rng,
    searches: int = 1,
    iterations: int = 60,
    lr: float = 2.2e-3,
    upper: float = 20.0,
) -> Tensor:
    """Ordered top-K attack through the nearest features of the wanted order.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, K). searches: bisection steps of the loss's weight in [0, upper];
    iterations: AdamW steps of each. Raises BadValue; Unsupported where the last operation is not linear.
    """
    schedule = ordered_topk.Schedule(searches, iterations, lr, upper)
    if not len(x):
        return x
    gram = quadratic.gram(linear_head(model.network(), x[:1], rng[:1]))
    model.bill(1)

    def pull(logits: Tensor, targets: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """||f - z*||^2 (N,) with the gradient 2 (f - z*) = -2 A's, that of -2 s . logits."""
        order = quadratic.order(targets, len(gram))
        with torch.no_grad():
            memory = quadratic.multipliers(logits, order, gram, memory)
            s = quadratic.combined(memory, order)
            squared = (quadratic.times(s, gram) * s).sum(1).to(logits.dtype)
        slope = -2 * (s.to(logits.dtype) * logits).sum(1)
        return squared + slope - slope.detach(), memory

    memory = gram.new_zeros(len(x), len(gram))
    return ordered_topk.attack(model, x, targets, budget, pull, schedule, rng=rng, memory=memory)
