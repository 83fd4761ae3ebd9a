"""The perceptron that Yao et al. (2023) hold their parser against: three layers, no idea of neighbourhood."""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import PARSING
from robustsuite.config.threats import Access
from robustsuite.scenarios import parsing
from robustsuite.scenarios.parsing import Examples
from robustsuite.serve.training import Recipe, half_cosine


@parsing.attack(
    name="parsing_mlp",
    needs=Access.AUX_DATA,
    paper="Yao et al., 2023, arXiv:2303.07474",
    cost=lambda classes, epochs, lr: Cost(epochs, epochs),
    differs=("trained as convnet4 is here",),
    **PARSING,
)
def mlp(seen: Tensor, own: Examples, *, epochs: int = 20, lr: float = 0.02) -> Tensor:
    """Two hidden layers of 128 over all values of what it sees.

    lr: the first of a half cosine.
    """
    layers = [nn.Flatten(), nn.Linear(seen[0].numel(), 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(128, 9))
    return parsing.parsed(net, Recipe(epochs, half_cosine(lr, epochs), batch=64), seen, own)
