"""The two searches of CGBA, chord (CGBA-H) and half circle (CGBA), on the same images from the same starts, in pairs.

    python benchmarks/peers/paths.py [--shared FOLDER] [--out FOLDER] [--nets resnet4b resnet20 lenet5 mobilenet]
                                     [--images 40] [--queries 10000]

Each net and goal is attacked with both, and everything else is equal: starts, probes, sigma, tol, band and queries. At
each checkpoint: the median l2 of both; half circle / chord, the geometric mean over images, with its 95 % bootstrap
interval over images; and on how many the half circle is nearer. Below 1 the half circle is nearer. What was computed
stands under --out, a json for each net, goal and path, and is found again.

Measured, half circle / chord [95 %], and on how many of the last column the half circle is nearer:

    net                       goal        after 1000            after 5000            after 10,000
    cifar10_resnet4b_adv2     untargeted  0.949 [0.940, 0.959]  0.974 [0.968, 0.978]  0.985 [0.980, 0.989]  29 of 30
    cifar10_resnet4b_adv2     targeted    0.959 [0.937, 0.980]  0.957 [0.944, 0.970]  0.963 [0.944, 0.979]  28 of 30
    mnist_lenet5_adv          untargeted  0.935 [0.907, 0.970]  0.961 [0.920, 1.002]  0.970 [0.929, 1.011]  25 of 30
    mnist_lenet5_adv          targeted    0.967 [0.951, 0.983]  0.959 [0.934, 0.978]  0.969 [0.947, 0.985]  28 of 30
    imagenet_mobilenetv1_025  targeted    2.289 [1.358, 4.411]  2.489 [1.552, 3.990]                         0 of 5

30 images, of the MobileNet 8, 5 of them with a picture of the target class to start from. On small pictures the half
circle gains 4 %; on ImageNet's, from far starts toward a class, it loses by a factor of 2.5.
So cgba_h stays with the paper's chord.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.decisions.cgba import Settings, walk
from robustsuite.benchmarks.peers.decision import NETS, drawn_targets, loaded, ratios
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import Decisions, noise_start, picture_start
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle

PATHS = ("semicircle", "chord")
GOALS = ("untargeted", "targeted")
DEFAULT = ["resnet4b", "lenet5", "resnet20", "mobilenet"]


def track(net: nn.Module, x: Tensor, y: Tensor, owned: Split, goal: str, path: str, queries: int) -> Any:
    """The l2 (N, checkpoints) of the nearest adversarial picture by then, inf for none."""
    ids, toward = torch.arange(len(x)), goal == "targeted"
    oracle = Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", ids), width=len(x))
    classes = drawn_targets(x, y, owned)[:, 0] if toward else y
    ask, rng = Decisions(oracle, x, classes, targeted=toward, queries=queries), Rng.of(0, "attack", ids)
    start, found = picture_start(ask, ids, owned) if toward else noise_start(ask, ids, rng.fold("start"))
    settings = Settings(sigma=3e-3, tol=2e-3, n0=30, f=1 if x.shape[-1] < 16 else 2 if x.shape[-1] < 96 else 4)
    walk(ask, ids[found], start[found], rng[found], settings, straight=path == "chord")
    return ask.track.tolist()


def main() -> None:
    """Compute what is missing, then print one table a net and goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("paths"))
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=DEFAULT)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--queries", type=int, default=10000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.nets:
        net, x, y, owned = loaded(given.shared, name, given.images)
        for goal in GOALS:
            found = []
            for path in PATHS:
                file = given.out / f"{name}-{goal}-{path}-{given.images}-{given.queries}.json"
                made = partial(track, net, x, y, owned, goal, path, given.queries)
                found.append(np.array(kept(file, made)))
            print(f"{NETS[name][0]}, {goal}, {len(x)} images, {torch.get_num_threads()} thread(s)\n  queries   "
                  f"circle     chord    ratio 95 % interval   nearer", flush=True)  # fmt: skip
            ratios(*found, given.queries)


if __name__ == "__main__":
    main()
