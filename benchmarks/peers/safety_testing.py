"""SIFT-MCTS, with and without its keypoints and its tree, beside OnePixel with as many queries and white-box attacks.

    python benchmarks/peers/safety_testing.py [--shared FOLDER] [--out FOLDER] [--nets lenet5 resnet20 resnet4b]
                                              [--images 60] [--queries 2000]

FOLDER holds models/*.safetensors and data/{cifar10,mnist}/*.npz (default: $ROBUSTSUITE_SHARED). Budget: 20 values of
MNIST's 784, 24 of CIFAR-10's 3072 (8 pixels). A row: how many of the pictures that the net gets right are broken
within the budget, with Wilson's interval; the median of the changed values (no break: infinite); their mean over all
pictures, a picture that holds counted as one value more than the budget; how much more that is than the full search's,
with its bootstrap interval over pictures; mean queries. OnePixel stops at its first
success, ours goes on. What was computed stands under --out and is found again.

Measured, 2000 queries, 60 pictures (ResNet-20: 40): broken, median, mean, how much more than the full search's:

                            mnist_lenet5_adv                 cifar10_resnet4b_adv2
    sift_mcts               98 %    4   4.63                      67 %   13  14.30
    no keypoints            98 %    4   5.10  0.47 [-0.15, 1.10]  55 % 16.5  15.75  1.45 [0.58, 2.42]
    no tree                 88 %    5   7.18  2.55 [1.67, 3.52]   38 %  inf  17.55  3.25 [2.05, 4.57]
    neither                 97 %    5   5.87  1.23 [0.47, 2.05]   43 %  inf  17.00  2.70 [1.57, 3.95]
    OnePixel                90 %   20  19.82 15.18 [14.45, 15.85] 27 %  inf  24.68 10.38 [8.13, 12.53]
    JSMA (white box)         0 %  inf  21.00                      20 %  inf  23.97
    sigma_zero (white box)  98 %    7   8.18  3.55 [2.60, 4.52]   90 %    9  10.70 -3.60 [-4.72, -2.57]

    cifar10_resnet20: sift_mcts 100 %, 3, 4.50; no keypoints 98 %, 0.38 [-0.15, 0.93] more; no tree 92 %, 1.23
    [0.30, 2.35] more; neither 90 %, 1.48 [0.42, 2.77] more; OnePixel 85 %, 24; JSMA 48 %; sigma_zero 100 %, -0.70
    [-1.25, -0.20].

The paper says that a search guided by keypoints is competitive with white-box attacks by saliency matrices or by
optimisation. We see: it breaks more than JSMA on all three nets (but the package's goes for one class only), with fewer
changes than sigma_zero on the LeNet-5 and with more on the CIFAR-10 nets. Most of that is the tree's doing. With it,
keypoints save a tenth of the changes on ResNet-4B; on the others it may be nothing. Without it they save nothing that
shows, and on the LeNet-5 they cost 1.3 changes: chance looks at fewer pixels, and nothing that it learns sends it on.
Outside the network a question takes 0.15 to 0.27 ms of a busy core; the three nets take 0.12, 0.06 and 0.92.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.sift_mcts import board_of
from robustsuite.benchmarks.peers.decision import NETS, loaded
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.config.threats import L0, Access
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.game_tree import play
from robustsuite.serve.oracle import Oracle

WIDTH = 128
EXPLORE = card_of("attack", "sift_mcts").parameters["explore"]

Attack = Callable[..., Tensor]


def searched(model: Oracle, x: Tensor, y: Tensor, budget: L0, rng: Rng, queries: int, sift: bool, tree: bool) -> Tensor:
    """Our search over keypoints, or over pixels that are all alike; by the tree, or by chance alone."""
    board = board_of(x, budget, sift=sift)
    return play(model, x, y, budget, board, rng=rng, queries=queries, explore=EXPLORE, tree=tree).x_adv


def carded(model: Oracle, x: Tensor, y: Tensor, budget: L0, rng: Rng, queries: int, name: str, **given: Any) -> Tensor:
    """An attack of the registry."""
    found = card_of("attack", name).function(model, x, y, budget, rng=rng, **given)
    return getattr(found, "x_adv", found)  # type: ignore[no-any-return]


ATTACKS: dict[str, Attack] = {
    "sift_mcts": partial(searched, sift=True, tree=True),
    "no keypoints": partial(searched, sift=False, tree=True),
    "no tree": partial(searched, sift=True, tree=False),
    "neither": partial(searched, sift=False, tree=False),
    "OnePixel": partial(carded, name="torchattacks:OnePixel"),
    "JSMA (white box)": partial(carded, name="torchattacks:JSMA"),
    "sigma_zero (white box)": partial(carded, name="sigma_zero", steps=500),
}


def run(net: nn.Module, x: Tensor, y: Tensor, eps: int, queries: int, name: str) -> dict[str, Any]:
    """Changed values of each picture (None: holds), queries of all and seconds."""
    ids, budget = torch.arange(len(x)), L0(float(eps))
    model = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", ids), width=16 if "JSMA" in name else WIDTH)
    members = eps // x.shape[1] * (2 + x.shape[1])  # of a generation: one for each number that is sought
    given = {"steps": queries // (members + 1) - 1} if name == "OnePixel" else {}
    began = time.perf_counter()
    x_adv = ATTACKS[name](model, x, y, budget, Rng.of(0, "attack", ids), queries, **given)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        wrong = torch.cat([net(part).argmax(1) for part in x_adv.split(WIDTH)]) != y
    number = (x_adv != x).flatten(1).sum(1)
    lengths = [int(k) if broken and k <= eps else None for k, broken in zip(number, wrong, strict=True)]
    return {"lengths": lengths, "queries": model.counts.totals()[0] / len(x), "seconds": seconds}


def told(name: str, done: dict[str, Any], full: dict[str, Any], eps: int) -> None:
    """A row of the table."""
    length, beside = (np.array([np.inf if k is None else k for k in d["lengths"]]) for d in (done, full))
    broken = np.isfinite(length)
    low, high = stats.wilson(int(broken.sum()), len(length))
    more = np.minimum(length, eps + 1) - np.minimum(beside, eps + 1)
    ends = stats.bootstrap_interval(more, 0)
    print(f"  {name:24}{100 * broken.mean():5.0f} [{100 * low:3.0f}, {100 * high:3.0f}]{np.median(length):8.1f}"
          f"{np.minimum(length, eps + 1).mean():8.2f}{more.mean():8.2f} [{ends[0]:5.2f}, {ends[1]:5.2f}]"
          f"{done['queries']:8.0f}{done['seconds']:8.0f}", flush=True)  # fmt: skip


def main() -> None:
    """Compute what is missing, and print a table a net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("safety_testing"))
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=["lenet5", "resnet20", "resnet4b"])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--queries", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for net_name in given.nets:
        net, x, y, _ = loaded(given.shared, net_name, given.images)
        eps, done = 20 if x.shape[1] == 1 else 24, {}
        print(
            f"{NETS[net_name][0]}, {len(x)} pictures, {eps} of {x[0].numel()} values, {given.queries} queries\n"
            f"  {'':24}broken %         median    mean    more [95 %]          queries seconds",
            flush=True,
        )
        for name in ATTACKS:
            file = given.out / f"{net_name}-{name.replace(' ', '_')}-{given.images}-{given.queries}.json"
            done[name] = kept(file, partial(run, net, x, y, eps, given.queries, name))
            told(name, done[name], done["sift_mcts"], eps)


if __name__ == "__main__":
    main()
