"""Whether a network keeps an instance's property: every part searched, and a counterexample asked of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.methods.verification.branching import Limits, searched
from robustsuite.methods.verification.region import Region, Unsafe
from robustsuite.methods.verification.rounding import DOUBLE, Scale, full_precision, in_the_other_precision, scale_of
from robustsuite.methods.verification.vnnlib import Part


class Answer(NamedTuple):
    """What an instance comes to. x (C, H, W) float64 in the box, z (K,) what the network answers to it."""

    status: Literal["verified", "falsified", "unknown"]
    nodes: int
    x: Tensor | None = None
    z: Tensor | None = None


def decided(
    net: nn.Module, parts: Sequence[Part], shape: Sequence[int], limits: Limits,
    told: Callable[[int, int], None] | None = None,
) -> Answer:  # fmt: skip
    """Search the parts in order until one is broken, or all together met the limit.

    The network works on inputs (N, *shape) in its own dtype.
    A counterexample counts where the network says so in float32 and in float64 alike. Raises Unsupported.
    """
    like = next(net.parameters())
    other = in_the_other_precision(net, like)
    nodes, proven = 0, True
    for part in parts:
        if nodes >= limits.nodes:
            return Answer("unknown", nodes)
        region, unsafe = _rounded(part, shape, like)
        with torch.inference_mode(False), full_precision(like.device):
            near = _near(scale_of(net, other, region.centre), unsafe, like)
            found = searched(net, region, unsafe, limits._replace(nodes=limits.nodes - nodes), near, told)
            nodes += found.nodes
            if found.point is not None:
                x, z = _exactly(net, other, part, found.point)
                if z is not None:
                    return Answer("falsified", nodes, x, z)
        proven = proven and found.status == "verified"
    return Answer("verified" if proven else "unknown", nodes)


def _rounded(part: Part, shape: Sequence[int], like: Tensor) -> tuple[Region, Unsafe]:
    """The part in the network's dtype, its box wide enough to hold the one that was written."""
    centre = ((part.low + part.high) / 2).to(like)
    reach = torch.maximum(part.high.to(like.device) - centre.double(), centre.double() - part.low.to(like.device))
    wide = reach.to(like) * (1 + 4 * torch.finfo(like.dtype).eps)
    return (
        Region(centre.view(1, *shape), wide.view(1, *shape)),
        Unsafe(part.unsafe.a.to(like), part.unsafe.b.to(like)),
    )


def _near(scale: Scale, unsafe: Unsafe, like: Tensor) -> Callable[[Tensor], Tensor]:
    """What is in doubt of a bound of any row: logits count as often as a row adds them up."""
    often = float((unsafe.a.abs().sum(2).amax() / 2).clamp_min(1))
    large = torch.maximum(scale.largest * often, unsafe.b.abs().amax().double())
    wider, share = Scale(large, scale.apart * often), DOUBLE if like.dtype == torch.float64 else 1.0
    return lambda bounds: share * wider.near(bounds[:, None])


def _exactly(net: nn.Module, other: nn.Module, part: Part, point: Tensor) -> tuple[Tensor, Tensor | None]:
    """The point inside the box as it was written, and what the network answers, None where its dtypes disagree."""
    flat = point.double().flatten().cpu()
    x = torch.maximum(torch.minimum(flat, part.high), part.low).view(point.shape)
    answers = []
    with torch.no_grad():
        for asked in (net, other):
            weights = next(asked.parameters())
            answers.append(asked(x.to(weights))[0].double().cpu())
    if any(bool(part.unsafe.gap(z[None]) > 0) for z in answers):
        return x[0], None
    return x[0], answers[0]
