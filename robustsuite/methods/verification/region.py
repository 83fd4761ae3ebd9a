"""Where an input may lie, and what may not come out of a network there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.threats import BALLS
from robustsuite.maths.projections import unit


class Region(NamedTuple):
    """A box (linf) or a ball (l2) of inputs. centre, reach (1, C, H, W): half the box's sides, or the ball's radius."""

    centre: Tensor
    reach: Tensor
    norm: str = "linf"

    def lowest(self, a: Tensor) -> Tensor:
        """min of a . x over the region, for coefficients a (B, C, H, W) -> (B,)."""
        middle: Tensor = (a * self.centre).flatten(1).sum(1)
        if self.norm == "l2":
            length: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1)
            return middle - float(self.reach.amax()) * length
        return middle - (a.abs() * self.reach).flatten(1).sum(1)

    def lowest_at(self, a: Tensor) -> Tensor:
        """The point (B, C, H, W) of the region where a . x is lowest."""
        if self.norm == "l2":
            return self.centre - float(self.reach.amax()) * unit(a, "l2")
        return self.centre - self.reach * a.sign()

    def inside(self, x: Tensor) -> Tensor:
        """Points of the region near x (B, C, H, W), of a ball pictures in [0, 1]; those inside stay."""
        away = x - self.centre
        if self.norm == "l2":
            length = away.flatten(1).norm(dim=1).view(-1, *(1,) * (x.dim() - 1))
            inner: Tensor = self.centre + away * (float(self.reach.amax()) / length.clamp_min(1e-30)).clamp(max=1)
            return inner.clamp(0, 1)  # the centre is a picture, so this leads no farther from it
        return self.centre + torch.maximum(torch.minimum(away, self.reach), -self.reach)


class Unsafe(NamedTuple):
    """Outputs that may not occur: a disjunction of D cases, each a conjunction of up to R rows a . z <= b.

    a (D, R, K), b (D, R). A case with fewer rows repeats one.
    """

    a: Tensor
    b: Tensor

    def gap(self, z: Tensor) -> Tensor:
        """How far (N,) outputs z (N, K) are from the nearest case: at most 0 exactly where one of them holds."""
        rows: Tensor = torch.einsum("drk,nk->ndr", self.a, z) - self.b
        return rows.amax(2).amin(1)


def ball_region(x: Tensor, eps: float, norm: str) -> Region:
    """The ball around x (1, C, H, W), linf balls cut to [0, 1], widened by the rounding that the judge forgives."""
    wide = eps * (1 + BALLS[norm].tolerance) + BALLS[norm].tolerance
    if norm == "l2":
        return Region(x, torch.full_like(x, wide), "l2")
    low, high = (x - wide).clamp_min(0), (x + wide).clamp_max(1)
    centre = (low + high) / 2
    # Half a sum rounds: the reach covers both ends from the centre as it came out.
    return Region(centre, torch.maximum(high - centre, centre - low) * (1 + 4 * torch.finfo(x.dtype).eps))


def other_class(y: int, classes: int, like: Tensor) -> Unsafe:
    """Any class of at least the label's logit: K - 1 cases of one row, z_y - z_j <= 0."""
    e = torch.eye(classes, dtype=like.dtype, device=like.device)
    others = [j for j in range(classes) if j != y]
    return Unsafe((e[y] - e[others])[:, None], like.new_zeros(classes - 1, 1))
