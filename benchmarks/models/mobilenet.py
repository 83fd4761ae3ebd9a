"""MobileNet v1 (Howard et al., 2017, arXiv:1704.04861, table 1) with TensorFlow's SAME padding, at any width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.serve.data import InputSpace

OUTPUTS = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


class SamePadded(nn.Conv2d):
    """A convolution that pads to ceil(side / stride) outputs, the odd row and column at the bottom and right."""

    def forward(self, x: Tensor) -> Tensor:
        total = [
            max((-(-side // s) - 1) * s + k - side, 0)
            for side, s, k in zip(x.shape[-2:], self.stride, self.kernel_size, strict=True)
        ]
        (top, bottom), (left, right) = ((t // 2, t - t // 2) for t in total)
        return super().forward(F.pad(x, (left, right, top, bottom)))


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise 1x1 convolution, each with batch-norm and ReLU6."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SamePadded(before, before, 3, stride, groups=before, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.conv_pw = nn.Conv2d(before, after, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x))))))


class MobileNetV1(nn.Module):
    """Stem, 13 separable blocks in five groups, global average, one linear layer."""

    def __init__(self, space: InputSpace, width: float) -> None:
        super().__init__()
        before = int(32 * width)
        self.conv_stem = SamePadded(space.channels, before, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        groups = []
        for i, outputs in enumerate(OUTPUTS):
            blocks = []
            for j, out in enumerate(outputs):
                blocks.append(Separable(before, int(out * width), 2 if i and j == 0 else 1))
                before = int(out * width)
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.classifier = nn.Linear(before, space.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.bn1(self.conv_stem(x))))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


def mobilenet_v1(space: InputSpace, width: float = 1.0) -> nn.Module:
    """MobileNet v1 with all channels times `width`."""
    return MobileNetV1(space, width)
