"""One file that brings an attack and a defense: all that a plugin needs."""

from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.losses import cross_entropy
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve import stages
from robustsuite.serve.oracle import Oracle


@evasion.attack(
    needs=Access.GRADIENTS,
    norms=("linf", "l2"),
    paper="Goodfellow et al., 2014, arXiv:1412.6572",
    cost=lambda classes, steps: Cost(steps, steps),
)
def straight(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, steps: int = 2) -> Tensor:
    """Steps of the whole budget along the gradient's sign, projected."""
    x_adv = x
    for _ in range(steps):
        ask = model.gradient(x_adv, lambda z: cross_entropy(z, y))
        x_adv = budget.project(x, x_adv + budget.eps * ask.grad.sign())
    return x_adv


@stages.serve(paper="Xu et al., 2017, arXiv:1704.01155")
def shrink(net: nn.Module, *, factor: float = 0.5) -> nn.Module:
    """Contrast reduced about grey before the network looks."""

    class Shrunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(0.5 + factor * (x - 0.5))
            return out

    return Shrunk()
