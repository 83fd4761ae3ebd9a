"""Which classes a batch held, read off the last layer's gradient.

For logits z = W h + b the cross-entropy of a batch of B has db_c = p_c - n_c / B, with p the mean softmax and n_c the
number of examples of class c: a class that is there is negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.methods.federated.gradient_matching import Observed
from robustsuite.methods.federated.updates import Head

DUMMIES = 16
"""Noise pictures that tell an observer what an unknown picture is answered with."""


def idlg(weight: Tensor) -> Tensor:
    """The one class (T, 1) whose row of the weight gradient (T, C, d) sums to the least.

    (Zhao et al., 2020, arXiv:2001.02610, eq. 6.) For one picture a client and features that are not negative.
    """
    return weight.sum(2).argmin(1, keepdim=True)


def least_rows(weight: Tensor, n: int) -> Tensor:
    """The n classes (T, n) whose rows of the weight gradient (T, C, d) have the least entries, sorted.

    (Yin et al., 2021, arXiv:2104.07586, eq. 4.) For batches without a class twice.
    """
    return weight.amin(2).topk(n, dim=1, largest=False).indices.sort(1).values


def counted(signal: Tensor, expected: Tensor, n: int) -> Tensor:
    """n classes (T, n), sorted, repeats and all, from a signal (T, C) that is scale * (p_c - n_c / n).

    expected (C,): p, as unknown pictures are answered. The scale is 1, or, where that gives no whole numbers (clipping
    shrinks an update), what the classes below zero would add up to if they were all. Each of those is there once, the
    rest goes to whoever is owed most. (After Wainakh et al., 2022, arXiv:2105.09369, algorithm 1; p for its 1 / C.)
    """
    below, p = signal < 0, expected.to(signal)
    missing = ((p * below).sum(1) - 1).clamp_max(-1e-3)
    shrunk = ((signal * below).sum(1) / missing).clamp_min(1e-30)[:, None]
    plain, rescaled = n * (p - signal), n * (p - signal / shrunk)
    owed = torch.where((_off(plain) <= _off(rescaled))[:, None], plain, rescaled)
    surely = torch.where(below, signal, torch.inf).topk(min(n, signal.shape[1]), dim=1, largest=False)
    given = torch.zeros_like(signal).scatter_(1, surely.indices, torch.isfinite(surely.values).to(signal))
    for _ in range(n):
        short = (given.sum(1) < n).to(signal)
        given.scatter_add_(1, (owed - given).argmax(1, keepdim=True), short[:, None])
    ends = given.cumsum(1)
    return (torch.arange(n, device=signal.device)[None, :, None] >= ends[:, None, :]).sum(2)


def _off(counts: Tensor) -> Tensor:
    """How far (T,) counts (T, C) are from whole numbers that are not negative."""
    return (counts - counts.round().clamp_min(0)).abs().amax(1)


def recovered(seen: Observed) -> Tensor:
    """The classes (T, B) of every client: as granted, else `counted` from the bias, or from the weight without one."""
    if seen.labels is not None:
        return seen.labels
    head, n = seen.client.head(seen.shape[1:]), seen.shape[0]
    probability, feature_sum = _unknown(seen, head)
    signal = seen.update[head.weight].sum(2) / feature_sum if head.bias is None else seen.update[head.bias]
    return counted(signal, probability, n)


def weight_gradient(seen: Observed) -> Tensor:
    """The last layer's weight gradient (T, classes, d)."""
    return seen.update[seen.client.head(seen.shape[1:]).weight]


def _unknown(seen: Observed, head: Head) -> tuple[Tensor, float]:
    """Mean softmax (C,) and mean sum of features of noise pictures.

    A trained network is sure of its answers to noise, which tells nothing of pictures: there p is 1 / C.
    """
    device = seen.update[head.weight].device
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(DUMMIES, *seen.shape[1:], generator=generator).to(device)
    with torch.no_grad():
        h = seen.client.features(noise, head)
        p = seen.client.net(noise).softmax(1).mean(0)
    if seen.terms.trained:
        p = torch.full_like(p, 1 / len(p))
    return p, float(h.flatten(1).sum(1).mean()) or 1.0
