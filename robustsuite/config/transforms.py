"""Sets of pictures that are rendered: x_adv = T(x, theta), theta in a box around the one that changes nothing.

Whether a picture is in such a set cannot be read from its pixels. So an attack hands back theta, the judge checks it in
float64, renders the picture itself and judges that. docs/threats.md has every set with its formula, range and paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsuite.config.threats import Ball, Sized
from robustsuite.errors import BadValue
from robustsuite.maths import colours, warping, weather
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng

TOLERANCE = 1e-6
"""Relative: float32 rounding of a theta is forgiven."""

Shape = tuple[int, int, int]
"""(C, H, W) of a picture."""


@dataclass(frozen=True)
class Transformation(Sized):
    """A set T(x, theta) of one kind; `size` says how large an eps a theta needs, so larger eps hold more.

    unit: of eps. A kind is `shape`, `apply` and, where its box is no cube around 0, `bounds` and `size`.
    """

    unit: ClassVar[str] = ""

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """Of one picture's theta."""
        raise NotImplementedError

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """T(x, theta): pictures (N, C, H, W) in [0, 1], differentiable in theta (N, *shape)."""
        raise NotImplementedError

    def bounds(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest theta, to be broadcast over theta (N, *shape), in its type."""
        return theta.new_tensor(-self.eps), theta.new_tensor(self.eps)

    def size(self, theta: Tensor) -> Tensor:
        """The least eps (N,) float64 whose set has theta; inf where none has, NaN included."""
        return _number(theta.double().flatten(1).abs().amax(1))

    def identity(self, x: Tensor) -> Tensor:
        """The theta (N, *shape) that changes nothing."""
        return x.new_zeros(len(x), *self._shape(x))

    def holds(self, theta: Tensor) -> Tensor:
        """Which (N,) are in the set, read in float64."""
        return self.size(theta) <= self.eps * (1 + TOLERANCE)

    def project(self, theta: Tensor) -> Tensor:
        """theta cut to its bounds."""
        low, high = self.bounds(theta)
        return torch.minimum(torch.maximum(theta, low), high)

    def draw(self, x: Tensor, rng: Rng) -> Tensor:
        """theta (N, *shape), uniform in the set."""
        still = self.identity(x)
        low, high = self.bounds(still)
        return self.project(low + (high - low) * rng.uniform(*still.shape[1:]))

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """A picture of the set for each of x (N, C, H, W), of a theta that is drawn."""
        return self.apply(x, self.draw(x, rng))

    def rendered(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a judge makes of x and theta: pictures, whether theta is in the set, its size; x itself where it is not.

        Raises ValueError for a theta of another shape.
        """
        theta, wanted = theta.detach().to(x.device), (len(x), *self._shape(x))
        if theta.shape != wanted:
            raise ValueError(f"expected theta of shape {wanted} for {self}, got {tuple(theta.shape)}")
        held, size = self.holds(theta), self.size(theta)
        safe = torch.where(per_row(held, theta), theta.to(x), self.identity(x))
        with torch.no_grad():
            return torch.where(per_row(held, x), self.apply(x, safe), x), held, size

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        return self.shape(_picture(x))


def _picture(x: Tensor) -> Shape:
    return x.shape[1], x.shape[2], x.shape[3]


def _number(size: Tensor) -> Tensor:
    return size.nan_to_num(nan=math.inf, posinf=math.inf)


@dataclass(frozen=True)
class Spatial(Transformation):
    """Turned by up to eps degrees and shifted by up to eps / 300 of each side: 30 degrees, a tenth (Engstrom, 2019)."""

    norm: ClassVar[str] = "spatial"
    unit: ClassVar[str] = "degrees"
    DEGREES: ClassVar[float] = 300.0

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """Degrees counter-clockwise, shares of the height down and of the width to the right."""
        return (3,)

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Turned about the middle, then shifted; black comes from outside."""
        return warping.turned(x, *theta.unbind(1))

    def bounds(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """An angle and two shifts."""
        high = theta.new_tensor([self.eps, self.eps / self.DEGREES, self.eps / self.DEGREES])
        return -high, high

    def size(self, theta: Tensor) -> Tensor:
        """The larger of the angle and of what the shifts need."""
        return super().size(theta.double() * theta.new_tensor([1.0, self.DEGREES, self.DEGREES]).double())


@dataclass(frozen=True)
class Flow(Transformation):
    """Each pixel is taken from up to eps pixels beside it, down and across (Xiao et al., 2018: stAdv)."""

    norm: ClassVar[str] = "flow"
    unit: ClassVar[str] = "pixels"

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """Rows down and columns right, for every pixel."""
        return (2, *picture[1:])

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Bilinear, with the border going on."""
        return warping.flowed(x, theta)


@dataclass(frozen=True)
class Elastic(Flow):
    """The same, of a flow up to eps that is smoothed by a Gaussian of 3 pixels (Kang et al., 2019)."""

    norm: ClassVar[str] = "elastic"

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Smoothed over 25 x 25 pixels, then as a flow."""
        return warping.flowed(x, warping.smoothed(theta, 3.0, 12))


@dataclass(frozen=True)
class Colour(Transformation):
    """One function of colour for all pixels of a picture, which moves no channel by more than eps (ReColorAdv)."""

    norm: ClassVar[str] = "colour"
    unit: ClassVar[str] = "of the range of a channel"

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """A shift of each channel at every node of a lattice of colours. Raises BadValue for more than 3 channels."""
        if picture[0] > 3:
            raise BadValue(f"expected pictures of at most 3 channels for {self}, got {picture[0]}; take another set")
        return (picture[0], *(colours.NODES,) * picture[0])

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Multilinear between the nodes, in RGB."""
        return warping.within(colours.recoloured(x, theta))


@dataclass(frozen=True)
class Jpeg(Transformation):
    """Each JPEG coefficient moves by up to eps quantisation steps of quality 50 (Kang et al., 2019: linf-JPEG)."""

    norm: ClassVar[str] = "jpeg"
    unit: ClassVar[str] = "quantisation steps"

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """Blocks of 8 x 8 coefficients."""
        return (colours.blocks(*picture), 8, 8)

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """x plus what the coefficients decode to; x itself is not coded."""
        return warping.within(x + colours.decoded(theta, *_picture(x)))


@dataclass(frozen=True)
class Fog(Transformation):
    """Fog up to eps thick, of a fractal whose displacements are the adversary's (Kang et al., 2019)."""

    norm: ClassVar[str] = "fog"
    unit: ClassVar[str] = "of the range of a pixel"

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """The thickness, then displacements in [0, 1] from the coarsest scale to the finest."""
        return (weather.fractal_side(*picture[1:]) ** 2,)

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Blended so that the brightest value of a picture stays."""
        return warping.within(weather.fogged(x, theta[:, 0], theta[:, 1:]))

    def bounds(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """0 to eps, then 0 to 1."""
        high = theta.new_ones(theta.shape[1:])
        high[0] = self.eps
        return torch.zeros_like(high), high

    def size(self, theta: Tensor) -> Tensor:
        """The thickness; inf with a displacement outside [0, 1]."""
        thickness, rest = theta.double()[:, 0], theta[:, 1:]
        whole = ((rest >= 0) & (rest <= 1)).all(1) & (thickness >= 0)
        return torch.where(whole, _number(thickness), math.inf)


@dataclass(frozen=True)
class Snow(Transformation):
    """Flakes up to eps bright, of which a layer has a fifth of what it could hold (Kang et al., 2019)."""

    norm: ClassVar[str] = "snow"
    unit: ClassVar[str] = "of the range of a pixel"
    SHARE: ClassVar[float] = 0.2

    def shape(self, picture: Shape) -> tuple[int, ...]:
        """A brightness for each flake of seven layers."""
        return weather.flakes(*picture[1:])

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """White flakes, added."""
        return warping.within(weather.snowed(x, theta))

    def bounds(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """0 to eps."""
        return theta.new_tensor(0.0), theta.new_tensor(self.eps)

    def size(self, theta: Tensor) -> Tensor:
        """The brightest flake, or five times a layer's mean; inf for a dark one."""
        flat = theta.double().flatten(2)
        needed = torch.maximum(flat.amax((1, 2)), flat.mean(2).amax(1) / self.SHARE)
        return torch.where((flat >= 0).all(2).all(1), _number(needed), math.inf)

    def project(self, theta: Tensor) -> Tensor:
        """Cut to the bounds, and layers that hold too much are darkened."""
        theta = super().project(theta)
        mean = theta.double().mean((2, 3), keepdim=True)  # whose bits do not depend on the batch
        return theta * (self.SHARE * self.eps / mean.clamp_min(1e-30)).clamp_max(1).to(theta)

    def draw(self, x: Tensor, rng: Rng) -> Tensor:
        """Few bright flakes among many dark ones: eps u^4, whose mean is what a layer holds."""
        return self.project(self.eps * rng.uniform(*self._shape(x)).square().square())


Allowed = Ball | Transformation
"""What a threat may allow: pictures near x, or renderings of it."""

KINDS: tuple[type[Transformation], ...] = (Spatial, Flow, Colour, Fog, Snow, Jpeg, Elastic)

