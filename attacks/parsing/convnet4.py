"""ConvNet-4, the parser of Yao et al. (2023): four convolutions, and three values of three attributes from a head."""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import PARSING
from robustsuite.config.threats import Access
from robustsuite.scenarios import parsing
from robustsuite.scenarios.parsing import Examples
from robustsuite.serve.training import Recipe, half_cosine


@parsing.attack(
    needs=Access.AUX_DATA,
    paper="Yao et al., 2023, arXiv:2303.07474",
    cost=lambda classes, epochs, lr, width: Cost(epochs, epochs),
    differs=(
        "what it sees is divided by its root mean square, so that what is learnt at one radius holds at another",
        "the authors' code keeps the epoch that is best on the test pictures; here the last one counts",
        "SGD with Nesterov's momentum and batches of 64 for 20 epochs; theirs is without, batches of 512, 100 epochs",
    ),
    **PARSING,
)
def convnet4(seen: Tensor, own: Examples, *, epochs: int = 20, lr: float = 0.1, width: int = 64) -> Tensor:
    """Four convolutions with batch norm and pooling, two layers, a cross-entropy for each attribute.

    lr: the first of a half cosine. width: filters of each convolution.
    """
    channels, height, across = seen.shape[1:]
    layers: list[nn.Module] = []
    for before in (channels, width, width, width):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                   nn.MaxPool2d(2, ceil_mode=True)]  # fmt: skip
    values = width * -(-height // 16) * -(-across // 16)
    layers += [nn.Flatten(), nn.Linear(values, 128), nn.Linear(128, 9)]
    return parsing.parsed(nn.Sequential(*layers), Recipe(epochs, half_cosine(lr, epochs), batch=64), seen, own)
