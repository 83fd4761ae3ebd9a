"""What this machine's framework does in the places where versions differ: stored with every result."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional


def canaries() -> dict[str, str | float | bool]:
    """What this machine's framework does in the places where versions differ; stored with every result (0.1 s).

    clamp_gradient_at_bound: 1 until torch 2.13, 0 since 2.14. jit_gradients_agree: a scripted function's first and
    later calls. conv_repeats: whether a convolution gives the same bits twice. tf32_matmul, tf32_conv: flags.
    """
    edge = torch.tensor([0.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(edge.clamp(0, 1).sum(), edge)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.linspace(-1, 1, 2 * 8 * 16 * 16, device=device).view(2, 8, 16, 16)
    weight = torch.linspace(-1, 1, 8 * 8 * 9, device=device).view(8, 8, 3, 3)
    first, second = (functional.conv2d(values, weight, padding=1) for _ in range(2))
    return {
        "torch": str(torch.__version__),
        "device": device,
        "clamp_gradient_at_bound": float(slope.mean()),
        "jit_gradients_agree": _jit_agrees(),
        "conv_repeats": bool(torch.equal(first, second)),
        "tf32_matmul": bool(torch.backends.cuda.matmul.allow_tf32),
        "tf32_conv": bool(torch.backends.cudnn.allow_tf32),
        "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
    }


def _jit_agrees() -> bool:
    """The executor rewrites a graph after its first calls; at a bound, gradients have differed between them."""

    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(0.0, 1.0) * 2.0

    x = torch.tensor([0.0, 0.5, 1.0])
    with warnings.catch_warnings():  # tracing is deprecated, and still what exported models come as
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Clamped(), x, check_trace=False)  # the check would import a second of other modules
    grads = []
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(traced(leaf).sum(), leaf)[0])
    return all(torch.equal(grads[0], g) for g in grads[1:])
