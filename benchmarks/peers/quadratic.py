"""The ordered projection beside scipy's nnls on random heads of 1000 classes: agreement, violation, time an image.

    python -m robustsuite.benchmarks.peers.quadratic [--instances 100]

Warm is the time for features that moved by a hundredth of their length since the last solution, as in an attack.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from robustsuite.methods import quadratic

CLASSES, SIZES, LENGTHS = 1000, (512, 1024, 2048), (1, 5, 10, 20)


def reference(f: np.ndarray, weight: np.ndarray, bias: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """z* - f by least distance programming (Lawson and Hanson, 1974, chapter 23)."""
    leads = np.full(len(weight), targets[-1])
    leads[targets[1:]] = targets[:-1]
    kept = np.delete(np.arange(len(weight)), targets[0])
    g = (weight[leads] - weight)[kept]
    h = (quadratic.MARGIN - bias[leads] + bias)[kept] - g @ f
    system, goal = np.vstack([g.T, h]), np.append(np.zeros(len(f)), 1.0)
    residual = system @ nnls(system, goal, maxiter=30_000)[0] - goal
    return -residual[:-1] / residual[-1]


def solve(logits: Tensor, to: quadratic.Order, gram: Tensor, start: Tensor) -> tuple[Tensor, float]:
    """The multipliers, and seconds an image."""
    begun = time.perf_counter()
    found = quadratic.multipliers(logits, to, gram, start)
    return found, (time.perf_counter() - begun) / len(logits)


def main() -> None:
    """Print one row a size and list length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=100)
    n = -(-parser.parse_args().instances // (len(SIZES) * len(LENGTHS)))
    print(f"{n} instances a row\n    d   K  in use  violation  difference  cold ms  warm ms  nnls ms")
    generator = torch.Generator().manual_seed(0)
    for d in SIZES:
        weight = torch.randn(CLASSES, d, generator=generator, dtype=torch.float64) / d**0.5
        bias = 0.1 * torch.randn(CLASSES, generator=generator, dtype=torch.float64)
        gram = quadratic.gram(weight)
        for k in LENGTHS:
            f = 2 * torch.randn(n, d, generator=generator, dtype=torch.float64).relu()
            lists = torch.stack([torch.randperm(CLASSES, generator=generator)[:k] for _ in range(n)])
            to = quadratic.order(lists, CLASSES)
            found, cold = solve(f @ weight.T + bias, to, gram, torch.zeros(n, CLASSES, dtype=torch.float64))
            change = quadratic.combined(found, to) @ weight
            least = quadratic.slack((f + change) @ weight.T + bias, to).min()
            moved = f + 0.01 * f.norm(dim=1, keepdim=True) / d**0.5 * torch.randn(n, d, generator=generator)
            _, warm = solve(moved @ weight.T + bias, to, gram, found)
            begun = time.perf_counter()
            far = np.stack([reference(*(v.numpy() for v in (f[i], weight, bias, lists[i]))) for i in range(n)])
            slow = (time.perf_counter() - begun) / n
            off = np.linalg.norm(change.numpy() - far, axis=1) / np.linalg.norm(far, axis=1)
            print(
                f"{d:5} {k:3} {float((found > 0).sum(1).double().mean()):7.1f} {max(0.0, -float(least)):10.1e} "
                f"{off.max():11.1e} {1e3 * cold:8.2f} {1e3 * warm:8.2f} {1e3 * slow:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
