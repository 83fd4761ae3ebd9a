"""Randomized smoothing at test time: answer with the vote of many noisy copies, or abstain.

Cohen, Rosenfeld, Kolter (2019, arXiv 1902.02918), PREDICT: n votes of f(x + N(0, sigma^2 I)); abstain unless a
two-sided binomial test at level alpha tells the first class from the second.

Votes have no gradient, so the defense brings a surrogate: the log of the mean softmax over noise draws, which is what
SmoothAdv attacks (Salman et al., 2019, arXiv 1906.04584, eq. 6).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access, parse_number
from robustsuite.maths.randomness import Rng
from robustsuite.methods.smoothing import BLOCK, Streams, checked, copies, noisy, predict, soft_vote, votes
from robustsuite.serve import stages

DRAWS = BLOCK
"""Noise draws the surrogate averages over, each call anew; SmoothAdv attacks with up to 128."""


class _Noisy(nn.Module):
    """A base network under noise. rng: one stream a picture, set before each call."""

    def __init__(self, base: nn.Module, sigma: float, n: int, alpha: float) -> None:
        super().__init__()
        checked(sigma, n, alpha)
        self.base, self.sigma, self.n, self.alpha = base, sigma, n, alpha
        self.rng: Rng | None = None

    def streams(self, x: Tensor) -> Streams:
        """The streams handed over for this batch; else the same one for every picture, whatever its batch."""
        rng = self.rng
        if rng is None or len(rng) != len(x):
            rng = Rng.of(0, "randomized_smoothing", torch.zeros(len(x), dtype=torch.int64))
        return rng.generators(x.device)


class Voting(_Noisy):
    """(N, C, H, W) -> shares of the votes (N, K) float32; a row of NaN where it abstains."""

    def under_noise(self) -> tuple[nn.Module, float]:
        """The network that votes, and the noise's standard deviation."""
        return self.base, self.sigma

    def forward(self, x: Tensor) -> Tensor:
        counts = votes(self.base, x, self.streams(x), sigma=self.sigma, n=self.n)
        abstains = predict(counts, self.alpha) == -1
        return (counts.float() / self.n).masked_fill(abstains[:, None], torch.nan)


class SoftSmoothed(_Noisy):
    """(N, C, H, W) -> log of the mean softmax over DRAWS noise draws (N, K), differentiable."""

    def forward(self, x: Tensor) -> Tensor:
        noise = noisy(torch.zeros_like(x), self.streams(x), DRAWS // BLOCK, self.sigma)
        return soft_vote(self.base(copies(x, noise)), DRAWS)


def soft(base: nn.Module, served: Voting) -> nn.Module:
    """The differentiable stand-in that attacks go through."""
    return SoftSmoothed(base, served.sigma, served.n, served.alpha)


@stages.serve(
    paper="Cohen, Rosenfeld, Kolter, 2019, arXiv:1902.02918",
    hides=Access.GRADIENTS,
    stochastic=True,
    rejects=True,
    surrogate=soft,
)
def randomized_smoothing(net: nn.Module, *, sigma: float | str = 0.25, n: int = 100, alpha: float = 0.001) -> nn.Module:
    """Serve the majority vote of the network under Gaussian noise; abstain where the vote is close.

    sigma: the noise's standard deviation in [0, 1] pixels; n votes a picture; alpha: the chance of an answer that is
    not the smoothed classifier's. An abstention is a row of NaN. Train the network with gaussian_augmentation of the
    same sigma. Raises BadValue. Source: arXiv 1902.02918.
    """
    return Voting(net, parse_number(sigma, "sigma"), n, alpha)
