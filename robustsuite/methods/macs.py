"""Multiply-accumulates: what a picture costs a network, counted where they are done."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def macs(net: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Of one picture, asked with the first of x (N, C, H, W): convolutions, matrix products and attention.

    Torch counts two operations a multiply-accumulate. What is done value by value (norms, activations) counts nothing,
    as is usual.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        net(x[:1])
    return int(counted.get_total_flops()) // 2
