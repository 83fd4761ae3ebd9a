"""Certified bounds by linear relaxation: IBP, CROWN-IBP, CROWN and alpha-CROWN through auto-LiRPA.

Lower bounds of every margin z_y - z_j over a ball around x: interval arithmetic (IBP: Gowal et al. 2018, arXiv
1810.12715), linear bounds propagated backwards (CROWN: Zhang et al. 2018, arXiv 1811.00866; CROWN-IBP: Zhang et al.
2020, arXiv 1906.06316, with IBP for the inner layers), and the slopes of the ReLU lower bounds tuned by Adam
(alpha-CROWN: Xu et al. 2021, arXiv 2011.13824), on general graphs by auto-LiRPA (Xu et al. 2020, arXiv 2002.12920).

No bound here counts the rounding of its own sums. So what is near 0 in float32 is computed once more in float64, and
what is still near 0 there proves nothing.
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from robustsuite.config.taxonomy import PROOF
from robustsuite.config.threats import L2, Access, Linf
from robustsuite.defenses.certifiers._graphs import METHODS, margins, problem
from robustsuite.errors import BadValue
from robustsuite.methods.verification.rounding import DOUBLE, full_precision, in_the_other_precision, scale_of
from robustsuite.scenarios.certification import Certificates, certifier
from robustsuite.serve.task import TASK

__all__ = ["METHODS", "largest_verified_eps", "lirpa", "margin_bounds", "predictions", "verified"]

Method = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]


def margin_bounds(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Linf | L2,
    *,
    method: Method = "crown",
    steps: int = 20,
    batch_size: int | None = None,
) -> Tensor:
    """Lower bounds (N, classes - 1) of z_y - z_j, j != y in rising order, over the ball.

    x (N, C, H, W) in [0, 1], y (N,) labels, net(x) logits. Linf balls are cut to [0, 1]; L2 balls are not, and are
    enclosed by larger ones where the channels differ in std (both sound and looser). `steps` is for alpha-crown.
    Computed in the network's dtype; one that is barely above 0 may be below it in exact arithmetic (`verified` knows).
    Raises Unsupported for a network that cannot be bounded.
    """
    eps = torch.full((len(x),), ball.eps, dtype=torch.float64, device=x.device)
    return margins(problem(net, x, method, steps), x, y, eps, ball.norm, batch_size)


def verified(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Linf | L2,
    *,
    method: Method = "crown",
    steps: int = 20,
    batch_size: int | None = None,
) -> Tensor:
    """Which images (N,) provably keep label y in the whole ball; a NaN bound proves nothing."""
    proven = predictions(net, x, batch_size) == y
    if proven.any():
        eps = torch.full((len(x),), ball.eps, dtype=torch.float64, device=x.device)[proven]
        prove = _prover(net, x[proven], method, steps, batch_size)
        proven[proven.clone()] = prove(x[proven], y[proven], eps, ball.norm)
    return proven


def largest_verified_eps(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    hi: float,
    method: Method = "crown",
    iterations: int = 7,
    steps: int = 20,
    batch_size: int | None = None,
) -> Tensor:
    """Per image (N,) float64 the largest multiple of hi / 2**iterations found verified by bisection up to hi, or 0.

    Every answer was itself verified, so it holds even where the bounds are not monotone in eps.
    """
    if not (hi >= 0 and iterations >= 0):
        raise BadValue(f"expected hi >= 0 and iterations >= 0, got {hi!r} and {iterations!r}; write hi=8/255")
    prove = _prover(net, x, method, steps, batch_size)
    top = 2**iterations
    below = torch.zeros(len(x), dtype=torch.long, device=x.device)  # eps = hi * below / top is verified
    above = torch.full_like(below, top)  # is not, or has not been asked
    open_ = predictions(net, x, batch_size) == y

    def ask(rows: Tensor, numerator: Tensor) -> Tensor:
        return prove(x[rows], y[rows], hi * numerator.double() / top, norm)

    if open_.any():
        rows = open_.nonzero()[:, 0]
        whole = rows[ask(rows, above[rows])]
        below[whole], open_[whole] = top, False
    for _ in range(iterations if open_.any() else 0):
        rows = open_.nonzero()[:, 0]
        middle = (below[rows] + above[rows]) // 2
        yes = ask(rows, middle)
        below[rows[yes]], above[rows[~yes]] = middle[yes], middle[~yes]
    return hi * below.double() / top  # type: ignore[no-any-return]


@certifier(
    paper="Zhang et al., 2018, arXiv:1811.00866; Xu et al., 2020, arXiv:2002.12920 and 2021, arXiv:2011.13824",
    needs=Access.WEIGHTS,
    norms=("linf", "l2"),
    requires="auto-LiRPA",
    **PROOF,
    differs=(
        "the ball is widened by the rounding the judge forgives",
        "l2 balls are not cut to [0, 1], and enclosed where channels differ in std",
    ),
)
def lirpa(
    net: nn.Module, x: Tensor, y: Tensor, budget: Linf | L2, *, method: Method = "crown", bisection: int = 0
) -> Certificates:
    """Certified radius by linear bound propagation (CROWN and its relatives).

    x (N, C, H, W) in [0, 1], y (N,). Radii are in the budget's norm: budget.eps or 0 without bisection, with it the
    largest verified of 2**bisection equal parts. Raises Unsupported for a network that cannot be bounded.
    """
    radius = largest_verified_eps(net, x, y, norm=budget.norm, hi=budget.eps, method=method, iterations=bisection)
    return Certificates(predictions(net, x), radius)


def predictions(net: nn.Module, x: Tensor, batch_size: int | None = None) -> Tensor:
    """Labels (N,) by the unfolded network, -1 where it has none."""
    if not len(x):  # a network need not take an empty batch
        return torch.zeros(0, dtype=torch.long, device=x.device)
    with torch.no_grad(), full_precision(x.device):
        return torch.cat([TASK.predicted(net(part)) for part in torch.split(x, batch_size or 256)])


def _prover(
    net: nn.Module, x: Tensor, method: str, steps: int, batch_size: int | None
) -> Callable[[Tensor, Tensor, Tensor, str], Tensor]:
    """(x (N, C, H, W), y (N,), eps (N,), norm) -> which images (N,) keep their labels in their balls."""
    own = problem(net, x, method, steps)
    other = in_the_other_precision(net, x)
    exact = functools.cache(lambda: problem(other, x.double(), method, steps))  # traced where something is near

    def prove(x: Tensor, y: Tensor, eps: Tensor, norm: str) -> Tensor:
        bounds = margins(own, x, y, eps, norm, batch_size)
        near = scale_of(net, other, x, batch_size).near(bounds)
        if x.dtype == torch.float64:
            return _above(bounds, DOUBLE * near)
        proven = _above(bounds, near)
        again = _above(bounds, -near) & ~proven
        if again.any():
            closer = margins(exact(), x[again].double(), y[again], eps[again], norm, batch_size)
            proven[again] = _above(closer, DOUBLE * near[again])
        return proven

    return prove


def _above(bounds: Tensor, least: Tensor) -> Tensor:
    """Where all bounds (N, K) are finite and above these numbers (N,)."""
    return ((bounds > least[:, None]) & bounds.isfinite()).all(1)
