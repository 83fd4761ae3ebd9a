"""Networks of prototypes on MNIST: what they prove, and what attacks leave, at the radii of the paper.

    python benchmarks/peers/prototypes.py --shared FOLDER --out FOLDER [--train 6000] [--images 500] [--epochs 40]

FOLDER of --shared holds data/mnist/mnist_test8000.npz: the first pictures train, the last are certified and attacked
by FMN in l2. With and without negative reasoning, everything else as published. Exact 95 % intervals. One thread; every
setting is kept under --out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustsuite.attacks.evasion.minimum_norm.fmn import fmn
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import L2, Access
from robustsuite.defenses.certifiers.prototypes import prototypes
from robustsuite.defenses.train.prototype_network import prototype_network
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Split
from robustsuite.serve.kept import kept as trained
from robustsuite.serve.kept import key_of
from robustsuite.serve.models import Training, as_it_is, ready
from robustsuite.serve.oracle import Oracle

RADII = (0.0, 0.5, 1.0, 1.58)


def proven(negative: bool, args: argparse.Namespace) -> dict[str, Any]:
    """How many of --images are proven, and still right under attack, at each radius."""
    stored = np.load(args.shared / "data/mnist/mnist_test8000.npz")
    every = Split.of(torch.from_numpy(stored["images"])[:, None], torch.from_numpy(stored["labels"].astype("int64")))
    train, rows = every.first(args.train), torch.arange(len(every) - args.images, len(every))
    x, y = every.images(rows), every.y[rows]
    fit = prototype_network(as_it_is, negative=negative, epochs=args.epochs)
    key = key_of([str(args.train), str(args.epochs), str(negative)])
    shapes = (fit.shape,)  # type: ignore[attr-defined]
    training = Training(train, train.first(1), seed=0, tell=print)
    net = ready(trained(fit, key, shapes)(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), training))
    found = prototypes(net, x, y, L2(0.5))
    right, rng = found.prediction == y, Rng.of(0, "bench", rows)
    x_adv = fmn(Oracle.over(net, Access.WHITE_BOX, rng, width=128), x, y, L2(torch.inf), rng=rng, steps=100)
    with torch.no_grad():
        broken = net(x_adv).argmax(1) != y
    distance = torch.where(right, (x_adv - x).flatten(1).norm(dim=1), 0.0).masked_fill(right & ~broken, torch.inf)
    assert bool((found.radius[right] <= distance[right].double() + 1e-4).all())
    return {
        "images": args.images,
        "proven": [int((right & (found.radius >= r)).sum()) for r in RADII],
        "attacked": [int((right & (distance > r)).sum()) for r in RADII],
        "ratio": float((found.radius[right] / distance[right]).median()),
    }


def main() -> None:
    """Print a line a network, with its intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    os.environ["ROBUSTSUITE_CACHE"] = str(args.out)
    for name, negative in (("components", True), ("RBF", False)):
        file = args.out / f"{name}-{args.train}-{args.epochs}-{args.images}.json"
        found = dict(kept(file, lambda negative=negative: proven(negative, args)))  # type: ignore[misc]
        n = found["images"]
        for what in ("proven", "attacked"):
            rates = ", ".join(
                f"{r:g}: {k / n:.1%} [{lo:.1%}, {hi:.1%}]"
                for r, k in zip(RADII, found[what], strict=True) for lo, hi in (stats.clopper_pearson(k, n),)
            )  # fmt: skip
            print(f"{name}, {what} at {rates}, n = {n}")
        print(f"{name}: median of radius over the attack's distance {found['ratio']:.2f}", flush=True)


if __name__ == "__main__":
    main()
