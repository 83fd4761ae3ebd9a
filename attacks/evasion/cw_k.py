"""CW^K: the margin loss of Carlini and Wagner carried over to ordered lists.

(A baseline of Paniagua, Grainger, Wu, 2023, arXiv:2312.11510.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import ordered_topk
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("l2",),
    goals=("ordered_topk",),
    paper="Paniagua, Grainger, Wu, 2023, arXiv:2312.11510",
    cost=ordered_topk.cost,
    minimum_norm=True,
    family=("minimum norm",),
    **WHITE_BOX,
    least=ordered_topk.LEAST,
    differs=("bisection moves to the weight a search started from, not to the one it had eased to",),
)
def cw_k(
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
    """Ordered top-K attack by margins between each class of the list and all that should stand below it.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, K). searches: bisection steps of the loss's weight in [0, upper];
    iterations: AdamW steps of each. Raises BadValue.
    """
    schedule = ordered_topk.Schedule(searches, iterations, lr, upper)
    memory = x.new_zeros(len(x), 0)
    return ordered_topk.attack(model, x, targets, budget, ordered_margins, schedule, rng=rng, memory=memory)


def ordered_margins(logits: Tensor, targets: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """(1/K) sum_i max(0, max_{j not in t_1..t_i} z_j - min_{k <= i} z_{t_k}) (N,); the memory as it is."""
    listed = logits.gather(1, targets)
    rest = logits.scatter(1, targets, -torch.inf).amax(1, keepdim=True)
    after = torch.cat([listed[:, 1:], rest], 1).flip(1).cummax(1).values.flip(1)
    return (after - listed.cummin(1).values).clamp_min(0).mean(1), memory
