"""PGD-50 beside torchattacks.PGD: same weights, pictures, steps, step size and batch, one process, one judge.

    python benchmarks/peers/pgd.py [--folder FOLDER] [--images 256] [--repeats 3]

FOLDER holds models/*.safetensors and data/cifar10/*.npz (default: $ROBUSTSUITE_SHARED). Both sides are handed all
pictures; ours first asks which are right and attacks those, inside the time that is measured. The peer's net keeps
torch's default memory format and trainable weights, as a user hands it over; ours is as our loader makes it.
Robust accuracy is the judge's, in float32 with near ties asked again in float64, for both. Times: least of the repeats.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchattacks
from torch import Tensor, nn

from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.benchmarks.models.checkpoint import checkpoint
from robustsuite.config.threats import Access, Linf
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle

STEPS, REL_STEP, WIDTH = 50, 0.25, 64
SETTINGS = [
    ("cifar10_resnet4b_adv2", "resnet4b", 2, 1),
    ("cifar10_resnet4b_adv2", "resnet4b", 3, 1),
    ("cifar10_resnet4b_adv2", "resnet4b", 8, 1),
    ("cifar10_resnet18_std", "resnet18_cifar", 0.5, 4),
    ("cifar10_resnet18_std", "resnet18_cifar", 8, 4),
]
"""Weights, architecture, eps in 255ths, and by how much fewer pictures the net is given."""


def ours(net: nn.Module, x: Tensor, y: Tensor, ball: Linf) -> Tensor:
    """Our PGD on what the net gets right."""
    ids = torch.arange(len(x))
    right = torch.cat([net(part) for part in torch.split(x, WIDTH)]).argmax(1) == y
    model = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", ids[right]), width=WIDTH)
    found = pgd(model, x[right], y[right], ball, rng=Rng.of(0, "pgd", ids[right]), steps=STEPS, rel_step=REL_STEP)
    x_adv = x.clone()
    x_adv[right] = found.x_adv
    return x_adv


def peers(net: nn.Module, x: Tensor, y: Tensor, ball: Linf) -> Tensor:
    """torchattacks.PGD, batch by batch, as its documentation uses it."""
    attack = torchattacks.PGD(net, eps=ball.eps, alpha=REL_STEP * ball.eps, steps=STEPS, random_start=True)
    return torch.cat([attack(a, b) for a, b in zip(torch.split(x, WIDTH), torch.split(y, WIDTH), strict=True)])


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    """Its result, wall seconds and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print one row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="weights whose name holds this")
    given = parser.parse_args()
    split = load_data({"cifar10": {"root": str(given.folder / "data/cifar10"), "pack": "jpeg"}})[1].first(given.images)
    pictures, labels = split.images(torch.arange(given.images)), split.y
    print(f"PGD-{STEPS}, step eps/{1 / REL_STEP:g}, batch {WIDTH}, {torch.get_num_threads()} thread(s)")
    print("model                  eps/255    n  clean   RA ours / peer   wall s ours / peer      cpu s ours / peer")
    for name, arch, eps, fewer in [s for s in SETTINGS if given.only in s[0]]:
        file = given.folder / f"models/{name}.safetensors"
        net = ready(checkpoint(str(file), InputSpace(3, 32, 32, 10), arch=arch).net)
        plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format).requires_grad_()  # type: ignore[call-overload]
        n, ball = max(given.images // fewer, 8), Linf(eps / 255)
        x, y = pictures[:n], labels[:n]
        best: dict[str, tuple[float, float, float]] = {}
        judge = Judge(net, stochastic=False, width=WIDTH)
        clean = 1 - judge(x, y, Rng.of(0, "judge", torch.arange(n))).wrong.float().mean()
        for _ in range(given.repeats):
            for side in (ours, peers):
                torch.manual_seed(0)
                x_adv, wall, cpu = timed(partial(side, plain if side is peers else net, x, y, ball))
                robust = ~judge(x_adv, y, Rng.of(0, "judge", torch.arange(n))).wrong & ball.allows(x, x_adv)
                before = best.get(side.__name__, (0.0, 1e9, 1e9))
                best[side.__name__] = float(robust.float().mean()), min(wall, before[1]), min(cpu, before[2])
        (ra, wall, cpu), (ra2, wall2, cpu2) = best["ours"], best["peers"]
        print(
            f"{name:22} {eps:7} {n:4} {clean:6.1%} {ra:8.1%} {ra2:6.1%} {wall:8.2f} {wall2:7.2f} {wall2 / wall:5.1f}x"
            f" {cpu:8.2f} {cpu2:7.2f} {cpu2 / cpu:5.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
