"""Tiny systems with known answers, shared by the tests of the core."""

import torch
from torch import Tensor, nn

from robustsuite.config.registry import Card
from robustsuite.engine import provenance
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, ready, weights_sha256
from robustsuite.serve.system import System

SPACE = InputSpace(1, 4, 4, 3)


def linear(seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Three classes over 1 x 4 x 4 pictures, z = W x + b."""
    head = nn.Linear(16, 3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(scale * torch.randn(3, 16, generator=generator))
        head.bias.copy_(scale * 0.1 * torch.randn(3, generator=generator))
    return ready(nn.Sequential(nn.Flatten(), head))


def pictures(n: int = 24, seed: int = 1) -> Tensor:
    """(n, 1, 4, 4) uniform in [0.2, 0.8], so that small steps stay off the box."""
    return 0.2 + 0.6 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def labelled(net: nn.Module, n: int = 24, wrong: int = 4) -> Split:
    """Pictures with the net's own answers as labels, the last `wrong` of them mislabelled."""
    x = pictures(n)
    with torch.no_grad():
        y = net(x).argmax(1)
    if wrong:
        y[-wrong:] = (y[-wrong:] + 1) % 3
    return Split.of(x, y)


def system(net: nn.Module, **facts: object) -> System:
    """The net served as it is."""
    return System(net, SPACE, **facts)  # type: ignore[arg-type]


def lifecycle(net: nn.Module, split: Split) -> Lifecycle:
    """A pretrained toy with its test split."""
    data = Dataset("toy", SPACE, ("a", "b", "c"), {"test": split})
    return Lifecycle(Model("toy", net, SPACE, weights_sha256(net)), data)


def present(card: Card) -> bool:
    """Whether the package that a plugin needs is here."""
    return not card.requires or provenance.installed(card.requires) is not None
