"""Classification by components: a class is argued for by what a picture is near to, and against by what it is far from.

Saralajew, Rana, Villmann, Shaker (2025, arXiv 2412.15499). With components w_k and similarities
s_k = exp(-||x - w_k|| / sigma), a reasoning concept i has probabilities r+_ki and r-_ki, over all k together 1, and

    p_i = sum_k s_k r+_ki + (1 - s_k) r-_ki.

A class says the largest p of its concepts. Without r- it is a normalised RBF network.

Within an l2 ball of radius R around x, each s_k changes by a factor in [1/z, z], z = exp(R / sigma), as the distance to
w_k changes by at most R. So p_i stays above p_j as long as a z^2 + b z + c >= 0 with

    a = -sum_k s_k (r-_ki + r+_kj),  b = sum_k r-_ki - sum_k r-_kj,  c = sum_k s_k (r+_ki + r-_kj),

which holds up to the positive root z_ij. The class stands within sigma ln min_j max_i z_ij, over its own concepts i and
all others' j; this is negative where another class says more.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Parts(NamedTuple):
    """components (K, D), positive and negative reasoning (K, R), and sigma (); each class has `each` of the R concepts,
    the first class the first.
    """

    components: Tensor
    positive: Tensor
    negative: Tensor
    sigma: Tensor
    each: int


@runtime_checkable
class Reasoning(Protocol):
    """A network that answers by components, and shows them."""

    def parts(self) -> Parts:
        """What it answers by, of flattened pictures in [0, 1]."""
        ...


def similarities(parts: Parts, x: Tensor) -> Tensor:
    """s (N, K) of pictures (N, C, H, W), in (0, 1]."""
    distance = torch.cdist(x.flatten(1), parts.components, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distance / parts.sigma).exp()


def agreement(parts: Parts, s: Tensor) -> Tensor:
    """p (N, R) of similarities (N, K), in [0, 1]."""
    return s @ (parts.positive - parts.negative) + parts.negative.sum(0)


def said(parts: Parts, p: Tensor) -> Tensor:
    """What each class says (N, classes), from p (N, R): the largest of its concepts."""
    found: Tensor = p.unflatten(1, (-1, parts.each)).amax(2)
    return found


def margin(parts: Parts, s: Tensor, y: Tensor) -> Tensor:
    """The l2 radius (N,) within which class y (N,) stands, from similarities (N, K); negative where it does not stand.

    In the pictures' own unit. Differentiable.
    """
    positive, negative = s @ parts.positive, s @ parts.negative
    a = -(negative[:, :, None] + positive[:, None, :])
    c = positive[:, :, None] + negative[:, None, :]
    against = parts.negative.sum(0)
    b = (against[:, None] - against[None, :]).expand_as(a)
    q = b.abs() + (b.square() - 4 * a * c).sqrt()
    z = torch.where(b > 0, q / (-2 * a), 2 * c / q)  # the positive root, without a difference of large numbers
    own = torch.arange(z.shape[1], device=z.device) // parts.each == y[:, None]
    best = z.masked_fill(~own[:, :, None], 0.0).amax(1)
    worst = best.masked_fill(own, torch.inf).amin(1)
    return parts.sigma * worst.log()
