"""Complete verification: branch and bound over ReLUs with beta-CROWN, after an attack that looks for the contrary.

beta-CROWN: Wang et al., 2021, arXiv 2103.06624. The neuron to split by filtered smart branching: De Palma et al., 2021,
arXiv 2104.06718. What every neuron reads is bounded once, by alpha-CROWN (Xu et al., 2021, arXiv 2011.13824), and once
more for each class that stays open, where that class would win (Kotha et al., 2023, arXiv 2302.01404).
Every picture ends as proven, broken (with the picture that breaks it, which the judge looks at) or undecided.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robustsuite.config.taxonomy import PROOF
from robustsuite.config.threats import L2, Access, Linf
from robustsuite.errors import BadValue
from robustsuite.methods.verification.branching import Limits, Outcome, searched
from robustsuite.methods.verification.region import ball_region, other_class
from robustsuite.methods.verification.rounding import (
    DOUBLE,
    Scale,
    boundable,
    full_precision,
    in_the_other_precision,
    scale_of,
)
from robustsuite.scenarios.certification import Certificates, certifier
from robustsuite.serve.task import TASK

__all__ = ["bab", "outcomes"]


@certifier(
    paper="Wang et al., 2021, arXiv:2103.06624; De Palma et al., 2021, arXiv:2104.06718",
    needs=Access.WEIGHTS,
    norms=("linf", "l2"),
    **PROOF,
    differs=(
        "the limit is a number of bounded parts, not of seconds, so that a verdict does not follow the machine",
        "bounds of inner neurons are tuned in the whole ball, then where an open class would win; parts keep them",
        "the ball is widened by the rounding the judge forgives; l2 balls are not cut to [0, 1]",
    ),
)
def bab(
    net: nn.Module, x: Tensor, y: Tensor, budget: Linf | L2, *, nodes: int = 2000, steps: int = 10, width: int = 64
) -> Certificates:
    """Prove or break each picture by branch and bound over ReLUs, within a number of bounded parts.

    x (N, C, H, W) in [0, 1], y (N,). nodes: parts a picture; steps: of Adam on the bound of each; width: parts at a
    time. The radius is budget.eps where proven, else 0. Raises BadValue, BadData, and Unsupported for a network that is
    not affine between its ReLUs.
    """
    limits = Limits(nodes, steps, width)
    _fit(net, x, limits)
    with torch.no_grad(), full_precision(x.device):
        prediction = torch.cat([TASK.predicted(net(part)) for part in x.split(256)]) if len(x) else y.clone()
    right = (prediction == y).nonzero().flatten()
    found = outcomes(net, x[right], y[right], budget, limits)
    radius = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    breaking = torch.full_like(x, torch.nan)
    for i, outcome in zip(right.tolist(), found, strict=True):
        radius[i] = budget.eps if outcome.status == "verified" else 0.0
        if outcome.point is not None:
            breaking[i] = budget.project(x[i : i + 1], outcome.point)[0]
    return Certificates(prediction, radius, breaking=breaking)


def outcomes(net: nn.Module, x: Tensor, y: Tensor, budget: Linf | L2, limits: Limits) -> list[Outcome]:
    """What a search comes to for each picture, of the label's margin over every other class; as `bab` raises."""
    _fit(net, x, limits)
    scale = scale_of(net, in_the_other_precision(net, x), x)
    share = DOUBLE if x.dtype == torch.float64 else 1.0
    found = []
    for i in range(len(x)):
        one, mine = x[i : i + 1], Scale(scale.largest[i : i + 1], scale.apart[i : i + 1])
        with torch.inference_mode(False), full_precision(x.device):
            with torch.no_grad():
                classes = net(one).shape[1]
            region, unsafe = ball_region(one, budget.eps, budget.norm), other_class(int(y[i]), classes, one)
            found.append(searched(net, region, unsafe, limits, partial(_near, mine, share)))
    return found


def _near(scale: Scale, share: float, bounds: Tensor) -> Tensor:
    """What rounding leaves in doubt (B,) of these bounds (B,) of one picture."""
    return share * scale.near(bounds[:, None])


def _fit(net: nn.Module, x: Tensor, limits: Limits) -> None:
    """Raise where no bound can be had of these."""
    if limits.nodes < 1 or limits.steps < 0 or limits.width < 1:
        raise BadValue(f"expected nodes >= 1, steps >= 0 and width >= 1, got {tuple(limits)}; leave them out")
    boundable(net, x)
