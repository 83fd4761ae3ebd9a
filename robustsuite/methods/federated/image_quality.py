"""How near a reconstruction comes: MSE, PSNR, SSIM, and which picture of a batch stands for which."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

LEAST = 1e-12
"""A mean squared error below this is shown as 120 dB."""


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared error (N,) float64 of pictures (N, C, H, W) in [0, 1]."""
    return (x.double() - x_hat.double()).square().flatten(1).mean(1)


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB: -10 log10 MSE, at most 120."""
    return -10 * mse(x, x_hat).clamp_min(LEAST).log10()


def ssim(x: Tensor, x_hat: Tensor, *, side: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity (N,) float64, the mean over channels and places where the window fits whole.

    Wang et al., 2004, "Image quality assessment", eq. 13: Gaussian window, C1 = 0.01^2, C2 = 0.03^2. Pictures smaller
    than the window get the largest odd one that fits.
    """
    a, b = x.double().flatten(0, 1)[:, None], x_hat.double().flatten(0, 1)[:, None]
    side = min(side, *(s - 1 + s % 2 for s in x.shape[2:]))
    axis = torch.arange(side, dtype=torch.float64, device=x.device) - side // 2
    bell = (-axis.square() / (2 * sigma**2)).exp()
    window = (bell[:, None] * bell[None] / bell.sum() ** 2)[None, None]

    def blur(t: Tensor) -> Tensor:
        return functional.conv2d(t, window)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return found.flatten(1).mean(1).view(x.shape[0], x.shape[1]).mean(1)


def matched(x: Tensor, x_hat: Tensor) -> Tensor:
    """Which of the reconstructions (T, B) stands for each picture: least squared error in sum over each batch.

    x, x_hat (T, B, C, H, W). The Hungarian method (Kuhn, 1955), so that no order of the batch is favoured.
    """
    table = torch.cdist(x.double().flatten(2), x_hat.double().flatten(2)).square()
    costs = table.nan_to_num(1e30, 1e30, 1e30).cpu().numpy()
    return torch.stack([torch.from_numpy(linear_sum_assignment(own)[1]) for own in costs]).to(x.device)
