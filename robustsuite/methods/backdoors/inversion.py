"""Triggers sought from a network alone: the smallest mask and pattern that send clean pictures to each class (Wang et
al., 2019, Neural Cleanse, IEEE S&P, section IV), and the largest margin that patterns of one size reach.

All classes and restarts are one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.serve.data import Split

UP, DOWN, PATIENCE = 1.5, 1.5**1.5, 5
"""How the price of a mask rises after PATIENCE steps of success, and falls after as many of failure."""

SCALED = 1.4826
"""By which a median absolute deviation is a standard deviation, of a normal distribution."""


def reversed_triggers(
    net: nn.Module, clean: Split, classes: int, *, steps: int, batch: int, seed: int, device: str,
    success: float = 0.99, restarts: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Masks (K, 1, H, W), patterns (K, C, H, W) in [0, 1] of least area that reach each class from clean pictures.

    Adam (0.1; 0.5, 0.9) on cross-entropy + price * |mask|_1, the price of each class and restart moving by itself; of
    all steps that reached the class on `success` of a batch, of all restarts, the smallest mask is kept. A class that
    is never reached has the whole picture as its mask: what is not known of it is how much more it would take.
    """
    shape, tries = clean.images(torch.arange(1)).shape[1:], restarts * classes
    order = torch.Generator().manual_seed(seed)
    raw = [(0.1 * torch.randn(tries, c, *shape[1:], generator=order)).to(device) for c in (1, shape[0])]
    raw = [r.requires_grad_() for r in raw]
    optimiser = torch.optim.Adam(raw, lr=0.1, betas=(0.5, 0.9))
    price = torch.full((tries,), 1e-3, device=device)
    up, down = torch.zeros(tries, device=device), torch.zeros(tries, device=device)
    best = torch.full((tries,), torch.inf, device=device)
    kept = [torch.ones(tries, 1, *shape[1:], device=device), torch.zeros(tries, *shape, device=device)]
    targets = torch.arange(classes, device=device).repeat(restarts).repeat_interleave(batch)
    for _ in range(steps):
        x = clean.images(torch.randint(len(clean), (batch,), generator=order)).to(device)
        mask, pattern = (torch.tanh(r) / 2 + 0.5 for r in raw)
        stamped = x[None] + mask[:, None] * (pattern[:, None] - x[None])
        with torch.enable_grad():
            logits = net(stamped.flatten(0, 1))
            loss = functional.cross_entropy(logits, targets, reduction="none").view(tries, batch).mean(1)
            area = mask.flatten(1).sum(1)
            optimiser.zero_grad()
            (loss + price * area).sum().backward()
        optimiser.step()
        with torch.no_grad():
            reached = (logits.argmax(1) == targets).view(tries, batch).float().mean(1) >= success
            better = reached & (area < best)
            best = torch.where(better, area, best)
            where = better.view(-1, 1, 1, 1)
            kept = [torch.where(where, new.detach(), old) for new, old in zip((mask, pattern), kept, strict=True)]
            up, down = torch.where(reached, up + 1, 0), torch.where(reached, 0, down + 1)
            price = torch.where(up >= PATIENCE, price * UP, torch.where(down >= PATIENCE, price / DOWN, price))
            up, down = torch.where(up >= PATIENCE, 0, up), torch.where(down >= PATIENCE, 0, down)
    which = best.view(restarts, classes).argmin(0) * classes + torch.arange(classes, device=device)
    return kept[0][which], kept[1][which]


def driven(
    net: nn.Module, clean: Tensor, y: Tensor, stamp: Callable[[Tensor, Tensor], Tensor], patterns: Tensor, *,
    steps: int, batch: int, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Margins (T, K) of each class over all others that patterns (T, K, C, H, W) reach, T tries a class; the patterns.

    stamp: pictures (N, C, H, W) and patterns (T, K, 1, C, H, W) -> (T, K, N, C, H, W). Adam (0.5; 0.5, 0.9) on the
    softplus of minus the margin over the others' log-sum-exp, on the first half of the clean pictures and labels y;
    the margin is the mean over the other half, the class's own pictures left out, in units of the network's mean
    margin on pictures as they are. NaN for a class that all these pictures are of.
    """
    tries, classes = patterns.shape[:2]
    raw = torch.logit(patterns.clamp(0.02, 0.98)).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.5, betas=(0.5, 0.9))
    order, half = torch.Generator().manual_seed(seed), max(1, len(clean) // 2)
    wanted = torch.arange(classes, device=clean.device).repeat(tries)[:, None]

    def margins(x: Tensor, smooth: bool) -> Tensor:
        """(T K, N), of these pictures under the patterns."""
        logits = net(stamp(x, raw.sigmoid()[:, :, None]).flatten(0, 2)).view(tries * classes, len(x), classes)
        index = wanted[:, None].expand(-1, len(x), 1)
        others = logits.scatter(2, index, -torch.inf)
        ahead: Tensor = logits.gather(2, index)[..., 0] - (others.logsumexp(2) if smooth else others.amax(2))
        return ahead

    for _ in range(steps):
        x = clean[torch.randint(half, (batch,), generator=order).to(clean.device)]
        with torch.enable_grad():
            loss = functional.softplus(-margins(x, smooth=True)).mean(1).sum()
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    with torch.no_grad():
        x, y = clean[half:], y[half:]
        top = net(x).topk(2, 1).values
        reached = margins(x, smooth=False).masked_fill(wanted == y, torch.nan).nanmean(1)
        reached = reached / (top[:, 0] - top[:, 1]).mean().clamp_min(1e-12)
    return reached.view(tries, classes).double(), raw.detach().sigmoid()


def stamped(x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Pictures (N, C, H, W) under a mask (1, H, W), with the pattern (C, H, W) where it is 1."""
    return x + mask.to(x) * (pattern.to(x) - x)


def deviations_below(areas: Tensor) -> Tensor:
    """How many median absolute deviations (x 1.4826) each area (..., K) lies below the median of all; 0 above it."""
    middle = areas.quantile(0.5, -1, keepdim=True)
    deviation = SCALED * (areas - middle).abs().quantile(0.5, -1, keepdim=True)
    return (middle - areas).clamp_min(0) / deviation.clamp_min(1e-12)
