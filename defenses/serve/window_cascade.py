"""Window cascade: a small network answers, and a large one is asked where the small one's confidence is near the line.

Xia, Bouganis (2023, "Window-based early-exit cascades for uncertainty estimation", arXiv:2303.08010). Whoever accepts
only answers with a confidence above a threshold t needs no better confidence far from t. So the second network is asked
where the first one's, the largest probability, lies in a window of quantiles around t's own on clean pictures,

    [q - width, q + width],  q = 1 - coverage  (that share of clean pictures is below t),

and there the mean of both probabilities is the answer; elsewhere the first one's. With a window that begins at 0 this is
the usual early exit, "ask again where it is unsure".

The choice is a step that no gradient sees, and the answer on either side of it is another network's. A direct attack
follows the side a picture is on; the mean of all logits, with neither step nor side, is the surrogate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.macs import macs
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.oracle import TILE
from robustsuite.serve.protocols import Separable


class Cascade(nn.Module):
    """(N, C, H, W) -> log probabilities (N, K). low, high: the window of confidences, both ends inside it."""

    low: Tensor
    high: Tensor

    def __init__(self, base: nn.Module, alone: bool) -> None:
        super().__init__()
        self.base, self.alone = base, alone
        for name in ("low", "high"):
            self.register_buffer(name, torch.tensor(math.inf))

    def members(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The first network asked, and the second."""
        first, second = self.base.members()  # type: ignore[operator]
        return first, second

    def passed(self, first: Tensor) -> Tensor:
        """Which pictures (N,) bool go on, from the first network's log probabilities (N, K)."""
        confidence = first.detach().exp().amax(1)
        return (confidence >= self.low) & (confidence <= self.high)

    def forward(self, x: Tensor) -> Tensor:
        small, large = self.members()
        first = small(x).log_softmax(1)
        rows = self.passed(first).nonzero().flatten()
        if not len(rows):
            return first
        # whole tiles: how many stand beside it may not move an answer's last bits
        whole = rows[torch.arange(-(-len(rows) // TILE) * TILE, device=rows.device) % len(rows)]
        second = large(x[whole])[: len(rows)].log_softmax(1)
        if not self.alone:
            second = torch.logaddexp(first[rows], second) - math.log(2)
        return first.index_copy(0, rows, second)


def mean_logits(base: nn.Module, served: nn.Module) -> nn.Module:
    """The networks side by side: both are asked about every picture, and no step is in between."""
    return base


def unset(net: nn.Module, training: Training, *, alone: bool, **_: object) -> Cascade:
    """The cascade before it has its window: nothing is passed on."""
    return Cascade(net, alone)


@stages.serve(
    paper="Xia, Bouganis, 2023, arXiv:2303.08010, section 4",
    learns=True,
    splits=("val",),
    shape=unset,
    surrogate=mean_logits,
    differs=(
        "the operating point is a coverage; those by risk need a threshold from labels, which is found the same way",
        "a window that reaches the lowest or highest quantile has no end there; the authors' ends at val's extremes",
    ),
)
def window_cascade(
    net: nn.Module, training: Training, *, coverage: float = 0.8, width: float = 0.1, alone: bool = False
) -> nn.Module:
    """Serve the first of two joined networks, and ask the second inside a window of the first one's confidence.

    coverage: the share that is to be accepted. width: of the window on either side, a share of clean val pictures; 0
    asks the first alone, 1 both about every picture. alone: inside, the second answers by itself in place of the mean
    of both. For models joined with " + ", the cheaper first. Raises BadValue; Unsupported for other than two networks.
    """
    if not (0 <= coverage <= 1 and 0 <= width <= 1):
        raise BadValue(f"expected coverage and width in [0, 1], got {coverage!r} and {width!r}; write 0.8 and 0.1")
    if not isinstance(net, Separable) or len(net.members()) != 2:
        raise Unsupported("expected two networks for window_cascade, got another number; join two models with ' + '")
    cascade = Cascade(net, alone).to(training.device).eval()
    small, large = cascade.members()
    with torch.no_grad():
        found = [small(x).softmax(1).amax(1) for _, x, _ in training.val.batches(256, training.device)]
    confidence = torch.cat(found)
    cascade.low, cascade.high = window(confidence, 1 - coverage, width)
    x = training.val.images(torch.arange(1)).to(training.device)
    inside = (confidence >= cascade.low) & (confidence <= cascade.high)
    told(training, macs(small, x), macs(large, x), float(inside.float().mean()))
    return cascade


def window(confidence: Tensor, q: float, width: float) -> tuple[Tensor, Tensor]:
    """The window of confidences (2 scalars) around the quantile q of these (N,); none for a width of 0."""
    if width == 0:
        return confidence.new_tensor(math.inf), confidence.new_tensor(-math.inf)
    low, high = (confidence.quantile(min(1.0, max(0.0, end))) for end in (q - width, q + width))
    return (low if q - width > 0 else low.new_tensor(-math.inf), high if q + width < 1 else high.new_tensor(math.inf))


def told(training: Training, small: int, large: int, share: float) -> None:
    """Keep what a picture costs, for the report."""
    row: list[object] = [small / 1e6, large / 1e6, share, (small + share * large) / 1e6]
    columns = ["first, million MACs", "second, million MACs", "share of val passed on", "mean, million MACs"]
    table = {"columns": columns, "rows": [row]}
    note = "multiply-accumulates of convolutions and matrix products, a picture"
    training.keep("window_cascade", {"title": "What the cascade costs", "note": note, "table": table})
