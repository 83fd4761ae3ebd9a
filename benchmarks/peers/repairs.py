"""Backdoors against detectors, filters and repairs on CIFAR-10, as small as a CPU allows: one matrix, and its seconds.

    python benchmarks/peers/repairs.py --shared FOLDER [--out FOLDER] [--attacks badnets blended trojan sig]
                                       [--defenses anp nad ...] [--train 5000] [--val 1000] [--first 300] [--epochs 10]

A ResNet-8 is trained on pictures of which 10 % are poisoned (SIG: of amplitude 40/255), without random crops; each
defense is what benchmarks/sweeps/repairs.yaml names, its steps cut to these sizes (DEFENSES); half of the val pictures
is what a defender works with, the other half stops it. Pairs are stored one by one under --out and found again, as are
trainings; what is there is printed. Seconds are of one thread, with what the defense trains and all answers; the
victim's own training is in the line of `none`.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import clopper_pearson
from robustsuite.reports.sections.poisoning import victim
from robustsuite.reports.sections.repairs import WHERE, ranked, rated
from robustsuite.scenarios.poisoning import PoisoningSpec, judged
from robustsuite.serve.adversary import Poisoner
from robustsuite.serve.data import Dataset, load_data
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import load_model
from robustsuite.serve.stages import applied

ATTACKS: dict[str, dict[str, Any]] = {"badnets": {}, "blended": {}, "trojan": {}, "sig": {"amplitude": 0.157}}
DEFENSES: dict[str, dict[str, Any]] = {
    "none": {}, "anp": {"steps": 300}, "ebyd": {"steps": 200}, "nad": {}, "ibau": {"rounds": 3, "steps": 30},
    "abl": {"isolation_epochs": 8}, "nab": {"isolation_epochs": 8}, "ibd_psc": {}, "sentinet": {"overlays": 20},
    "scaleup": {}, "strip": {}, "fine_pruning": {}, "badexpert": {"fpr": 0.1},
    "neural_cleanse": {"steps": 100, "batch": 8}, "activation_clustering": {}, "spectral_signatures": {},
}  # fmt: skip


def cifar(given: argparse.Namespace) -> Dataset:
    """The pictures, read once for all runs."""
    data, test = load_data({"cifar10": {"root": str(given.shared / "data/cifar10"), "pack": "jpeg"}})
    parts = {"train": data.split("train").first(given.train), "val": data.split("val").first(given.val),
             "test": test.first(given.first)}  # fmt: skip
    return replace(data, splits=parts)


def played(given: argparse.Namespace, data: Dataset, attack: str, defense: str) -> dict[str, float]:
    """Counts and scores of one pair, and its CPU seconds."""
    start = time.process_time()
    asked = PoisoningSpec(scenario="poisoning", access=["train_set", "aux_data"], budget={"poison_rate": 0.1},
                          attacks=[attack], target=0).threat("backdoor")  # fmt: skip
    model = load_model(f"recipe:scenes_resnet?epochs={given.epochs}&crop=0", data.space)
    poison = Poisoner(card_of("attack", attack), tuple(ATTACKS[attack].items()), asked)
    stack = () if defense == "none" else (applied(defense, DEFENSES[defense]),)
    lifecycle, test = Lifecycle(model, data, stack, poison=poison), data.split("test")
    record = judged(lifecycle.served(), lifecycle.poisoned, test, asked, Rng.of(0, "peer", test.ids), width=256)
    found = victim(pd.DataFrame({name: column.numpy() for name, column in record.columns.items()}))
    found["seconds"] = time.process_time() - start
    print(f"{attack} {defense} {found}", flush=True)
    return found


def rate(k: float, n: float) -> str:
    """A rate in % with its exact 95 % interval."""
    low, high = clopper_pearson(int(k), int(n))
    return f"{100 * k / n:5.1f} ({100 * low:.0f}-{100 * high:.0f})"


def main() -> None:
    """Print a line a pair, then the ranks across attacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("repairs"))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), choices=list(DEFENSES))
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--val", type=int, default=1000)
    parser.add_argument("--first", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("ROBUSTSUITE_CACHE", str(given.out / "cache"))
    data, at = cifar(given), f"{given.train}-{given.val}-{given.first}-{given.epochs}"
    rows = [{**dict.fromkeys(WHERE, ""), "attack": attack, "defense": defense, "grade": "",
             **kept(given.out / at / f"{attack}-{defense}.json",
                    lambda pair=(attack, defense): played(given, data, *pair))}
            for defense in given.defenses for attack in given.attacks]  # fmt: skip
    found = rated(pd.DataFrame(rows))
    print(f"{'attack':8} {'defense':22} {'C-Acc':16} {'ASR':16} {'R-Acc':16}  AUROC TPR@1% TPR@5% CPU s")
    for row in found.sort_values("attack", kind="stable").to_dict("records"):
        detection = " ".join(f"{row[name]:6.3f}" for name in ("auroc", "tpr_1", "tpr_5"))
        print(f"{row['attack']:8} {row['defense']:22} {rate(row['clean_ok'], row['n']):16} "
              f"{rate(row['hits'], row['eligible']):16} {rate(row['recovered'], row['eligible']):16} {detection} "
              f"{row['seconds']:5.0f}")  # fmt: skip
    print(ranked(found).drop(columns="lacking").round(3).to_string(index=False))


if __name__ == "__main__":
    main()
