"""Small networks for bounding, and what is done to them."""

import copy

import torch
from torch import Tensor, nn

from robustsuite.config.threats import L2, Linf
from robustsuite.defenses.certifiers.lirpa import margin_bounds
from robustsuite.serve.models import Normalised

MEAN, STD = [0.3, 0.4, 0.5], [0.25, 0.25, 0.25]


class Residual(nn.Module):
    """x + conv(x), with BatchNorm, so that a bound has to meet both paths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn(self.conv(x)))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return Normalised(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), MEAN, STD).eval()


def mlp() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    return Normalised(nn.Sequential(*layers), MEAN, STD).eval()


def cnn() -> nn.Module:
    """BatchNorm with statistics, a residual block, average pooling and dropout."""
    torch.manual_seed(2)
    front = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Residual()]
    head = [
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 4),
    ]
    net = Normalised(nn.Sequential(*front, *head), MEAN, STD)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def pictures(net: nn.Module, n: int, side: int) -> tuple[Tensor, Tensor]:
    """Random pictures with a few values at the ends of [0, 1], and the network's own labels."""
    x = (torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3)) * 1.2 - 0.1).clamp(0, 1)
    with torch.no_grad():
        return x, net(x).argmax(1)


CASES = {"mlp": (mlp, 2), "cnn": (cnn, 4)}


def scaled(net: nn.Module, c: float, shift: Tensor | float = 0.0) -> nn.Module:
    """The network with its last layer's bias shifted, then its logits times c."""
    net = copy.deepcopy(net)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias += shift
        last.weight *= c
        last.bias *= c
    return net


def in_double(net: nn.Module, x: Tensor, y: Tensor, ball: Linf | L2) -> Tensor:
    """The lowest bound (N,) of each picture, computed in float64."""
    return margin_bounds(copy.deepcopy(net).double(), x.double(), y, ball).amin(1)
