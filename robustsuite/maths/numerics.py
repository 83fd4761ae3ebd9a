"""What float32 means on a GPU, and on how many threads of a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

THREADS = int(os.environ["OMP_NUM_THREADS"]) if os.environ.get("OMP_NUM_THREADS", "").isdigit() else 1
"""Threads of one process: sums in float32 end in other bits when others share them, so their number never follows the
machine. More cores are for more workers."""


@contextmanager
def threads() -> Iterator[None]:
    """THREADS while it lasts, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32(*, tf32: bool = False) -> Iterator[None]:
    """Products of float32 in float32 while it lasts, and the same bits each time.

    torch lets CUDA's convolutions round to TF32's ten bits, and lets cuDNN add up gradients in the order in which they
    come: FMN's pictures were others in a second run. tf32: round, and in matrix products as well.
    """
    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, cudnn
    before, ordered = [backend.allow_tf32 for backend in backends], cudnn.deterministic
    try:
        for backend in backends:
            backend.allow_tf32 = tf32
        cudnn.deterministic = True
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
        cudnn.deterministic = ordered


def as_bytes(tensor: Tensor) -> bytes:
    """The values of a tensor in row-major order, as this machine stores them.

    A tensor of one value counts as contiguous whatever its stride is, and `view` refuses it: so it is copied.
    """
    whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return whole.reshape(-1).view(torch.uint8).numpy().tobytes()
