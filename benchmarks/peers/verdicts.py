"""What a reference verdict costs: AutoAttack, `ensemble` and what is beside them, on many networks, in three norms.

    python benchmarks/peers/verdicts.py --shared FOLDER --out RESULTS [--only WORD ...] [--attacks SPEC ...]

FOLDER holds models/ and data/. Each (network, norm, attack) is one json under RESULTS, found again by the next run, so
that a run may be stopped at any time. A SPEC is an attack as a sweep names it: autoattack, autoattack:version=rand,
ensemble, apgd:steps=100,loss=dlr-t. Verdicts are the judge's, each attack is handed what the suite hands it, and passes
are forwards plus backwards, an image each, over all images of the setting (also those that are misclassified).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Ball, parse_ball
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.oracle import Oracle

SEED, WIDTH = 0, 250
CIFAR, MNIST, IMAGENET = InputSpace(3, 32, 32, 10), InputSpace(1, 28, 28, 10), InputSpace(3, 128, 128, 1000)


class Net(NamedTuple):
    """A network, its pictures, and a radius in each norm at which some images stand and some fall."""

    file: str
    arch: str
    space: InputSpace
    n: int
    eps: dict[str, str]


NETS = (
    Net("cifar10_resnet4b_adv2", "resnet4b", CIFAR, 200, {"linf": "4/255", "l2": "0.5", "l1": "8"}),
    Net("cifar10_resnet2b_adv2", "resnet2b", CIFAR, 200, {"linf": "4/255", "l2": "0.25", "l1": "4"}),
    Net("cifar10_cnn_a_adv", "cnn_a", CIFAR, 200, {"linf": "4/255", "l2": "0.5", "l1": "8"}),
    Net("cifar10_cnn_a_adv4", "cnn_a", CIFAR, 200, {"linf": "8/255", "l2": "0.5", "l1": "4"}),
    Net("cifar10_conv_small_pgd", "conv_small", CIFAR, 200, {"linf": "4/255", "l2": "0.5", "l1": "8"}),
    Net("cifar10_oval_wide", "cnn_a", CIFAR, 200, {"linf": "8/255", "l2": "1", "l1": "12"}),
    Net("cifar10_kw_small_l2_36px", "cnn_a", CIFAR, 200, {"linf": "4/255", "l2": "1", "l1": "12"}),
    Net("cifar10_vit_pgd_2_3_16", "small_vit", CIFAR, 200, {"linf": "4/255", "l2": "1", "l1": "12"}),
    Net("mnist_lenet5_adv", "lenet5", MNIST, 200, {"linf": "0.3", "l2": "2", "l1": "10"}),
    Net("cifar10_marabou_large", "conv_large", CIFAR, 200, {"linf": "2/255", "l2": "0.25", "l1": "4"}),
    Net("cifar10_resnet18_std", "resnet18_cifar", CIFAR, 32, {"linf": "0.25/255", "l2": "0.125", "l1": "2"}),
    Net("imagenet_mobilenetv1_025", "mobilenetv1_025", IMAGENET, 64, {"linf": "0.1/255", "l2": "0.25", "l1": "8"}),
)


class Setting(NamedTuple):
    """A network in one ball."""

    net: Net
    ball: Ball

    @property
    def name(self) -> str:
        return f"{self.net.file} {self.ball}"


def settings(only: list[str]) -> Iterator[Setting]:
    """All of them, or those whose name has one of these words."""
    for norm in ("linf", "l2", "l1"):
        for net in NETS:
            setting = Setting(net, parse_ball(norm, net.eps[norm]))
            if not only or any(word in setting.name for word in only):
                yield setting


def loaded(net: Net, shared: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, its first pictures (n, C, H, W) in [0, 1], and labels (n,)."""
    model = ready(load_model(f"checkpoint:{shared}/models/{net.file}.safetensors?arch={net.arch}", net.space).net)
    if net.space is MNIST:
        pack = np.load(shared / "data/mnist/mnist_test8000.npz")
        return model, torch.from_numpy(pack["images"][: net.n])[:, None].float() / 255, torch.tensor(
            pack["labels"][: net.n].astype("int64"))  # fmt: skip
    what: dict[str, Any] = {"cifar10": {"root": str(shared / "data/cifar10"), "first": net.n}}
    if net.space is IMAGENET:
        what = {"imagenet": {"root": str(shared / "data/imagenet/imagenet_sample700.zip"), "size": 128, "first": net.n}}
    _, split = load_data(what)
    return model, split.images(torch.arange(len(split))), split.y


def parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """'apgd:steps=100,loss=dlr-t' -> the attack's name and parameters."""
    name, _, rest = spec.partition(":")
    pairs = (pair.split("=", 1) for pair in rest.split(",") if pair)
    return name, {key: int(value) if value.lstrip("-").isdigit() else value for key, value in pairs}


def played(setting: Setting, spec: str, shared: Path) -> dict[str, Any]:
    """One attack on one setting: who was right, who still is by the judge, passes and processor seconds."""
    net, x, y = loaded(setting.net, shared)
    name, given = parsed(spec)
    card, everyone = card_of("attack", name), torch.arange(len(x))
    judge, rng = Judge(net, stochastic=False, width=WIDTH), Rng.of(SEED, f"{name}", everyone)
    clean = judge(x, y, rng.fold("clean")).held
    rows = everyone if card.whole else clean.nonzero().flatten()
    oracle = Oracle.over(net, Access.WHITE_BOX, rng[rows], width=WIDTH)
    began = time.process_time()
    found = card.function(oracle, x[rows], y[rows], setting.ball, rng=rng[rows].fold("attack"), **given)
    seconds = time.process_time() - began
    x_adv = x.clone()
    x_adv[rows] = found.x_adv if isinstance(found, Found) else found[0] if isinstance(found, tuple) else found
    standing = clean & ~(judge(x_adv, y, rng.fold("judge")).wrong & setting.ball.allows(x, x_adv))
    forwards, backwards = oracle.counts.totals()
    return {
        "setting": setting.name, "attack": spec, "n": len(x), "clean": clean.nonzero().flatten().tolist(),
        "standing": standing.nonzero().flatten().tolist(), "forwards": forwards, "backwards": backwards,
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    """Play what is missing and print a line for each setting and attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--attacks", nargs="*", default=["autoattack", "ensemble"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for setting in settings(args.only):
        reference: dict[str, Any] = {}
        for spec in args.attacks:
            file = args.out / f"{setting.name} {spec}.json".replace("/", "_").replace(" ", "-")
            one = kept(file, partial(played, setting, spec, args.shared))
            reference = reference or one
            more, missed = (
                sorted(set(a["standing"]) - set(b["standing"])) for a, b in ((reference, one), (one, reference))
            )
            passes, price = (r["forwards"] + r["backwards"] for r in (one, reference))
            print(
                f"{one['setting']}  {spec}: n={one['n']}, right {len(one['clean'])}, standing {len(one['standing'])}, "
                f"{passes / one['n']:.0f} passes an image (1/{price / max(passes, 1):.1f}), {one['seconds']:.0f} s; "
                f"missed {missed or 'none'}, more {more or 'none'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
