"""CrossMax under exact AutoAttack, the judge's reading of the same pictures, and our union of three ways.

    python benchmarks/peers/crossmax.py [--shared FOLDER] [--n 200] [--eps 2 4 8]

FOLDER holds models/cifar10_{resnet2b_adv2,resnet4b_adv2,cnn_a_adv}.safetensors and data/cifar10/*_jpeg.npz. Prints, an
eps a row: accuracy, %, as AutoAttack reports it on the served system; as the judge reads AutoAttack's own pictures; how
many of its breaks that takes back; and what stands under PGD-50, APGD and our ensemble, each three ways.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.data import Split, load_data
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import load_model
from robustsuite.serve.stages import applied
from robustsuite.serve.system import System

MEMBERS = (("resnet2b_adv2", "resnet2b"), ("resnet4b_adv2", "resnet4b"), ("cnn_a_adv", "cnn_a"))
UNION: dict[str, dict[str, int]] = {"pgd": {"steps": 50}, "apgd": {}, "ensemble": {"queries": 500}}


def played(system: System, split: Split, name: str, eps: int, **given: int) -> dict[str, Tensor]:
    """The columns of one attack at eps / 255."""
    card = card_of("attack", name)
    threat = Threat("linf", "evasion", Access.WHITE_BOX, Linf(eps / 255))
    attack, rng = partial(card.function, **given), Rng.of(0, f"{name}{eps}", split.ids)
    return evasion.judged(system, attack, split, threat, rng, width=128, card=card).columns


def percent(robust: Tensor) -> float:
    """The share of True among (N,), in %."""
    return 100 * float(robust.float().mean())


def main() -> None:
    """One row an eps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ROBUSTSUITE_SHARED", "../shared")))
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--eps", type=int, nargs="+", default=[2, 4, 8])
    args = parser.parse_args()
    (pack,) = (args.shared / "data" / "cifar10").glob("*test*_jpeg.npz")
    data, split = load_data({"cifar10": {"root": str(pack), "first": args.n}})
    spec = " + ".join(
        f"checkpoint:{args.shared}/models/cifar10_{file}.safetensors?arch={arch}" for file, arch in MEMBERS
    )
    defense = applied("crossmax", {"aggregate": "median"})
    system = Lifecycle(load_model(spec, data.space), data, (defense,)).served()
    bare = dataclasses.replace(system, surrogate=None, hides=Access.NONE)
    print("eps/255  AutoAttack says  judged  taken back  our union")
    for eps in args.eps:
        exact = played(bare, split, "autoattack", eps)
        said = exact["clean_ok"] & exact["after_square"].bool()
        union = torch.stack([played(system, split, name, eps, **given)["robust"] for name, given in UNION.items()]).all(
            0
        )
        figures = f"{percent(said):14.1f} {percent(exact['robust']):7.1f} {int(exact['overturned'].sum()):11d}"
        print(f"{eps:7d} {figures} {percent(union):10.1f}", flush=True)


if __name__ == "__main__":
    main()
