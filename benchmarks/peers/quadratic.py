"""The ordered projection beside scipy's nnls on random heads of 1000 classes: agreement, violation, time an image.

    python -m robustsuite.benchmarks.peers.quadratic [--instances 100]
    python -m robustsuite.benchmarks.peers.quadratic --share [--batches 4,8,16] [--steps 8]

Share: how much of an attack's step on a torchvision resnet50 (random weights, 224 pixels, d = 2048, 1000 classes,
K = 5) the quadratic programs take, on one thread. The net is asked in tiles of 16, so 4 and 8 pictures cost it as much
as 16 do; the share is given for that, and for a step whose net takes only its part of a tile.

Warm is the time for features that moved by a hundredth of their length since the last solution, as in an attack.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torchvision
from scipy.optimize import nnls
from torch import Tensor

from robustsuite.attacks.evasion.quadattack import quadattack
from robustsuite.config.threats import L2, Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import quadratic
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import TILE, Oracle

SOLVER = quadratic.multipliers
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


class Clock(NamedTuple):
    """Seconds of the processor at which each solution was begun, and what each took."""

    begun: list[float]
    spent: list[float]

    def __call__(self, *given: Any) -> Tensor:
        self.begun.append(time.process_time())
        found = SOLVER(*given)
        self.spent.append(time.process_time() - self.begun[-1])
        return found


def share(batches: list[int], steps: int) -> None:
    """Print one row a batch: medians over the steps, and the longest solution, which is the first, cold one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, generator = ready(torchvision.models.resnet50()), torch.Generator().manual_seed(1)
    print(f"{steps} steps each, K = 5\n batch   step ms     QP ms  longest   share  without padding")
    for n in batches:
        ids, clock = torch.arange(n), Clock([], [])
        x = torch.rand(n, 3, 224, 224, generator=generator)
        targets = torch.stack([torch.randperm(CLASSES, generator=generator)[:5] for _ in range(n)])
        model = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", ids), width=64)
        with mock.patch.object(quadratic, "multipliers", clock):
            quadattack(
                model, x, torch.zeros_like(ids), L2(100.0), targets=targets, rng=Rng.of(0, "a", ids), iterations=steps
            )
        step, qp = float(np.median(np.diff(clock.begun))), float(np.median(clock.spent))
        bare = qp + (step - qp) * n / (-(-n // TILE) * TILE)
        print(
            f"{n:6} {1e3 * step:9.0f} {1e3 * qp:9.2f} {1e3 * max(clock.spent):8.2f} {qp / step:7.2%} {qp / bare:7.2%}",
            flush=True,
        )


def main() -> None:
    """Print one row a size and list length, or a batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--batches", default="4,8,16")
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    if given.share:
        share([int(n) for n in given.batches.split(",")], given.steps)
        return
    n = -(-given.instances // (len(SIZES) * len(LENGTHS)))
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
