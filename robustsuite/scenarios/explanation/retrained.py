"""DiffROAR: what a network trained anew learns of the pixels that a map ranks first, minus those it ranks last.

Shah et al. (2021, "Do input gradients highlight discriminative features?", NeurIPS, arXiv:2102.12781): in train and
test pictures alike only the first share of the pixels is kept, the others become the data's mean colour; the same
architecture is trained on these, and once more on the last share. Positive: what can be learnt from is ranked first.
The paper ranks single channel values; here a pixel's channels go together, as maps have one value a pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import ranks
from robustsuite.serve.data import Split, in_unit
from robustsuite.serve.judge import Judge

MEAN = 1000
"""Train pictures whose mean colour is the data's."""

Maps = Callable[[Tensor, Tensor, Rng], Tensor]
"""(pictures (N, C, H, W), labels (N,), streams) -> maps (N, H, W)."""

Trained = Callable[[Split, Split], nn.Module]
"""(train, val) -> the same architecture, trained by the same recipe on these."""


def diffroar(
    maps: Maps, trained: Trained, splits: tuple[Split, Split, Split], share: float, seed: int, *, width: int,
    device: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Whether (N,) each test picture is answered right from its first, and from its last, `share` of the pixels.

    splits: train, val and the pictures that are judged.
    """
    train = splits[0]
    mean = train.images(torch.arange(min(MEAN, len(train)))).mean((0, 2, 3))
    placed = [_placed(maps, split, Rng.of(seed, f"diffroar/{k}", split.ids).to(device), width, device)
              for k, split in enumerate(splits)]  # fmt: skip
    right = []
    for first in (True, False):
        kept = [_kept(split, places, mean, share, first) for split, places in zip(splits, placed, strict=True)]
        judge = Judge(trained(kept[0], kept[1]), stochastic=False, width=width)
        streams = Rng.of(seed, "diffroar/judge", kept[2].ids).to(device)
        right.append(torch.cat([judge(x, y, streams[i]).held.cpu() for i, x, y in kept[2].batches(width, device)]))
    return right[0], right[1]


def _placed(maps: Maps, split: Split, rng: Rng, width: int, device: str) -> Tensor:
    """The place (N, H*W) of each pixel of every picture in the order of its map."""
    parts = [ranks(maps(x, y, rng[i]), rng[i].fold("ties")).cpu() for i, x, y in split.batches(width, device)]
    return torch.cat(parts)


def _kept(split: Split, places: Tensor, mean: Tensor, share: float, first: bool) -> Split:
    """The pictures with the first, or the last, share of their pixels; the others become the data's mean colour."""
    n, pixels = places.shape
    many = max(1, round(share * pixels))
    keep = places < many if first else places >= pixels - many
    x = split.images(torch.arange(n))
    shown = torch.where(keep.view(n, 1, *x.shape[-2:]), x, mean.view(1, -1, 1, 1))
    pictures = (shown * 255).round().to(torch.uint8)
    tag = hashlib.sha256(split.sha256.encode() + keep.numpy().tobytes()).hexdigest()
    return replace(split, images=lambda p: in_unit(pictures[p]), sha256=tag, stages=None, redrawn=None, masks=None)
