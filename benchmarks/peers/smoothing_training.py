"""Trainings for randomized smoothing on CIFAR-10 pictures: what each certifies, and how its p_A are spread.

    python benchmarks/peers/smoothing_training.py --shared FOLDER --out FOLDER [--train 10000] [--images 500] [--n 1000]

FOLDER of --shared holds data/cifar10/*_jpeg.npz. One clean network (three convolutions, `cnn_3_relu`) is trained, and
each method starts from it: gaussian_augmentation, smoothadv and consistency fine-tune it, denoised_smoothing leaves it
as it is. All see the same pictures for as many epochs. Then the smoothing certifier, n0 = 100: certified accuracy with
exact 95 % intervals at several radii, ACR, and quantiles of the lower bound of p_A of the right class (0 where another
is chosen). --votes certifies gaussian_augmentation with each of these n as well. One thread. Every training and every
certificate is kept under --out as it ends and found again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.special import ndtri
from torch import nn

from robustsuite.benchmarks.models import small_nets
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.benchmarks.peers.smoothing import pictures
from robustsuite.defenses.certifiers.smoothing import certify
from robustsuite.defenses.train.consistency import consistency
from robustsuite.defenses.train.denoised_smoothing import denoised_smoothing
from robustsuite.defenses.train.gaussian_augmentation import gaussian_augmentation
from robustsuite.defenses.train.smoothadv import smoothadv
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.kept import kept as trained
from robustsuite.serve.kept import key_of
from robustsuite.serve.models import Fit, Reshaping, Training, as_it_is, ready
from robustsuite.serve.training import FromScratch, Recipe, accuracy, one_cycle

SIGMA = 0.25
RADII = (0.0, 0.25, 0.5, 0.75)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def methods(epochs: int, lr: float) -> dict[str, Fit]:
    """Each training by its name."""
    given: dict[str, Any] = {"sigma": SIGMA, "epochs": epochs, "lr": lr}
    share = max(1, epochs // 3)
    return {
        "none": as_it_is,
        "gaussian": gaussian_augmentation(as_it_is, **given),
        "consistency": consistency(as_it_is, weight=10, **given),
        "smoothadv": smoothadv(as_it_is, eps="64/255", steps=2, draws=2, **given),
        "denoised": denoised_smoothing(as_it_is, sigma=SIGMA, mse_epochs=max(1, epochs - share), stability_epochs=share,
                                       depth=5, width=16),
    }  # fmt: skip


def certified(net: nn.Module, test: Split, n: int) -> dict[str, Any]:
    """What the certifier says of these pictures, and what it took."""
    rows, start = torch.arange(len(test)), time.process_time()
    found = certify(net, test.images(rows), sigma=SIGMA, rng=Rng.of(0, "bench", rows), n0=100, n=n)
    right = found.prediction == test.y
    radius, p_low = (torch.where(right, part, 0.0) for part in (found.radius, found.p_low))
    proven = [int((right & (radius >= r)).sum()) for r in RADII]
    return {
        "n": n, "images": len(test), "proven": proven,
        "intervals": [stats.clopper_pearson(k, len(test)) for k in proven],
        "acr": float(radius.mean()), "p_a": torch.quantile(p_low, torch.tensor(QUANTILES).double()).tolist(),
        "seconds": time.process_time() - start,
    }  # fmt: skip


def network(name: str, args: argparse.Namespace) -> nn.Module:
    """The clean network, or what the method makes of it; kept under --out."""
    space = InputSpace(3, 32, 32, 10)
    scratch = FromScratch(partial(small_nets.build, "cnn_3_relu", space),
                          Recipe(args.epochs, one_cycle(0.2, args.epochs), flip=True, crop=4))  # fmt: skip
    split = Split.of(*pictures(args.shared / "data/cifar10/cifar10_train50000_jpeg.npz", args.train))
    training = Training(split, split.first(1), seed=0, tell=lambda line: print(f"{name}: {line}", file=sys.stderr))
    facts = [str(args.train), str(args.epochs)]
    net = trained(scratch, key_of([*facts, "clean"]))(scratch.fresh(0), training)
    fit = methods(args.epochs, args.lr)[name]
    shapes = (fit.shape,) if isinstance(fit, Reshaping) else ()
    return ready(trained(fit, key_of([*facts, str(args.lr), name]), shapes)(net, training))


def setting(name: str, n: int, args: argparse.Namespace) -> dict[str, Any]:
    """What one method certifies with n votes, made or found again."""

    def made() -> dict[str, Any]:
        net = network(name, args)
        test = Split.of(*pictures(args.shared / "data/cifar10/cifar10_test8000_jpeg.npz", args.images))
        return {**certified(net, test, n), "clean": accuracy(net, test)}

    return dict(kept(args.out / f"{name}-{args.train}-{args.epochs}-{args.lr:g}-{args.images}-{n}.json", made))


def line(name: str, found: dict[str, Any]) -> str:
    """A method's figures in one line."""
    reach = SIGMA * float(ndtri(0.001 ** (1 / found["n"])))
    rates = ", ".join(
        f"{r:g}: "
        + (f"{k / found['images']:.1%} [{lo:.1%}, {hi:.1%}]" if r <= reach else "out of reach of so few votes")
        for r, k, (lo, hi) in zip(RADII, found["proven"], found["intervals"], strict=True)
    )
    spread = " ".join(f"{p:.2f}" for p in found["p_a"])
    return (
        f"{name}, n = {found['n']}, {found['images']} pictures, {found['seconds']:.0f} s: right without noise "
        f"{found['clean']:.1%}; certified at {rates}; ACR {found['acr']:.3f}; p_A at {QUANTILES}: {spread}"
    )


def main() -> None:
    """Print a line a method, with its intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--votes", type=int, nargs="*", default=[100, 10_000], help="of gaussian, besides --n")
    args = parser.parse_args()
    os.environ["ROBUSTSUITE_CACHE"] = str(args.out)
    for name, n in [*((name, args.n) for name in methods(1, 0.1)), *(("gaussian", n) for n in args.votes)]:
        print(line(name, setting(name, n, args)), flush=True)


if __name__ == "__main__":
    main()
