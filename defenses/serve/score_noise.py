"""Noisy scores: Gaussian noise on the probabilities, projected back onto the simplex."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.answers import as_logits, as_without, onto_simplex
from robustsuite.serve import stages


class NoisyScores(nn.Module):
    """(N, C, H, W) -> logits (N, K) of noisy probabilities. rng: one stream a picture, set before each call."""

    def __init__(self, base: nn.Module, sigma: float) -> None:
        super().__init__()
        self.base, self.sigma = base, sigma
        self.rng: Rng | None = None

    def forward(self, x: Tensor) -> Tensor:
        p = self.base(x).softmax(1)
        rng = self.rng
        if rng is None or len(rng) != len(x):
            rng = Rng.of(0, "score_noise", torch.zeros(len(x), dtype=torch.int64)).to(x.device)
        noisy = onto_simplex(p + self.sigma * rng.normal(p.shape[1]).to(p))
        return as_logits(noisy, noisy.argmax(1))


@stages.serve(
    paper="Orekondy et al., 2020, arXiv:1906.10908",
    stochastic=True,
    surrogate=as_without,
    differs=("the noise is Gaussian in the probabilities; of the paper's baselines it is the plainest",),
)
def score_noise(net: nn.Module, *, sigma: float = 0.1) -> nn.Module:
    """Serve probabilities with Gaussian noise of this standard deviation, back on the simplex; classes may change.

    The same question asked twice has two answers. Raises BadValue.
    """
    if not sigma >= 0:
        raise BadValue(f"expected sigma >= 0, got {sigma!r}; write 0.1")
    return NoisyScores(net, sigma)
