"""CUDA: each class blurred by a kernel of its own, from a private key (Sadasivan et al., 2023, arXiv:2303.04278).

The kernels are bit-compatible with the authors' private keys: numpy's legacy generator, 3 k k draws a class of which
the first k k are used, then the row and column of the one entry that is set to 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.config.taxonomy import UNLEARNABLE
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import unlearnable
from robustsuite.serve.adversary import Poisoned, chosen, overlay
from robustsuite.serve.data import Split


def kernels(key: int, classes: int, k: int, p_b: float) -> Tensor:
    """One k x k kernel a class (classes, k, k), float32, from the private key."""
    legacy = np.random.RandomState(key)  # the published keys are seeds of this generator
    made = []
    for _ in range(classes):
        w = legacy.uniform(0, p_b, (3, 1, k, k))[0, 0]
        w[legacy.randint(k), legacy.randint(k)] = 1.0
        made.append(torch.from_numpy(w).float())
    return torch.stack(made)


def blurred(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Pictures (N, C, H, W) under their classes' kernels, divided by their own largest value, in whole grey levels."""
    n, c, height, width = x.shape
    filters = w.to(x)[y].repeat_interleave(c, 0)[:, None]
    out = functional.conv2d(x.reshape(1, n * c, height, width), filters, padding=w.shape[1] // 2, groups=n * c)
    out = out.view(n, c, *out.shape[2:])[:, :, :height, :width]
    top = out.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return (out / top * 255).clamp(0, 255).floor() / 255


@unlearnable.attack(
    needs=Access.TRAIN_SET,
    paper="Sadasivan et al., 2023, arXiv:2303.04278",
    **UNLEARNABLE,
    differs=("which examples are poisoned at a rate below 1 is drawn from the cell's streams, not from the key's",),
)
def cuda(train: Split, rate: PoisonRate, *, rng: Rng, key: int = 0, k: int = 3, p_b: float = 0.3) -> Poisoned:
    """Class-wise convolution with a random k x k kernel: entries uniform in [0, p_b], one of them 1; labels stay.

    key: the private key, a seed. Raises BadValue for an even k.
    """
    if k % 2 == 0:
        raise BadValue(f"expected an odd kernel size, got {k!r}; write 3")
    w = kernels(key, int(train.y.max()) + 1, k, p_b)
    rows = chosen(rng, torch.arange(len(train)), rate.most(len(train)))
    made = torch.cat([blurred(train.images(part), train.y[part], w) for part in rows.split(512)])
    return Poisoned(overlay(train, rows, made, train.y[rows]), rows)
