"""The genetic attacks on CIFAR-10 nets: MGA beside its authors' code, QuScore with and without its term, GenAttack.

    python benchmarks/peers/genetic.py --shared FOLDER [--peer FOLDER] [--only mga quscore genattack] [--n 100]

--shared holds models/*.safetensors and data/cifar10/*.npz. --peer: a checkout of github.com/kangyangWHU/MGAAttack; it
has no licence, so it is only run, from where it lies, on the same nets and pictures. A line of json for each run:
share of the attacked images broken, share broken by the first population, mean and median queries over the broken.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.genattack import genattack
from robustsuite.attacks.evasion.mga import mga, mga_transfer
from robustsuite.attacks.evasion.quscore import agreement, quscore
from robustsuite.config.goals import Targeted
from robustsuite.config.threats import Access, Linf
from robustsuite.maths.randomness import Rng
from robustsuite.methods.attribution import interpreter_named
from robustsuite.methods.evasion.surrogates import in_tiles
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import InputSpace, Split, load_data
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.oracle import Oracle

SPACE, BALL, WIDTH = InputSpace(3, 32, 32, 10), Linf(8 / 255), 64
ARCHITECTURES = {"resnet20": "cifar_resnet20", "resnet44": "cifar_resnet44", "resnet4b_adv2": "resnet4b",
                 "resnet2b_adv2": "resnet2b"}  # fmt: skip
PAIRS = [("resnet44", "resnet20"), ("resnet4b_adv2", "resnet20"), ("resnet4b_adv2", "resnet2b_adv2")]
"""Target and surrogate."""

Attack = Callable[..., Found]


def net_of(folder: Path, name: str) -> nn.Module:
    """A CIFAR-10 net by its short name."""
    spec = f"checkpoint:{folder}/models/cifar10_{name}.safetensors?arch={ARCHITECTURES[name]}"
    return ready(load_model(spec, SPACE).net)


def right(folder: Path, n: int, *nets: nn.Module) -> tuple[Tensor, Tensor]:
    """The first pictures of the test pack, n at most, that every net classifies correctly, with labels."""
    pack = folder / "data/cifar10/cifar10_test8000_jpeg.npz"
    _, split = load_data({"cifar10": {"root": str(pack), "first": 3 * n + 20}})
    x, y = split.images(torch.arange(len(split))), split.y
    ok = torch.stack([torch.cat([net(part).argmax(1) for part in x.split(WIDTH)]) == y for net in nets]).all(0)
    return x[ok][:n].contiguous(), y[ok][:n]


def play(target: nn.Module, surrogate: nn.Module, x: Tensor, y: Tensor, attack: Attack, **given: Any) -> dict[str, Any]:
    """Our attack through the oracle, with what it found."""
    rng, began = Rng.of(0, "bench", torch.arange(len(x))), time.perf_counter()
    model = Oracle.over(target, Access.SCORES | Access.LABELS, rng.fold("oracle"), width=WIDTH)
    if attack in (mga_transfer, quscore):
        given |= {"aux": Aux(Split.of(x, y), lambda spec: surrogate), "surrogates": "own"}
    if attack in (mga, mga_transfer):
        given |= {"targets": None}
    found = attack(model, x, y, BALL, rng=rng, **given)
    clock = time.perf_counter() - began
    broken = found.columns["claimed"]
    assert bool((target(found.x_adv).argmax(1) != y)[broken].all())
    assert bool(BALL.allows(x, found.x_adv).all())
    return {
        **summary(broken, model.counts.forwards, found.columns["at_init"] & broken), "seconds": round(clock, 1),
        "x_adv": found.x_adv, "broken": broken,
    }  # fmt: skip


def summary(broken: Tensor, queries: Tensor, at_init: Tensor) -> dict[str, Any]:
    """Rates in percent, queries over the broken."""
    spent = queries[broken].double()
    return {
        "n": len(broken), "asr": round(100 * float(broken.float().mean()), 1),
        "at_init": round(100 * float(at_init.float().mean()), 1), "mean": round(float(spent.mean()), 1),
        "median": float(spent.median()), "searched_median": float(queries[broken & ~at_init].double().median())
        if bool((broken & ~at_init).any()) else None,
    }  # fmt: skip


def peers(folder: Path, target: nn.Module, surrogate: nn.Module, x: Tensor, y: Tensor, queries: int) -> dict[str, Any]:
    """The authors' loop, image by image, at their settings."""
    for name in ("kornia", "pretrainedmodels", "models", "models.cifar10"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.path.insert(0, str(folder))
    theirs = importlib.import_module("main")
    np.random.seed(0)  # noqa: NPY002
    attack = theirs.LinfMGA(
        target, generations=50000, max_queries=queries, epsilon=BALL.eps, iters=10, ensemble_models=[surrogate]
    )
    began, broken, spent = time.perf_counter(), [], []
    for i in range(len(x)):
        found, asked = attack.perturb(x[i : i + 1], y[i : i + 1])
        broken.append(found is not None and bool(target(found).argmax(1) != y[i]))
        spent.append(asked)
    clock, hit, asked = time.perf_counter() - began, torch.tensor(broken), torch.tensor(spent)
    return {**summary(hit, asked, hit & (asked <= 5)), "seconds": round(clock, 1)}


def told(**line: Any) -> None:
    """A run as a line of json."""
    print(json.dumps({k: v for k, v in line.items() if not isinstance(v, Tensor)}), flush=True)


def compare_mga(folder: Path, peer: Path | None, n: int, queries: int) -> None:
    """MGA from coins and from a surrogate, beside the authors' code."""
    for goal, owned in PAIRS:
        target, surrogate = net_of(folder, goal), net_of(folder, owned)
        x, y = right(folder, n, target)
        names = {"target": goal, "surrogate": owned}
        told(**names, run="mga_transfer", **play(target, surrogate, x, y, mga_transfer, queries=queries))
        if peer is not None:
            told(**names, run="authors", **peers(peer, target, surrogate, x, y, queries))
        told(**names, run="mga", **play(target, surrogate, x, y, mga, queries=queries))


def compare_quscore(folder: Path, n: int, queries: int) -> None:
    """IoU on the surrogate and on the target, over the broken, against the weight of the interpretation term."""
    target, surrogate = net_of(folder, "resnet44"), net_of(folder, "resnet20")
    x, y = right(folder, n, target, surrogate)
    for name in ("grad", "cam"):
        for weight in (0.0, 0.001, 0.1, 10.0):
            done = play(target, surrogate, x, y, quscore, queries=queries, interpreter=name, weight=weight)
            kept = done["broken"]
            iou = {
                f"iou_{whose}": round(float(kept_maps(net, x[kept], done["x_adv"][kept], name).mean()), 3)
                for whose, net in (("surrogate", surrogate), ("target", target))
            }
            told(run="quscore", interpreter=name, weight=weight, **iou, **done)


def kept_maps(net: nn.Module, x: Tensor, x_adv: Tensor, interpreter: str) -> Tensor:
    """IoU (N,) of the maps before and after."""
    look = interpreter_named(interpreter)
    return in_tiles(len(x), WIDTH, lambda row: agreement(net, x[row], x_adv[row], look))


def compare_genattack(folder: Path, n: int, queries: int) -> None:
    """Targeted, full and quarter resolution, fixed and adapted rates."""
    net = net_of(folder, "resnet20")
    x, y = right(folder, n, net)
    targets = Targeted().targets(y, 10, Rng.of(0, "targets", torch.arange(len(x))))
    fixed = {"population": 4, "alpha": 0.25, "rho": 0.05, "adaptive": False}
    for given in (fixed, {**fixed, "side": 16}, {"population": 6, "side": 16}):
        rng = Rng.of(0, "bench", torch.arange(len(x)))
        model = Oracle.over(net, Access.SCORES | Access.LABELS, rng, width=WIDTH)
        found = genattack(model, x, y, BALL, rng=rng, targets=targets, queries=queries, **given)
        broken = found.columns["claimed"]
        told(run="genattack", **given, **summary(broken, model.counts.forwards, found.columns["at_init"]))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--only", nargs="+", default=["mga", "quscore", "genattack"])
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--queries", type=int, default=10000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if "mga" in given.only:
        compare_mga(given.shared, given.peer, given.n, given.queries)
    if "quscore" in given.only:
        compare_quscore(given.shared, given.n, given.queries)
    if "genattack" in given.only:
        compare_genattack(given.shared, given.n, given.queries)


if __name__ == "__main__":
    main()
