"""A map that knows nothing: the floor that every attribution stands beside."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle


@explanation.attack(
    name="random",
    needs=Access.LABELS,
    paper="Hooker et al., 2019, A Benchmark for Interpretability Methods in Deep Neural Networks, arXiv:1806.10758",
    cost=lambda classes: Cost(0),
)
def random_map(model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng) -> Tensor:
    """Every pixel's weight drawn by itself, uniform in (0, 1)."""
    return rng.uniform(*x.shape[-2:])
