"""Window cascades: what they answer, how well they know when they are wrong, how they stand attacks, what they cost.

    python benchmarks/peers/cascades.py [--shared FOLDER] [--out FOLDER] [--n 1000] [--attacked 64] [--coverage 0.8]

FOLDER holds CIFAR-10's JPEG test pictures and the published ResNet-20 and -44. The first n test pictures set the
windows, the next n are judged. A row a policy: MACs a picture by the share really passed on, accuracy, the error of the
surest share `coverage` (what the window is for), AUROC of the confidence for right against wrong, AURC; then linf PGD,
1/255, 10 steps, through the cascade and through the mean of both, the worse for each picture, and the share of
attacked pictures that asks the second network. One thread. What was computed stands under --out as json and is found
again.
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

from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import Access, Linf
from robustsuite.defenses.serve.window_cascade import window_cascade
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.methods.macs import macs
from robustsuite.reports.measure.kinds import auc
from robustsuite.serve.data import Split, load_data
from robustsuite.serve.ensembles import Members
from robustsuite.serve.models import Training, load_model
from robustsuite.serve.oracle import Oracle

POLICIES: dict[str, dict[str, Any]] = {
    "first alone": {"width": 0.0}, "window 0.05": {"width": 0.05}, "window 0.1": {"width": 0.1},
    "window 0.2": {"width": 0.2}, "window 0.2, ramp": {"width": 0.2, "ramp": 0.5},
    "lowest 0.2": {"coverage": 0.9, "width": 0.1},
    "both": {"width": 1.0}, "second alone": {"width": 1.0, "alone": True},
}  # fmt: skip
"""Windows around the threshold; 'lowest' is a fifth of the pictures from the bottom, the usual early exit."""


def inputs(folder: Path, n: int) -> tuple[Members, Split, Split]:
    """Both networks, the pictures that set the windows, and those judged."""
    data, test = load_data({"cifar10": {"root": str(folder / "data" / "cifar10"), "pack": "jpeg"}})
    nets = [load_model(f"checkpoint:{folder}/models/cifar10_{name}.safetensors?arch=cifar_{name}", data.space).net
            for name in ("resnet20", "resnet44")]  # fmt: skip
    return Members([net.eval() for net in nets]), test.first(n), test.at(torch.arange(n, 2 * n))


def attacked(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD's pictures."""
    rng = Rng.of(0, "cascades", torch.arange(len(x)))
    model = Oracle.over(net, Access.WHITE_BOX, rng.fold("oracle"), width=len(x))
    return pgd(model, x, y, Linf(1 / 255), rng=rng, steps=10).x_adv


def figures(folder: Path, n: int, few: int, coverage: float, policy: str) -> dict[str, Any]:
    """Verdicts, confidences and costs of one policy."""
    both, chosen, judged = inputs(folder, n)
    given = {"coverage": coverage, **POLICIES[policy]}
    cascade = window_cascade(both, Training(chosen, chosen, 0), **given)
    small, large = cascade.members()  # type: ignore[operator]
    with torch.no_grad():
        logits = torch.cat([cascade(x) for _, x, _ in judged.batches(256)])
        first = torch.cat([small(x).log_softmax(1) for _, x, _ in judged.batches(256)])
    x, y = judged.images(torch.arange(few)), judged.y[:few]
    stands = cascade(x).argmax(1) == y
    asked = torch.zeros(few)
    for way in (cascade, both):
        moved = attacked(way, x, y)
        with torch.no_grad():
            stands &= cascade(moved).argmax(1) == y
            asked = torch.maximum(asked, cascade.passed(small(moved).log_softmax(1)).float())  # type: ignore[operator]
    alone = given.get("alone", False) and given["width"] == 1
    share = 1.0 if alone else float(cascade.passed(first).float().mean())  # type: ignore[operator]
    return {
        "right": (logits.argmax(1) == judged.y).tolist(), "confidence": logits.softmax(1).amax(1).tolist(),
        "share": share, "stands": stands.tolist(), "asked": float(asked.mean()),
        "macs": [0 if alone else macs(small, x), macs(large, x)],
    }  # fmt: skip


def line(policy: str, found: dict[str, Any], coverage: float) -> str:
    """One row."""
    right, confidence = np.array(found["right"]), np.array(found["confidence"])
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~right[order])
    kept_n = round(coverage * len(right))
    k = int(errors[kept_n - 1])
    lo, hi = stats.wilson(k, kept_n)
    aurc = float(np.mean(errors / np.arange(1, len(right) + 1)))
    small, large = (value / 1e6 for value in found["macs"])
    stands, n = sum(found["stands"]), len(found["stands"])
    ends = stats.wilson(stands, n)
    return (f"  {policy:18} {small + found['share'] * large:6.1f} M MACs ({100 * found['share']:5.1f} % passed)  "
            f"right {100 * right.mean():.1f} %  error at {coverage:g}: {100 * k / kept_n:.2f} % [{100 * lo:.2f}, "
            f"{100 * hi:.2f}]  AUROC {auc(confidence, right):.4f}  AURC {100 * aurc:.2f} %  PGD stands {stands} of {n} "
            f"[{100 * ends[0]:.0f}, {100 * ends[1]:.0f} %], passed {100 * found['asked']:.0f} %")  # fmt: skip


def main() -> None:
    """Compute what is missing, and print a row a policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("cascades"))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--attacked", type=int, default=64)
    parser.add_argument("--coverage", type=float, default=0.8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for policy in POLICIES:
        file = given.out / f"{policy}-{given.n}-{given.attacked}-{given.coverage}.json".replace(",", "")
        made = partial(figures, given.shared, given.n, given.attacked, given.coverage, policy)
        print(line(policy, kept(file, made), given.coverage), flush=True)


if __name__ == "__main__":
    main()
