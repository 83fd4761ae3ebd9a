"""What backdoor attacks share: who is poisoned, procedural trigger pictures, patches.

Published triggers are other people's pictures; ours are drawn from a seed, of the same size, place and opacity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.config.threats import PoisonRate
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.adversary import Poisoned, Trigger, chosen, overlay
from robustsuite.serve.data import Split


def planted(
    train: Split, rate: PoisonRate, target: int, trigger: Trigger, rng: Rng, *, test: Trigger | None = None,
    among: Tensor | None = None, covers: Tensor | None = None, cover: float = 0.0, cover_trigger: Trigger | None = None,
    source: int | None = None,
) -> Poisoned:  # fmt: skip
    """Triggered examples labelled `target`, and `cover` times as many that keep their label (covers).

    among, covers: positions (M,) to draw from; by default every example, and every example of another class.
    test: the trigger shown at test time, `trigger` itself by default. Raises BadValue where there are too few.
    """
    everyone = torch.arange(len(train))
    poisoned = chosen(rng.fold("poison"), everyone if among is None else among, rate.most(len(train)))
    others = (train.y != target).nonzero().flatten() if covers is None else covers
    others = others[~torch.isin(others, poisoned)]
    kept = chosen(rng.fold("cover"), others, round(cover * len(poisoned)))
    pictures = [_stamped(train, poisoned, trigger, rng), _stamped(train, kept, cover_trigger or trigger, rng)]
    y = torch.cat([torch.full((len(poisoned),), target), train.y[kept]])
    made = overlay(train, torch.cat([poisoned, kept]), torch.cat(pictures), y)
    return Poisoned(made, poisoned, test or trigger, source, kept)


def clean_label(train: Split, rate: PoisonRate, target: int, trigger: Trigger, rng: Rng) -> Poisoned:
    """Triggered examples of the target class itself, labels kept; at most the whole class."""
    own = (train.y == target).nonzero().flatten()
    if not len(own):
        raise BadValue(f"expected training examples of the target class {target}, got none; choose another target")
    rows = chosen(rng.fold("poison"), own, min(rate.most(len(train)), len(own)))
    pictures = _stamped(train, rows, trigger, rng)
    return Poisoned(overlay(train, rows, pictures, train.y[rows]), rows, trigger)


def _stamped(train: Split, rows: Tensor, trigger: Trigger, rng: Rng, size: int = 1024) -> Tensor:
    parts = [trigger(train.images(r), train.ids[r], rng[r].fold("trigger")) for r in rows.split(size)]
    return torch.cat(parts).clamp(0, 1)


def picture(seed: int, channels: int, height: int, width: int, cells: int = 8) -> Tensor:
    """A smooth colourful picture (C, H, W) in [0, 1] from a seed: noise on `cells` x `cells`, bicubic between."""
    noise = Rng.of(seed, "picture", torch.zeros(1)).normal(channels, cells, cells)
    return functional.interpolate(noise, (height, width), mode="bicubic", align_corners=True)[0].sigmoid()


def tiles(seed: int, channels: int, size: int, cells: int = 4) -> Tensor:
    """A patch (C, size, size) of flat, saturated tiles from a seed."""
    colours = (Rng.of(seed, "tiles", torch.zeros(1)).uniform(channels, cells, cells) > 0.5).float()
    return functional.interpolate(colours, (size, size), mode="nearest")[0]


def patched(
    x: Tensor, patch: Tensor, row: int, column: int, opacity: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Pictures (N, C, H, W) with `patch` (C, h, w) blended in at (row, column), counted from the end if negative.

    mask: (h, w), where the patch is solid. Raises BadValue where it does not fit.
    """
    height, width = x.shape[2:]
    top, left = row % height, column % width
    h, w = patch.shape[1:]
    if top + h > height or left + w > width:
        raise BadValue(f"expected pictures that hold a {h}x{w} patch at ({row}, {column}), got {height}x{width}")
    out, window = x.clone(), x[:, :, top : top + h, left : left + w]
    share = opacity if mask is None else opacity * mask.to(x)
    out[:, :, top : top + h, left : left + w] = window + share * (patch.to(x) - window)
    return out


def corners(x: Tensor, opacity: float = 1.0) -> Tensor:
    """The 3 x 3 checkers of `checker` in all four corners."""
    patch = checker(x.shape[1])
    for row, column, turned in ((0, 0, (1, 2)), (0, -3, (1,)), (-3, 0, (2,)), (-3, -3, ())):
        x = patched(x, patch.flip(turned) if turned else patch, row, column, opacity)
    return x


def checker(channels: int) -> Tensor:
    """3 x 3, white at (0, 2), (1, 1), (2, 0), (2, 2), else black (C, 3, 3)."""
    return torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 1]]).expand(channels, 3, 3)
