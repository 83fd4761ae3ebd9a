"""Window cascade: a small network answers, and a large one is asked where the small one's confidence is near the line.

Xia, Bouganis (2023, "Window-based early-exit cascades for uncertainty estimation", arXiv:2303.08010). Whoever accepts
only answers with a confidence above a threshold t needs no better confidence far from t. So the second network is asked
where the first one's, the largest probability, lies in a window of quantiles around t's own on clean pictures,

    [q - width, q + width],  q = 1 - coverage  (that share of clean pictures is below t),

and there the mean of both probabilities is the answer; elsewhere the first one's. With a window that begins at 0 this
is the usual early exit, "ask again where it is unsure".

The choice is a step that no gradient sees, and the answer on either side of it is another network's: where a class
changes there, the scores do not say so beforehand, and the probe E31 fails such a system. With `ramp` the second answer
fades in over the outer parts of the window, at the same cost, and scores say how near the change is. A direct attack
follows the side a picture is on; the mean of both networks' logits, with neither step nor side, is the surrogate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.macs import macs
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.oracle import TILE
from robustsuite.serve.protocols import Separable

LEAST = 1e-30
"""Added to probabilities whose logarithm is taken: some are 0 in float32."""

EMPTY, LOWEST, HIGHEST = (3.0, 3.0, -2.0, -2.0), (-2.0, -1.0), (2.0, 3.0)
"""No window, and ends that no confidence reaches, nor what fades in there."""


class Cascade(nn.Module):
    """(N, C, H, W) -> log probabilities (N, K).

    ends: confidences (4,): where the window begins, where the second network is wholly in it, until where, its end.
    """

    ends: Tensor

    def __init__(self, base: nn.Module, alone: bool, step: bool = True) -> None:
        super().__init__()
        self.base, self.alone, self.step = base, alone, step
        self.register_buffer("ends", torch.tensor(EMPTY))

    def members(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The first network asked, and the second."""
        first, second = self.base.members()  # type: ignore[operator]
        return first, second

    def passed(self, first: Tensor) -> Tensor:
        """Which pictures (N,) bool go on, from the first network's log probabilities (N, K)."""
        confidence = first.detach().exp().amax(1)
        return (confidence >= self.ends[0]) & (confidence <= self.ends[3])

    def forward(self, x: Tensor) -> Tensor:
        small, large = self.members()
        first = small(x).log_softmax(1)
        rows = self.passed(first).nonzero().flatten()
        if not len(rows):
            return first
        # whole tiles: how many stand beside it may not move an answer's last bits
        whole = rows[torch.arange(-(-len(rows) // TILE) * TILE, device=rows.device) % len(rows)]
        own, second = first[rows], large(x[whole])[: len(rows)].log_softmax(1)
        inside = second if self.alone else torch.logaddexp(own, second) - math.log(2)
        return first.index_copy(0, rows, self._faded(own, inside))

    def _faded(self, own: Tensor, inside: Tensor) -> Tensor:
        """From the first network's log probabilities (M, K) to those inside, as far as the confidence has come in."""
        if self.step:
            return inside
        low, full, until, high = self.ends
        confidence = own.exp().amax(1, keepdim=True)
        up, down = ((end - start).clamp_min(LEAST) for start, end in ((low, full), (until, high)))  # 0 between ties
        share = torch.minimum((confidence - low) / up, (high - confidence) / down)
        share = torch.minimum(share, torch.ones_like(share))
        return ((1 - share) * own.exp() + share * inside.exp() + LEAST).log()


def mean_logits(base: nn.Module, served: nn.Module) -> nn.Module:
    """The networks side by side: both are asked about every picture, and no step is in between."""
    return base


def unset(net: nn.Module, training: Training, *, alone: bool, ramp: float, **_: object) -> Cascade:
    """The cascade before it has its window: nothing is passed on."""
    return Cascade(net, alone, ramp == 0)


@stages.serve(
    paper="Xia, Bouganis, 2023, arXiv:2303.08010, section 4",
    learns=True,
    splits=("val",),
    shape=unset,
    hides=Access.GRADIENTS,
    surrogate=mean_logits,
    differs=(
        "the operating point is a coverage; those by risk need a threshold from labels, which is found the same way",
        "a window that reaches the lowest or highest quantile has no end there; the authors' ends at val's extremes",
        "`ramp` is not in the paper",
    ),
)
def window_cascade(
    net: nn.Module, training: Training, *, coverage: float = 0.8, width: float = 0.1, ramp: float = 0.0,
    alone: bool = False,
) -> nn.Module:  # fmt: skip
    """Serve the first of two joined networks, and ask the second inside a window of the first one's confidence.

    coverage: the share that is to be accepted. width: of the window on either side, a share of clean val pictures; 0
    asks the first alone, 1 both about every picture. ramp: the share of the width over which the second fades in, 0 for
    the published step. alone: inside, the second answers by itself in place of the mean of both. For models joined with
    " + ", the cheaper first. Raises BadValue; Unsupported for other than two networks.
    """
    if not all(0 <= value <= 1 for value in (coverage, width, ramp)):
        given = f"{coverage=}, {width=}, {ramp=}"
        raise BadValue(f"expected shares in [0, 1] for window_cascade, got {given}; leave them out")
    if not isinstance(net, Separable) or len(net.members()) != 2:
        raise Unsupported("expected two networks for window_cascade, got another number; join two models with ' + '")
    cascade = Cascade(net, alone, ramp == 0).to(training.device).eval()
    small, large = cascade.members()
    with torch.no_grad():
        found = [small(x).log_softmax(1) for _, x, _ in training.val.batches(256, training.device)]
    first = torch.cat(found)
    cascade.ends = window(first.exp().amax(1), 1 - coverage, width, ramp)
    x = training.val.images(torch.arange(1)).to(training.device)
    told(training, macs(small, x), macs(large, x), float(cascade.passed(first).float().mean()))
    return cascade


def window(confidence: Tensor, q: float, width: float, ramp: float = 0.0) -> Tensor:
    """The window's ends (4,), as `Cascade` takes them, around the quantile q of these confidences (N,).

    An end beyond all of them has no ramp; there is no window for a width of 0.
    """
    if width == 0:
        return confidence.new_tensor(EMPTY)
    low, full, until, high = (
        confidence.quantile(min(1.0, max(0.0, q + sign * width * (1 - part))))
        for sign, part in ((-1, 0.0), (-1, ramp), (1, ramp), (1, 0.0))
    )
    if q - width <= 0:
        low, full = confidence.new_tensor(LOWEST)
    if q + width >= 1:
        until, high = confidence.new_tensor(HIGHEST)
    return torch.stack([low, full, until, high])


def told(training: Training, small: int, large: int, share: float) -> None:
    """Keep what a picture costs, for the report."""
    row: list[object] = [small / 1e6, large / 1e6, share, (small + share * large) / 1e6]
    columns = ["first, million MACs", "second, million MACs", "share of val passed on", "mean, million MACs"]
    table = {"columns": columns, "rows": [row]}
    note = "multiply-accumulates of convolutions and matrix products, a picture"
    training.keep("window_cascade", {"title": "What the cascade costs", "note": note, "table": table})
