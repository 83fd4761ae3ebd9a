"""Unlearnable data and wrong labels against every training a user would try: a small net on CIFAR-10's pictures.

    python benchmarks/peers/unlearnable.py [--shared FOLDER] [--out FOLDER] [--train 10000] [--epochs 20] [--seeds 1]

FOLDER holds data/cifar10/*_train*.npz and *_test*.npz. Every training starts from fresh weights of a ResNet-8 and sees
the same number of epochs; what it is asked about is clean. Printed: accuracy on all test pictures after the last epoch
with Wilson's 95 % interval (over pictures: another seed is another training), and the clean val accuracy of the best
epoch, since an early stop may undo a poison. One thread. A training stands under --out as json and is found again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from robustsuite.attacks.unlearnable.cuda import cuda
from robustsuite.attacks.unlearnable.error_minimizing import error_minimizing
from robustsuite.attacks.unlearnable.label_noise import label_noise
from robustsuite.attacks.unlearnable.ops import ops
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import PoisonRate
from robustsuite.defenses.data.coin import coin
from robustsuite.defenses.data.grayscale import grayscale
from robustsuite.defenses.data.jpeg import jpeg
from robustsuite.defenses.train.adversarial_training import adversarial_training
from robustsuite.defenses.train.cutmix import cutmix
from robustsuite.defenses.train.elr import elr
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Dataset, Split, load_data
from robustsuite.serve.models import Fit, Training, as_it_is
from robustsuite.serve.training import EPOCHS, Recipe, accuracy, fitted, one_cycle, untrained

NET, WATCHED = "scenes_resnet", 1000
"""The network, and how many val pictures are looked at after each epoch."""

POISONS: dict[str, Callable[..., Poisoned] | None] = {
    "clean": None, "cuda": cuda, "ops": ops, "error_minimizing": error_minimizing,
}  # fmt: skip
NOISE = {
    "symmetric 0.4": (0.4, {}), "symmetric 0.8": (0.8, {}), "asymmetric 0.4": (0.4, {"kind": "asymmetric"}),
}  # fmt: skip
SQUEEZED: dict[str, Callable[[Split], Split]] = {
    "none": lambda split: split, "grayscale": grayscale, "jpeg": jpeg,
    "grayscale + jpeg": lambda split: jpeg(grayscale(split)), "coin": coin,
}  # fmt: skip
OTHERWISE: dict[str, Callable[..., Fit]] = {
    "cutmix": partial(cutmix, as_it_is), "elr": partial(elr, as_it_is),
    "adversarial training 4/255": partial(adversarial_training, as_it_is, eps="4/255", steps=3, rel_step=0.5),
}  # fmt: skip
TRAININGS = [*SQUEEZED, *OTHERWISE]
AGAINST_NOISE = ["none", "elr", "cutmix"]


def plain(epochs: int) -> Fit:
    """The recipe that everything is held against: one cycle of SGD, flips and crops."""
    recipe = Recipe(epochs, one_cycle(0.2, epochs), flip=True, crop=4)
    return lambda net, training: fitted(untrained(net, training.seed), training, recipe)


class Sets:
    """The pictures, and what each adversary makes of them, once."""

    def __init__(self, folder: Path, train: int, seed: int) -> None:
        self.folder, self.train, self.seed = folder, train, seed
        self.made: dict[str, Poisoned] = {}

    @cached_property
    def data(self) -> Dataset:
        """CIFAR-10, `train` of its training pictures and all test pictures that are there."""
        root = str(self.folder / "data" / "cifar10")
        return load_data({"cifar10": {"root": root, "pack": "jpeg", "train": self.train}})[0]

    def poisoned(self, name: str) -> Poisoned:
        """The train set as this adversary leaves it; no example is touched for 'clean'."""
        if name not in self.made:
            train = self.data.split("train")
            rng = Rng.of(self.seed, f"peers/{name}", train.ids)
            rate, given = NOISE.get(name, (1.0, {}))
            attack = label_noise if name in NOISE else POISONS[name]
            if attack is error_minimizing:
                given = {"aux": Aux(self.data.split("val"), lambda spec: untrained(build(NET, self.data.space), 1))}
            nothing = Poisoned(train, torch.zeros(0, dtype=torch.int64))
            self.made[name] = attack(train, PoisonRate(rate), rng=rng, **given) if attack else nothing
        return self.made[name]


def result(sets: Sets, poison: str, training: str, epochs: int) -> dict[str, Any]:
    """One training: test accuracy, examples poisoned, how many labels are wrong, val accuracy by epoch."""
    found = sets.poisoned(poison)
    clean, val, test = (sets.data.split(name) for name in ("train", "val", "test"))
    val = val.first(min(WATCHED, len(val)))
    train = SQUEEZED.get(training, SQUEEZED["none"])(found.train)
    seen: dict[str, dict[str, Any]] = {}
    given = Training(train, val, sets.seed, keep=seen.__setitem__, watch=True)
    fit = OTHERWISE[training](epochs=epochs) if training in OTHERWISE else plain(epochs)
    net = fit(build(NET, sets.data.space), given)
    right = round(accuracy(net, test) * len(test))
    return {
        "right": right, "n": len(test), "poisoned": len(found.indices), "wrong": int((train.y != clean.y).sum()),
        "train": len(clean), "epochs": [value for _, value in seen[EPOCHS]["table"]["rows"]],
    }  # fmt: skip


def line(name: str, found: dict[str, Any]) -> str:
    """One row of a table."""
    lo, hi = stats.wilson(found["right"], found["n"])
    epochs = found["epochs"]
    best = max(range(len(epochs)), key=epochs.__getitem__)
    share = 100 * found["right"] / found["n"]
    return (f"    {name:28} {share:5.1f} % [{100 * lo:.1f}, {100 * hi:.1f}] of {found['n']}   best val "
            f"{100 * epochs[best]:.1f} % in epoch {best + 1}, last {100 * epochs[-1]:.1f} %")  # fmt: skip


def main() -> None:
    """Train what is missing, and print a table a poison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("unlearnable"))
    parser.add_argument("--train", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--noise-epochs", type=int, default=60, help="with wrong labels, which are learnt late")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--poisons", nargs="+", choices=[*POISONS, *NOISE], default=[*POISONS, *NOISE])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        sets = Sets(given.shared, given.train, seed)
        for poison in given.poisons:
            epochs = given.noise_epochs if poison in NOISE else given.epochs
            print(f"{poison}, {given.train} training pictures, {epochs} epochs, seed {seed}", flush=True)
            for training in AGAINST_NOISE if poison in NOISE else TRAININGS:
                file = given.out / f"{poison}-{training}-{given.train}-{epochs}-{seed}.json".replace("/", "_")
                print(line(training, kept(file, partial(result, sets, poison, training, epochs))), flush=True)


if __name__ == "__main__":
    main()
