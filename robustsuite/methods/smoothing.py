"""What the smoothed classifier g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c) is counted and tested by.

Cohen, Rosenfeld, Kolter (2019, arXiv 1902.02918); the certificates themselves are a plugin. Counts are integers. The
noise is float32 from one torch.Generator an image, always drawn a whole BLOCK at a time, so that an image's noise
depends neither on its batch nor on how many samples a forward takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log, prod

import torch
from scipy.special import bdtr, betaincinv
from torch import Tensor, nn

from robustsuite.errors import BadValue

BLOCK = 32
"""Noise samples an image draws at once; a multiple of the oracle's tile, so that forwards are whole tiles."""

VALUES = 1 << 23
"""Pixel values of noisy copies at once on a CPU: a layer that lays them out anew holds several times their bytes."""

Streams = Sequence[torch.Generator]


def noisy(x: Tensor, streams: Streams, blocks: int, sigma: float) -> Tensor:
    """x + N(0, sigma^2), (N * blocks * BLOCK, C, H, W): all of the first image's samples, then the second's."""
    n, c, h, w = x.shape
    noise = torch.empty(n, blocks, BLOCK, prod(x.shape[1:]), device=x.device)
    for image, stream in zip(noise, streams, strict=True):
        for block in image:  # one call a block: what a generator yields depends on the size asked for
            block.normal_(0, sigma, generator=stream)
    # Channels last on CUDA, where convolutions want it: the noise's entries are exchangeable.
    shaped = noise.view(n, -1, h, w, c).permute(0, 1, 4, 2, 3) if x.is_cuda else noise.view(n, -1, c, h, w)
    return shaped.add_(x[:, None]).flatten(0, 1) if x.dtype == noise.dtype else (shaped + x[:, None]).flatten(0, 1)


def classes(base: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The base network's answers (N,), -1 where it rejects by a row of NaN, and its number of classes."""
    logits: Tensor = base(x)
    return torch.where(logits.isnan().any(1), -1, logits.nan_to_num(nan=0.0).argmax(1)), logits.shape[1]


def votes(base: nn.Module, x: Tensor, streams: Streams, *, sigma: float, n: int, batch_size: int = 512) -> Tensor:
    """Counts (N, K) int64 of the base network's answers on n noisy copies of each picture (N, C, H, W).

    A copy that the base network rejects is nobody's vote. No gradient is kept.
    """
    if not len(x):
        return _empty(base, x)
    counts: Tensor | None = None
    if not x.is_cuda:
        batch_size = max(BLOCK, min(batch_size, VALUES // prod(x.shape[1:])))
    images = max(1, batch_size // (ceil(n / BLOCK) * BLOCK))
    most = max(1, batch_size // BLOCK)
    with torch.inference_mode():
        for rows in torch.arange(len(x)).split(images):
            left = n
            while left:
                blocks = min(most, ceil(left / BLOCK))
                answers, k = classes(base, noisy(x[rows], [streams[i] for i in rows.tolist()], blocks, sigma))
                answers = answers.view(len(rows), -1)[:, :left]
                left -= answers.shape[1]
                cell = (rows.to(x.device)[:, None] * (k + 1) + answers + 1).flatten()
                tally = torch.bincount(cell, minlength=len(x) * (k + 1)).view(len(x), k + 1)[:, 1:]
                counts = tally if counts is None else counts + tally
    return torch.empty(0) if counts is None else counts.clone()


def copies(x: Tensor, noise: Tensor) -> Tensor:
    """x (N, C, H, W) under its draws, (N * m, C, H, W): of `noise`, the first picture's m, then the second's."""
    m = len(noise) // max(1, len(x))
    return x[:, None].expand(-1, m, -1, -1, -1).flatten(0, 1) + noise


def soft_vote(logits: Tensor, m: int) -> Tensor:
    """Log of the mean softmax over m noisy copies a picture, (N, K) of logits (N * m, K), differentiable.

    What SmoothAdv attacks and trains on (Salman et al., 2019, arXiv 1906.04584, eq. 6).
    """
    mean: Tensor = logits.log_softmax(1).unflatten(0, (-1, m)).logsumexp(1) - log(m)
    return mean


def predict(counts: Tensor, alpha: float) -> Tensor:
    """PREDICT: the class (N,) with most votes, -1 where a two-sided binomial test cannot tell it from the runner-up.

    counts (N, K). The answer is wrong about the smoothed classifier with probability at most alpha.
    """
    top = counts.topk(2, dim=1)
    first, second = top.values.cpu().unbind(1)
    # Two-sided for p = 1/2, where both tails are equal: twice P(Binomial(n1 + n2, 1/2) <= n2).
    pvalue = torch.from_numpy(2 * bdtr(second.numpy(), (first + second).numpy(), 0.5))
    sure = (pvalue <= alpha).to(counts.device) & (top.values[:, 0] > top.values[:, 1])
    return torch.where(sure, top.indices[:, 0], -1)


def lower_bound(k: Tensor, n: int, alpha: float) -> Tensor:
    """One-sided Clopper-Pearson: the p (N,) float64 with P(Binomial(n, p) >= k) = alpha; 0 where k is 0."""
    successes = k.cpu().numpy()
    bound = torch.from_numpy(betaincinv(successes, n - successes + 1, alpha)).to(k.device)
    return torch.where(k > 0, bound, 0.0)


def checked(sigma: float, n: int, alpha: float) -> None:
    """Raise BadValue unless sigma > 0, n >= 1 and 0 < alpha < 1."""
    if not (sigma > 0 and n >= 1 and 0 < alpha < 1):
        raise BadValue(
            f"expected sigma > 0, n >= 1 and 0 < alpha < 1, got {sigma!r}, {n!r} and {alpha!r}; "
            f"write sigma: 0.25, n: 1000, alpha: 0.001"
        )


def _empty(base: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        k = base(x.new_zeros(8, *x.shape[1:])).shape[1]
    return torch.zeros(0, k, dtype=torch.int64, device=x.device)
