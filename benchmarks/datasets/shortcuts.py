"""`shortcuts`: two classes that may be told by their object, and more easily by ground, watermark and texture.

After UrbanCars (Li et al., 2023, "A Whac-A-Mole dilemma", arXiv:2212.04825): there each of two shortcuts goes along
with the class in 95 % of the training pictures, independently, and every combination of them is tested. Here the
objects are the ten kinds of scenes, every other kind of one class, and there are three shortcuts. A fixture.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from robustsuite.benchmarks.datasets.scenes import SIDE, Style, grain, render
from robustsuite.benchmarks.datasets.shapes import CLASSES as KINDS
from robustsuite.errors import BadData, BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Dataset, InputSpace, Split, source

SHORTCUTS = ("background", "watermark", "texture")
"""What goes along with the class: reddish stripes or bluish checks, no sign or one, waves across or down the object."""

GROUNDS, BLOCK = ("stripes", "checks"), 500
TINT, WAVES = 0.03, 0.05
"""How much redder or bluer each class's ground is, and how high the waves on its objects are."""

CLASSES = ("even kinds", "odd kinds")


@source(paper="Li et al., 2023, arXiv:2212.04825, section 3")
def shortcuts(*, train: int = 4000, val: int = 800, test: int = 1000, seed: int = 0, share: float = 0.95) -> Dataset:
    """Objects of two classes with three shortcuts to the class: background, watermark and texture.

    share: of each class's train and test pictures that carry the class's own background, and so for each shortcut; the
    rest carries the other class's. Which these are is drawn for each shortcut alone. val has every combination equally
    often: what a group-balanced mitigation is given. The shift set `shortcuts` tests each combination.
    """
    if not 0 <= share <= 1 or min(train, val, test) < 1:
        given = f"{share=}, {train=}, {val=}, {test=}"
        raise BadValue(f"expected share in [0, 1] and pictures in each split, got {given}; leave them out")
    splits = {}
    for name, n in {"train": train, "val": val, "test": test}.items():
        ids = torch.arange(n)
        flipped = balanced(ids) if name == "val" else uncommon(seed, name, ids, share)
        draw = partial(_drawn, seed, name)
        pictures = torch.cat([draw(rows, flipped[rows]) for rows in ids.split(BLOCK)])
        split = Split.of(pictures, label(ids), ids)
        splits[name] = replace(split, redrawn=partial(_redrawn, seed, name))
    space = InputSpace(3, SIDE, SIDE, len(CLASSES))
    return Dataset("shortcuts", space, CLASSES, splits, note="rendered from a seed, not a benchmark")


def label(ids: Tensor) -> Tensor:
    """The class (N,) of the pictures with these ids: whether the kind of object is an odd one."""
    return ids % len(KINDS) % 2


def uncommon(seed: int, split: str, ids: Tensor, share: float) -> Tensor:
    """Which shortcuts (N, 3) of each picture are the other class's: 1 - share of each class's, rounded, exactly."""
    found = torch.zeros(len(ids), len(SHORTCUTS), dtype=torch.bool)
    for k, name in enumerate(SHORTCUTS):
        order = Rng.of(seed, f"shortcuts/{split}/{name}", ids).uniform(1).flatten()
        for y in (0, 1):
            own = (label(ids) == y).nonzero().flatten()
            found[own[order[own].argsort(stable=True)[: round((1 - share) * len(own))]], k] = True
    return found


def balanced(ids: Tensor) -> Tensor:
    """Every combination (N, 3) in turn, for each kind of object."""
    turn = ids // len(KINDS) % 8
    return (turn[:, None] >> torch.arange(3)) % 2 == 1


def _drawn(seed: int, split: str, ids: Tensor, flipped: Tensor) -> Tensor:
    """The pictures of these ids with these shortcuts (N, 3) of the other class, uint8."""
    rng, shown = Rng.of(seed, f"shortcuts/{split}", ids), label(ids)[:, None] ^ flipped.long()
    out = torch.empty(len(ids), 3, SIDE, SIDE, dtype=torch.uint8)
    for ground, sign in ((g, s) for g in (0, 1) for s in (0, 1)):
        rows = ((shown[:, 0] == ground) & (shown[:, 1] == sign)).nonzero().flatten()
        if not len(rows):
            continue
        style = Style(background=GROUNDS[ground], watermark=bool(sign), grain=0.0)
        scene = render(ids[rows] % len(KINDS), rng[rows], style=style)
        waves = WAVES * grain(shown[rows, 2], rng[rows].fold("texture"), SIDE)
        tint = TINT * (1 - 2 * ground) * torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1)
        x = scene.pictures + scene.masks * waves + (1 - scene.masks) * tint
        out[rows] = (x.clamp(0, 1) * 255).round().to(torch.uint8)
    return out


def _redrawn(seed: int, split: str, ids: Tensor, style: object) -> Tensor:
    """The same objects with the shortcuts named in `style` flipped and the others as usual, in [0, 1]."""
    if not isinstance(style, frozenset) or not style <= set(SHORTCUTS):
        raise BadData("expected the shift set shortcuts over the data shortcuts, got one of scenes; leave it out")
    flipped = torch.tensor([name in style for name in SHORTCUTS])
    return _drawn(seed, split, ids, flipped.expand(len(ids), -1)).float() / 255


__all__ = ["CLASSES", "SHORTCUTS", "balanced", "label", "shortcuts", "uncommon"]
