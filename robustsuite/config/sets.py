"""Every set of pictures that a threat may allow, by name: balls of a norm, parts of a picture, renderings.

A patch and a frame may hold anything, and are read from pixels: where x_adv differs from x is all that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustsuite.config.threats import BALLS, Near, parse_number
from robustsuite.config.transforms import KINDS, Allowed
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.randomness import Rng


def _changed(x: Tensor, x_adv: Tensor) -> Tensor:
    """Which pixels (N, H, W) differ in any channel."""
    return (x_adv != x).any(1)


@dataclass(frozen=True)
class Patch(Near):
    """One square of at most the share eps of a picture holds anything (Brown et al., 2017; LaVAN, 2018)."""

    norm: ClassVar[str] = "patch"
    tolerance: ClassVar[float] = 1e-9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps > 1:
            raise BadValue(f"expected a share of the picture as eps of a patch, got {self.eps!r}; write 0.05")

    def side(self, x: Tensor) -> int:
        """The side of the square in pixels, on pictures like x (N, C, H, W)."""
        height, width = x.shape[2:]
        return min(height, width, math.floor(math.sqrt(self.eps * height * width) + 1e-9))

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The share (N,) float64 of the picture that the smallest square around all changed pixels has."""
        changed, sides = _changed(x, x_adv), []
        for axis in (1, 2):
            line = changed.any(3 - axis)
            place = torch.arange(line.shape[1], device=x.device)
            last, first = (torch.where(line, place, -1).amax(1), torch.where(line, place, len(place)).amin(1))
            sides.append((last - first + 1).clamp_min(0))
        return torch.maximum(*sides).double().square() / (x.shape[2] * x.shape[3])

    def mask(self, x: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The pixels (N, 1, H, W) of the square whose first row and column (N,) these are."""
        inside = []
        for place, n in ((row, x.shape[2]), (column, x.shape[3])):
            at = torch.arange(n, device=x.device)
            inside.append((at >= place[:, None]) & (at < place[:, None] + self.side(x)))
        return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]

    def heaviest(self, weight: Tensor) -> Tensor:
        """The square (N, 1, H, W) that holds most of the weight (N, C, H, W), no value of which is below 0."""
        side = self.side(weight)
        sums = pad(weight.double().sum(1).cumsum(1).cumsum(2), (1, 0, 1, 0))
        across = sums[:, :, side:] - sums[:, :, : sums.shape[2] - side]
        mass = across[:, side:] - across[:, : across.shape[1] - side]
        best = mass.flatten(1).argmax(1)
        return self.mask(weight, best // mass.shape[2], best % mass.shape[2])

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The square where most is changed, clipped to the box; x elsewhere."""
        inside = x_adv.clamp(0, 1)
        return torch.where(self.heaviest((inside - x).square()), inside, x)

    def place(self, x: Tensor, rng: Rng) -> Tensor:
        """A square (N, 1, H, W), drawn."""
        row, column = (
            rng.fold(name).integers(n - self.side(x) + 1, 1).flatten()
            for name, n in (("row", x.shape[2]), ("column", x.shape[3]))
        )
        return self.mask(x, row, column)

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """Uniform values in a square that is drawn."""
        return torch.where(self.place(x, rng), rng.fold("values").uniform(*x.shape[1:]), x)


@dataclass(frozen=True)
class Frame(Near):
    """A border of eps pixels holds anything (Zajac et al., 2019, "Adversarial framing", arXiv 1812.04599)."""

    norm: ClassVar[str] = "frame"

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """How many pixels (N,) float64 from the border the innermost changed one stands; 1 at the border."""
        return (_changed(x, x_adv) * self._depth(x)).flatten(1).amax(1).double()

    def heaviest(self, weight: Tensor) -> Tensor:
        """The pixels (N, 1, H, W) of the frame, which are the same whatever the weight (N, C, H, W)."""
        return (self._depth(weight) <= self.eps).expand(len(weight), 1, -1, -1)

    def place(self, x: Tensor, rng: Rng) -> Tensor:
        """The same: there is but one."""
        return self.heaviest(x)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The frame's pixels, clipped to the box; x elsewhere."""
        return torch.where(self.heaviest(x), x_adv.clamp(0, 1), x)

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """Uniform values in the frame."""
        return self.project(x, rng.fold("values").uniform(*x.shape[1:]))

    @staticmethod
    def _depth(x: Tensor) -> Tensor:
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
        down, across = (torch.minimum(at, at.flip(0)) + 1 for at in (rows, columns))
        return torch.minimum(down[:, None], across[None, :])


REGIONS: Mapping[str, type[Patch] | type[Frame]] = {"patch": Patch, "frame": Frame}
RENDERED = {kind.norm: kind for kind in KINDS}
"""The sets of `transforms`, by name."""

BEYOND = (*REGIONS, *RENDERED)
"""The names of all that are no ball of a norm."""

NAMES = (*BALLS, *BEYOND)


def parse_set(name: str, eps: object) -> Allowed:
    """A budget from the name of a norm or of another set, and an eps such as '8/255'. Raises UnknownName, BadValue."""
    known = {**BALLS, **REGIONS, **RENDERED}
    if name not in known:
        raise UnknownName("budget", name, [*NAMES, "queries"])
    return known[name](parse_number(eps, f"the {name} budget"))
