"""Square beside pyautoattack's at AutoAttack's 5000 queries: who stands, over several seeds of both.

    python benchmarks/peers/square.py [--shared FOLDER] [--out FOLDER] [--images 200] [--seeds 5] [--queries 5000]

The two cannot agree image by image: pyautoattack draws one window for a whole batch, ours one for each image. So each
plays several seeds on the images that the net gets right, and the shares that stand are compared: ours - theirs in
points, with a 95 % bootstrap interval over images and seeds, and the images on which the majorities of the seeds
differ. What majorities of ours differ by among as many other seeds of ours stands beside it: that much is chance. Both
are judged by the same forward pass. What was computed stands under --out, a json a seed, and is found again.

Measured, 200 images, 3 seeds of theirs and 6 of ours: on cifar10_cnn_a_adv4 at linf 8/255 ours leaves 43.6 %, theirs
44.8 %, a difference of -1.25 points [-2.75, 0.00]; majorities differ on 3 images, ours among itself on 1. Theirs never
draws a window that touches the last row or column. On cifar10_resnet4b_adv2 at l2 1.0 ours leaves 53.2 %, theirs
54.2 %, a difference of -0.92 points [-2.34, +0.17]; majorities differ on 1 image, ours among itself on 3. On resnet4b
at linf 4/255 61.7 % and 62.7 %, -1.00 points [-2.50, 0.00]; 2 images, 0. On cnn_a at l2 1.0 54.8 % and 54.5 %, +0.25
points [-1.67, +2.08]; 4 images, 3.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robustsuite.benchmarks.peers.decision import NETS, loaded
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import BALLS, Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.square import square
from robustsuite.serve.oracle import Oracle

SETTINGS = (("cnn_a", "linf", 8 / 255), ("resnet4b", "l2", 1.0), ("resnet4b", "linf", 4 / 255), ("cnn_a", "l2", 1.0))
"""net, norm and radius, at which some of the images that the net gets right stand and some break."""


def ours(net: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int, queries: int) -> Tensor:
    """Pictures of one seed of ours."""
    ids = torch.arange(len(x))
    oracle = Oracle.over(net, Access.SCORES, Rng.of(seed, "oracle", ids), width=len(x))
    return square(oracle, x, y, BALLS[norm](eps), rng=Rng.of(seed, "square", ids), steps=queries)[0]


def theirs(net: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int, queries: int) -> Tensor:
    """Pictures of one seed of theirs, as AutoAttack sets it up."""
    attack = SquareAttack(net, norm={"linf": "Linf", "l2": "L2"}[norm], n_queries=queries, eps=eps, p_init=0.8,
                          n_restarts=1, seed=seed, verbose=False, device="cpu", resc_schedule=False)  # fmt: skip
    with torch.no_grad():
        found: Tensor = attack.perturb(x.contiguous(), y)
    return found


def standing(
    attack: Any, net: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int, queries: int
) -> list[bool]:
    """Which pictures (N,) the attack leaves; ends the script where one of its own is outside the ball."""
    x_adv = attack(net, x, y, norm, eps, seed, queries)
    if not bool(BALLS[norm](eps).allows(x, x_adv).all()):
        raise SystemExit(f"{attack.__name__}: a picture of seed {seed} is outside the ball")
    stands: list[bool] = (net(x_adv).argmax(1) == y).tolist()
    return stands


def verdicts(given: argparse.Namespace, name: str, norm: str, eps: float) -> dict[str, Any]:
    """Who stands (seeds, N), of ours, of ours with other seeds, and of theirs; each seed is kept when it is done."""
    net, x, y, _ = loaded(given.shared, name, given.images)
    found: dict[str, Any] = {"ours": [], "theirs": [], "again": []}
    for seed in range(given.seeds):
        for label, attack, drawn in (("ours", ours, seed), ("theirs", theirs, seed), ("again", ours, seed + 1000)):
            file = given.out / f"{name}-{norm}-{eps:.5f}-{given.images}-{given.queries}-{attack.__name__}-{drawn}.json"
            found[label].append(kept(file, partial(standing, attack, net, x, y, norm, eps, drawn, given.queries)))
    return {label: np.array(rows) for label, rows in found.items()}


def interval(a: Any, b: Any) -> tuple[float, float]:
    """95 % of mean(a) - mean(b), both (seeds, N), over images and over the seeds of each."""
    draw = np.random.default_rng(0)
    values = []
    for _ in range(2000):
        i, one, other = (draw.integers(0, n, size=n) for n in (a.shape[1], len(a), len(b)))
        values.append(a[one][:, i].mean() - b[other][:, i].mean())
    return tuple(100 * np.quantile(values, [0.025, 0.975]))  # type: ignore[return-value]


def main() -> None:
    """Compute what is missing, then print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("square"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=5000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{given.images} images, {given.seeds} seeds, {given.queries} queries, {torch.get_num_threads()} thread(s)")
    print(f"{'net':24} {'norm':4}     eps   ours  theirs  difference 95 %      majorities differ (ours among itself)")
    for name, norm, eps in SETTINGS:
        found = verdicts(given, name, norm, eps)
        a, again, b = (found[label] for label in ("ours", "again", "theirs"))
        lo, hi = interval(np.concatenate([a, again]), b)
        most = [part.mean(0) > 0.5 for part in (a, again, b)]
        mean = 100 * np.concatenate([a, again]).mean()
        other = 100 * b.mean()
        print(f"{NETS[name][0]:24} {norm:4} {eps:7.4f} {mean:6.2f}  {other:6.2f} {mean - other:+6.2f} "
              f"[{lo:+.2f}, {hi:+.2f}] {int((most[0] != most[2]).sum()):6} of {a.shape[1]} "
              f"({int((most[0] != most[1]).sum())})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
