"""`blocks`: a digit beside a block that says nothing, so that it is known where an explanation may not lie.

After BlockMNIST of Shah et al. (2021, "Do input gradients highlight discriminative features?", arXiv:2102.12781), with
scikit-learn's digits in place of MNIST's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Dataset, InputSpace, Split, source

SIDE = 8
"""Pixels of a block's side."""


@source(
    paper="Shah et al., 2021, arXiv:2102.12781",
    differs=("digits of 8 x 8 pixels from scikit-learn, and a null block of ours, a frame with a cross",),
)
def blocks(*, seed: int = 0) -> Dataset:
    """Digits of 8 x 8 above or below a block that is the same in every picture: 16 x 8, one channel; object: the digit.

    Which of the two is above is drawn by the picture's own stream, so a network must find the digit first.
    """
    plain = digits(seed=seed)
    splits = {name: _stacked(split, seed) for name, split in plain.splits.items()}
    return Dataset("blocks", InputSpace(1, 2 * SIDE, SIDE, 10), plain.classes, splits,
                   note="digits beside a block that says nothing")  # fmt: skip


def null_block() -> Tensor:
    """What says nothing (8, 8): a frame with a cross, about as bright as a digit."""
    block, at = torch.zeros(SIDE, SIDE), torch.arange(SIDE)
    block[[0, -1]], block[:, [0, -1]] = 0.6, 0.6
    block[at, at], block[at, SIDE - 1 - at] = 0.6, 0.6
    return block


def _stacked(split: Split, seed: int) -> Split:
    """The same digits, each above or below the null block."""
    digit, above = split.images(torch.arange(len(split))), _above(seed, split.ids)
    null = null_block().expand_as(digit)
    first = torch.where(above[:, None, None, None], digit, null)
    last = torch.where(above[:, None, None, None], null, digit)
    return replace(Split.of(torch.cat([first, last], 2), split.y, split.ids), masks=partial(_masks, seed))


def _above(seed: int, ids: Tensor) -> Tensor:
    """Whether (N,) the digit stands above."""
    return Rng.of(seed, "blocks", ids).uniform() < 0.5


def _masks(seed: int, ids: Tensor) -> Tensor:
    """Where (N, 16, 8) the digits' blocks are."""
    above = _above(seed, ids)[:, None, None].float()
    return torch.cat([above.expand(-1, SIDE, SIDE), (1 - above).expand(-1, SIDE, SIDE)], 1)
