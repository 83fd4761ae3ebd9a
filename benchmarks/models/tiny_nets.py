"""Networks of a few thousand weights for pictures of 16 pixels: hundreds of them are trained in minutes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Normalised


def _centred(net: nn.Module, space: InputSpace) -> nn.Module:
    """The network on pictures around 0: from [0, 1] the smallest of these nets often do not learn."""
    return Normalised(net, [0.5] * space.channels, [0.25] * space.channels)


def tiny_conv(space: InputSpace) -> nn.Module:
    """Two convolutions of 8 and 16 filters, each pooled, and one linear layer."""
    layers: list[nn.Module] = []
    before = space.channels
    for width in (8, 16):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    values = before * (space.height // 4) * (space.width // 4)
    return _centred(nn.Sequential(*layers, nn.Flatten(), nn.Linear(values, space.classes)), space)


def tiny_deep(space: InputSpace, width: int = 16) -> nn.Module:
    """Four convolutions with batch norm, the second and third strided, and a mean over what is left."""
    layers: list[nn.Module] = []
    before = space.channels
    for out, stride in ((width, 1), (width, 2), (2 * width, 2), (2 * width, 1)):
        layers += [nn.Conv2d(before, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        before = out
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, space.classes)
    return _centred(nn.Sequential(*layers, *head), space)


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm beside a shortcut (He et al., 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.relu(x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))))
        return out


def tiny_res(space: InputSpace, width: int = 16) -> nn.Module:
    """A strided stem, two residual blocks with a strided convolution between them, and a mean over what is left."""
    body = nn.Conv2d(space.channels, width, 3, 2, 1), nn.ReLU(), Residual(width)
    rest = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), Residual(2 * width)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, space.classes)
    return _centred(nn.Sequential(*body, *rest, *head), space)
