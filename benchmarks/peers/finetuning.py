"""Adversarial fine-tuning by its schedule of the rate: epochs and robust accuracy on CIFAR-10 pictures.

    python benchmarks/peers/finetuning.py --shared FOLDER --out FOLDER [--train 4000] [--images 500] [--eps 4/255]

FOLDER of --shared holds data/cifar10/*_jpeg.npz. One clean network (`cnn_3_relu`) is fine-tuned by PGD adversarial
training for as many epochs by: AccelAT; a constant rate as large as AccelAT's first; a constant rate of a tenth of it,
which is what the authors' script gives the schedules that it is compared with; slow start and fast decay (its peak is
AccelAT's first rate); a half cosine from there. Then clean and robust accuracy (Auto-PGD, 50 steps on the loss CE) with
exact 95 % intervals, on the same pictures. One thread. Every setting is kept under --out as it ends and found again.
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
from torch import nn

from robustsuite.attacks.evasion.apgd import apgd
from robustsuite.benchmarks.models import small_nets
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.benchmarks.peers.smoothing import pictures
from robustsuite.config.threats import Access, Linf, parse_number
from robustsuite.defenses.train.accelat import accelat
from robustsuite.defenses.train.adversarial_finetuning import adversarial_finetuning
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.methods.crafting import pgd_examples
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.kept import kept as trained
from robustsuite.serve.kept import key_of
from robustsuite.serve.models import Fit, Training, as_it_is, ready
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.training import FromScratch, Rate, Recipe, fitted, half_cosine, one_cycle

STEPS = 5


def constant(rate: Rate, epochs: int, eps: float) -> Fit:
    """The same training at this rate."""

    def fit(net: nn.Module, training: Training) -> nn.Module:
        recipe = Recipe(epochs, rate, flip=True, crop=4)
        return fitted(net, training, recipe, perturb=pgd_examples("linf", eps, STEPS, 0.25))

    return fit


def schedules(epochs: int, lr: float, eps: float) -> dict[str, Fit]:
    """Each schedule by its name."""
    given: dict[str, Any] = {"eps": eps, "steps": STEPS, "epochs": epochs}
    return {
        "accelat": accelat(as_it_is, lr=lr, **given),
        "constant": constant(lambda _: lr, epochs, eps),
        "a tenth": constant(lambda _: lr / 10, epochs, eps),
        "ssfd": adversarial_finetuning(as_it_is, lr=lr / 5, **given),
        "cosine": constant(half_cosine(lr, epochs), epochs, eps),
    }


def network(name: str, epochs: int, args: argparse.Namespace) -> nn.Module:
    """The clean network, fine-tuned for so many epochs; kept under --out."""
    scratch = FromScratch(partial(small_nets.build, "cnn_3_relu", InputSpace(3, 32, 32, 10)),
                          Recipe(12, one_cycle(0.2, 12), flip=True, crop=4))  # fmt: skip
    both = Split.of(*pictures(args.shared / "data/cifar10/cifar10_train50000_jpeg.npz", args.train + 512))
    split, val = both.first(args.train), both.at(torch.arange(args.train, args.train + 512))
    training = Training(split, val, seed=0, tell=lambda line: print(f"{name}: {line}", file=sys.stderr))
    net = trained(scratch, key_of([str(args.train), "clean"]))(scratch.fresh(0), training)
    return ready(schedules(epochs, args.lr, args.eps)[name](net, training) if name != "none" else net)


def measured(name: str, epochs: int, args: argparse.Namespace) -> dict[str, Any]:
    """What one schedule came to, made or found again."""

    def made() -> dict[str, Any]:
        start = time.process_time()
        net = network(name, epochs, args)
        seconds = time.process_time() - start
        x, y = pictures(args.shared / "data/cifar10/cifar10_test8000_jpeg.npz", args.images)
        x, rng = x.float() / 255, Rng.of(0, "bench", torch.arange(args.images))
        oracle = Oracle.over(net, Access.WHITE_BOX, rng.fold("oracle"), width=128)
        x_adv = apgd(oracle, x, y, Linf(args.eps), rng=rng, steps=50).x_adv
        with torch.no_grad():
            clean, robust = (int((net(part).argmax(1) == y).sum()) for part in (x, x_adv))
        return {"clean": clean, "robust": robust, "images": args.images, "seconds": seconds}

    named = f"{name.replace(' ', '-')}-{epochs}-{args.train}-{args.lr:g}-{args.eps:.4g}-{args.images}"
    return dict(kept(args.out / f"{named}.json", made))


def main() -> None:
    """Print a line a schedule and number of epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--eps", type=parse_number, default=4 / 255)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, nargs="*", default=[5, 10, 20])
    args = parser.parse_args()
    os.environ["ROBUSTSUITE_CACHE"] = str(args.out)
    for name, epochs in [("none", 0), *((name, e) for e in args.epochs for name in schedules(1, 0.1, 0.1))]:
        found = measured(name, epochs, args)
        n = found["images"]
        rates = "; ".join(
            f"{what} {found[what] / n:.1%} [{lo:.1%}, {hi:.1%}]"
            for what in ("clean", "robust") for lo, hi in (stats.clopper_pearson(found[what], n),)
        )  # fmt: skip
        print(f"{name}, {epochs} epochs, {found['seconds']:.0f} s: {rates}, n = {n}", flush=True)


if __name__ == "__main__":
    main()
