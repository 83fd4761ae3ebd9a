"""Training on bounds: clean, attacked and certified accuracy beside plain and adversarial training.

    python -m robustsuite.benchmarks.peers.certified_training --shared FOLDER --out FOLDER [--train 4000] [--epochs 20]
        [--eps 0.1] [--seeds 1]

FOLDER holds data/mnist/mnist_test8000.npz: its first pictures are trained on, its last 1,000 are tested. One small
network, two convolutions and two linear layers, from the same fresh weights. Attacked by PGD of 50 steps; certified by
intervals (IBP) on all 1,000, by CROWN and by branch and bound on the first 50. What a method comes to is kept.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustsuite.benchmarks.models.small_nets import conv_net
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import Linf
from robustsuite.defenses.certifiers.bab import outcomes
from robustsuite.defenses.certifiers.lirpa import verified
from robustsuite.defenses.train.crown_ibp_training import crown_ibp_training
from robustsuite.defenses.train.ibp_training import ibp_training
from robustsuite.maths.stats import clopper_pearson
from robustsuite.methods.crafting import pgd_examples
from robustsuite.methods.verification.branching import Limits
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Normalised, Training, as_it_is
from robustsuite.serve.training import Recipe, fitted, one_cycle, untrained

TESTED, FEW = 1000, 50
LR = 2e-3
"""Four times the papers' 5e-4, for a twentieth of their steps."""


def pictures(folder: Path, n: int) -> tuple[Split, Split]:
    """The first n to train on, and the last 1,000."""
    pack = np.load(folder / "data/mnist/mnist_test8000.npz")
    x = torch.from_numpy(pack["images"]).float().view(-1, 1, 28, 28) / 255
    y = torch.from_numpy(pack["labels"].astype("int64"))
    return Split.of(x[:n], y[:n]), Split.of(x[-TESTED:], y[-TESTED:])


def methods(eps: float, epochs: int) -> dict[str, Callable[[nn.Module, Training], nn.Module]]:
    """Each from fresh weights, the same number of epochs."""
    recipe = Recipe(epochs, one_cycle(LR, epochs), optimiser="adamw", weight_decay=0.0)

    def plain(net: nn.Module, training: Training) -> nn.Module:
        return fitted(untrained(net, training.seed), training, recipe)

    def adversarial(net: nn.Module, training: Training) -> nn.Module:
        attack = pgd_examples("linf", eps, 7, 0.25, 0.3 * epochs)
        return fitted(untrained(net, training.seed), training, recipe, perturb=attack)

    given: dict[str, Any] = {"eps": eps, "epochs": epochs, "lr": LR, "augment": False}
    return {"plain": plain, "adversarial": adversarial, "ibp_training": ibp_training(as_it_is, **given),
            "crown_ibp_training": crown_ibp_training(as_it_is, **given)}  # fmt: skip


def measured(fit: Callable[[nn.Module, Training], nn.Module], train: Split, test: Split, eps: float, seed: int) -> Any:
    """Counts out of 1,000 (of 50 by CROWN and by branch and bound), and seconds of training."""
    net: nn.Module = Normalised(conv_net(InputSpace(1, 28, 28, 10), filters=(8, 16), hidden=(50,)), [0.1307], [0.3081])
    start = time.process_time()
    net = fit(net, Training(train, test, seed=seed))
    seconds = time.process_time() - start
    x, y = test.images(torch.arange(len(test))), test.y
    right = net(x).argmax(1) == y
    moved = pgd_examples("linf", eps, 50, 0.05, 0.0)(net, x, y, torch.Generator().manual_seed(1), 0.0)
    net.eval()
    found = {"seconds": seconds, "clean": int(right.sum()), "pgd": int((right & (net(moved).argmax(1) == y)).sum())}
    found["ibp"] = int(verified(net, x, y, Linf(eps), method="ibp", batch_size=50).sum())
    found["crown"] = int(verified(net, x[:FEW], y[:FEW], Linf(eps), method="crown").sum())
    few = right[:FEW].nonzero().flatten()
    said = [o.status for o in outcomes(net, x[few], y[few], Linf(eps), Limits(200, 5))]
    return found | {"bab": said.count("verified"), "bab undecided": said.count("unknown")}


def main() -> None:
    """Fill what is missing, and print a line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    train, test = pictures(args.shared, args.train)
    for name, fit in methods(args.eps, args.epochs).items():
        for seed in range(args.seeds):
            file = args.out / f"{name}-{args.train}-{args.epochs}-{args.eps}-{seed}.json"
            row = kept(file, partial(measured, fit, train, test, args.eps, seed))
            shares = ", ".join(f"{what} {row[what] / 10:.1f}" for what in ("clean", "pgd", "ibp"))
            low, high = clopper_pearson(row["ibp"], TESTED)
            print(f"{name} linf {args.eps} seed {seed}, n={TESTED}: {shares} % (ibp {100 * low:.1f}-{100 * high:.1f}); "
                  f"of the first {FEW} CROWN proves {row['crown']}, branch and bound {row['bab']} and leaves "
                  f"{row['bab undecided']} undecided; "
                  f"{row['seconds']:.0f} s of training", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
