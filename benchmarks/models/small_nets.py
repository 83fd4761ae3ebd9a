"""Small classifiers, written from their papers' tables; each is a function of the input space.

Parameter names are those under which public weights of these nets are exchanged, so `checkpoint:` loads them.
`ARCHITECTURES` lists them by the name that `arch=` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.benchmarks.models.mobilenet import mobilenet_v1
from robustsuite.benchmarks.models.tiny_nets import tiny_conv, tiny_deep, tiny_res
from robustsuite.errors import UnknownName
from robustsuite.serve.data import InputSpace


def conv_net(
    space: InputSpace, *, filters: Sequence[int], hidden: Sequence[int], kernel: int = 4, stride: int = 2, pad: int = 1
) -> nn.Sequential:
    """Convolutions with ReLU, then fully connected layers with ReLU between them, as one nn.Sequential."""
    layers: list[nn.Module] = []
    width, height, across = space.channels, space.height, space.width
    for out in filters:
        layers += [nn.Conv2d(width, out, kernel, stride, pad), nn.ReLU()]
        width, height, across = out, *((side + 2 * pad - kernel) // stride + 1 for side in (height, across))
    sizes = [width * height * across, *hidden, space.classes]
    layers.append(nn.Flatten())
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut and no batch-norm; the shortcut is a strided 1x1 where the shape changes."""

    def __init__(self, before: int, after: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride)) if first else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class PlainResNet(nn.Module):
    """The batch-norm-free ResNets of the verification competitions (VNN-COMP 2021), `stages` of two blocks each."""

    def __init__(self, space: InputSpace, width: int, stages: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(space.channels, width, 3, 2, 1)
        before, side = width, (-(-space.height // 2), -(-space.width // 2))
        for stage in range(1, stages + 1):
            blocks = (PlainBlock(before, 2 * width, 2, True), PlainBlock(2 * width, 2 * width, 1, False))
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            before, side = 2 * width, (-(-side[0] // 2), -(-side[1] // 2))
        self.stages = stages
        self.linear1 = nn.Linear(before * side[0] * side[1], 100)
        self.linear2 = nn.Linear(100, space.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """He et al.'s basic block; the shortcut without parameters subsamples and pads channels with zeros (option A)."""

    pick: Tensor | None

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride = stride
        # A fixed 1x1 convolution says "subsample, pad channels" in an operation that bounds can be propagated through.
        pick = torch.zeros(after, before, 1, 1)
        pick[torch.arange(before) + (after - before) // 2, torch.arange(before)] = 1.0
        self.register_buffer("pick", pick if stride > 1 or after > before else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.pick is None else F.conv2d(x, self.pick, stride=self.stride)))


class CifarResNet(nn.Module):
    """The CIFAR ResNets (He et al., 2015, arXiv:1512.03385, section 4.2): 3 stages of n blocks, 6n + 2 layers."""

    def __init__(self, space: InputSpace, n: int, widths: Sequence[int] = (16, 32, 64), stem: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(space.channels, widths[0], 3, stem, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, width in enumerate(widths, 1):
            strides = [1 if stage == 1 else 2] + [1] * (n - 1)
            blocks = [Block(before if i == 0 else width, width, s) for i, s in enumerate(strides)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            before = width
        self.stages = len(widths)
        self.linear = nn.Linear(before, space.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A transformer block with batch-norm over features and a ReLU MLP; every map named apart."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm1(x.mT).mT
        q, k, v = (f(z).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x.mT).mT)))  # type: ignore[no-any-return]


class SmallViT(nn.Module):
    """The small vision transformers of the verification competitions (VNN-COMP 2023), mean over all tokens."""

    def __init__(self, space: InputSpace, patch: int = 16, depth: int = 2, width: int = 48, heads: int = 3) -> None:
        super().__init__()
        tokens = (space.height // patch) * (space.width // patch)
        self.patch_embed = nn.Conv2d(space.channels, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(tokens + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Attention(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, space.classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens).mean(1)))  # type: ignore[no-any-return]


class LeNet5(nn.Module):
    """Two 3x3 convolutions with max-pooling and a hidden layer of 200 (LeCun et al., 1998, as used for MNIST)."""

    def __init__(self, space: InputSpace) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(space.channels, 32, 3, 1, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1, 1)
        self.linear1 = nn.Linear(64 * (space.height // 4) * (space.width // 4), 200)
        self.linear2 = nn.Linear(200, space.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))  # type: ignore[no-any-return]


def resnet18_cifar(space: InputSpace) -> nn.Module:
    """torchvision's ResNet-18 with the stem for 32x32 pictures: a 3x3 convolution, no pooling."""
    from torchvision.models import resnet18  # takes over a second to load

    net: nn.Module = resnet18(weights=None, num_classes=space.classes)
    net.conv1 = nn.Conv2d(space.channels, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net


def scenes_resnet(space: InputSpace) -> nn.Module:
    """Our own fast ResNet-8 for the embedded scenes: strided stem, stages of 16, 32 and 64 filters."""
    return CifarResNet(space, 1, widths=(16, 32, 64), stem=2)


def attributed(space: InputSpace, kernel: int, activation: type[nn.Module], width: int = 16) -> nn.Sequential:
    """Three convolutions of one size with batch-norm and one activation, as model parsing tells them apart."""
    layers: list[nn.Module] = []
    before = space.channels
    for out, stride in ((width, 2), (2 * width, 2), (2 * width, 1)):
        layers += [nn.Conv2d(before, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), activation()]
        before = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, space.classes))


Architecture = Callable[[InputSpace], nn.Module]

ARCHITECTURES: dict[str, Architecture] = {
    "resnet2b": partial(PlainResNet, width=8, stages=1),
    "resnet4b": partial(PlainResNet, width=16, stages=2),
    "cnn_a": partial(conv_net, filters=(16, 32), hidden=(100,)),
    "cnn_base": partial(conv_net, filters=(8, 16), hidden=(100,)),
    "conv_small": partial(conv_net, filters=(16, 32), hidden=(100,), pad=0),
    "conv_medium": partial(conv_net, filters=(16, 32), hidden=(128, 64), pad=0),
    "conv_large": partial(conv_net, filters=(32, 64), hidden=(128, 64), pad=0),
    "cnn_2c2f": partial(conv_net, filters=(4, 4), hidden=(32,), kernel=3, stride=1, pad=0),
    "lenet5": LeNet5,
    "cifar_resnet20": partial(CifarResNet, n=3),
    "cifar_resnet32": partial(CifarResNet, n=5),
    "cifar_resnet44": partial(CifarResNet, n=7),
    "resnet18_cifar": resnet18_cifar,
    "small_vit": SmallViT,
    "scenes_resnet": scenes_resnet,
    "tiny_conv": tiny_conv,
    "tiny_deep": tiny_deep,
    "tiny_res": tiny_res,
    "mobilenetv1_025": partial(mobilenet_v1, width=0.25),
    "mobilenetv1_050": partial(mobilenet_v1, width=0.5),
    "mobilenetv1_100": partial(mobilenet_v1, width=1.0),
    **{f"cnn_{kernel}_{activation.__name__.lower()}": partial(attributed, kernel=kernel, activation=activation)
       for kernel in (3, 5, 7) for activation in (nn.ReLU, nn.Tanh, nn.ELU)},
}


def build(name: str, space: InputSpace) -> nn.Module:
    """The architecture of this name, untrained; raises UnknownName with the nearest."""
    if name not in ARCHITECTURES:
        raise UnknownName("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name](space)
