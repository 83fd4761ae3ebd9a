"""Attribution methods on undefended and robust CIFAR-10 nets, and the shape bias of ImageNet nets.

    nice python benchmarks/peers/explanation.py --shared FOLDER [--out FOLDER] [--images 100] [--masks 500]
                                                [--part criteria shape] [--nets resnet20 cnn_a_adv ...]

criteria: insertion and deletion (and what they are of the probability at the whole picture) of every method on every
net, over the first test pictures of the exact pixels, with bootstrap intervals over pictures: of the nets' own right
answers, and, for comparing nets, of those that all nets get right. Beside them the net's accuracy under PGD (20 steps,
linf 2/255) on the same pictures. shape: cue conflicts, edges and silhouettes, decided by the mean probability of each
category's classes, with Wilson intervals. Each setting is stored under --out and found again.

docs/explanation.md has what was measured; resnet18_std, the largest, is not in it.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.config.sets import parse_set
from robustsuite.config.threats import Access, Threat
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import bootstrap_interval, wilson
from robustsuite.scenarios import evasion, shift
from robustsuite.scenarios.explanation.played import judged
from robustsuite.serve.data import InputSpace, Split, load_data
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.oracle import Desk, answer
from robustsuite.serve.system import System

SPACE = InputSpace(3, 32, 32, 10)
NETS = ("resnet20", "marabou_large", "cnn_a_adv", "cnn_a_adv4", "resnet4b_adv2", "oval_wide", "vit_pgd_2_3_16",
        "resnet18_std")  # fmt: skip
"""The first two and the last had ordinary training, oval_wide was trained to be provable, the others against PGD."""

METHODS = {"random": "random", "gradient": "gradient", "smoothgrad": "smoothgrad",
           "integrated_gradients": "integrated_gradients", "ig, mean colour": "integrated_gradients",
           "gradcam": "gradcam", "rise": "rise"}  # fmt: skip
"""What is printed, and the plugin's name."""

SHAPED = {"mobilenetv1_025": 128, "mobilenetv1_050": 160, "mobilenetv1_100": 224, "mobilenetv2_100_qat": 224,
          "squeezenet1_0": 224}  # fmt: skip
SCORES = ("insertion", "deletion", "insertion_share", "deletion_share")
WIDTH = 128


def served(shared: Path, name: str, space: InputSpace) -> System:
    """One of the nets, as it is."""
    arch = {"mobilenetv2_100_qat": "?arch=timm:mobilenetv2_100&pad_type=same",
            "squeezenet1_0": "?arch=torchvision:squeezenet1_0", "resnet20": "?arch=cifar_resnet20",
            "resnet18_std": "?arch=resnet18_cifar", "vit_pgd_2_3_16": "?arch=small_vit"}.get(name, "")  # fmt: skip
    kind = "imagenet" if space.classes == 1000 else "cifar10"
    net = load_model(f"checkpoint:{shared}/models/{kind}_{name}.safetensors{arch or plain(name)}", space).net
    return System(ready(net), space)


def plain(name: str) -> str:
    """The architecture of the remaining nets."""
    known = {"cnn_a_adv": "cnn_a", "cnn_a_adv4": "cnn_a", "oval_wide": "cnn_a", "resnet4b_adv2": "resnet4b",
             "marabou_large": "conv_large"}  # fmt: skip
    return f"?arch={known.get(name, name)}"


def explained(system: System, method: str, split: Split, masks: int) -> dict[str, list[Any]]:
    """The criteria's columns of one method on one net, and which pictures it gets right."""
    card, rng = card_of("attack", METHODS[method]), Rng.of(0, f"explanation/{method}", split.ids)
    x = split.images(torch.arange(len(split)))
    with torch.no_grad():
        said = torch.cat([answer(system.net, part) for part in x.split(WIDTH)]).argmax(1)
    desk = Desk(system.net, Access.WHITE_BOX, rng.fold("oracle"), width=WIDTH)
    own = {"rise": {"masks": masks}, "ig, mean colour": {"baseline": "mean"}}
    given = own.get(method, {})
    maps = card.function(desk.oracle(), x, said, rng=rng.fold("attack"), **given)

    def ask(rows: Tensor, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return answer(system.net, pictures).softmax(1).gather(1, said[rows, None]).squeeze(1)

    columns = judged(ask, x, maps, None, rng.fold("ties"), WIDTH) | {"clean_ok": said == split.y}
    return {name: column.tolist() for name, column in columns.items()}


def robust(system: System, split: Split) -> list[bool]:
    """Which pictures stand PGD of 20 steps in linf 2/255."""
    card, threat = card_of("attack", "pgd"), Threat("t", "evasion", Access.WHITE_BOX, parse_set("linf", "2/255"))
    play = partial(card.function, steps=20)
    record = evasion.judged(system, play, split, threat, Rng.of(0, "pgd", split.ids), width=WIDTH, card=card)
    return [bool(value) for value in record.columns["robust"]]


def criteria(given: argparse.Namespace) -> None:
    """Print a table of each net's own right pictures and one of those that all get right."""
    data = {"cifar10": {"root": str(given.shared / "data/cifar10"), "pack": "lossless"}}
    split = load_data(data)[1].first(given.images)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    stands: dict[str, list[bool]] = {}
    for net in given.nets:
        system = served(given.shared, net, SPACE)
        stands[net] = kept(given.out / f"pgd-{net}-{given.images}.json", lambda at=system: robust(at, split))
        for method in METHODS:
            masks = f"-{given.masks}" if method == "rise" else ""
            file = given.out / f"{method.replace(', ', '-').replace(' ', '_')}{masks}-{net}-{given.images}.json"
            made = kept(file, lambda at=(system, method): explained(*at, split, given.masks))
            found.setdefault(net, {})[method] = {name: np.array(column) for name, column in made.items()}
            print(f"{net} {method}", flush=True)
    alike = np.logical_and.reduce([methods["random"]["clean_ok"] for methods in found.values()])
    for title, all_right in (("each net's own right pictures", False), ("pictures that all nets get right", True)):
        print(f"\n{title}\n{'net':16} {'n':>4} {'robust':>7} {'method':21}" + "".join(f"{s:>25}" for s in SCORES))
        for net, methods in found.items():
            for method, columns in methods.items():
                rows = alike if all_right else columns["clean_ok"]
                told = "".join(f"{_told(columns[score][rows]):>25}" for score in SCORES)
                print(f"{net:16} {rows.sum():4} {100 * np.mean(stands[net]):6.1f}% {method:21}{told}")


def _told(values: Any) -> str:
    lo, hi = bootstrap_interval(values, 0)
    return f"{np.mean(values):.3f} ({lo:.3f}-{hi:.3f})"


def shape(given: argparse.Namespace) -> None:
    """Print each net's answers to cue conflicts, edges and silhouettes, and its shape bias by category."""
    pictures = given.shared / "data/imagenet"
    print(f"{'net':20} {'shape':>6} {'texture':>8} {'of':>5}  {'shape bias':22} {'edges':>7} {'silhouettes':>12}")
    for name, size in SHAPED.items():

        def asked(name: str = name, size: int = size) -> dict[str, Any]:
            data, clean = load_data({"imagenet": {"root": str(pictures / "imagenet_sample700.zip"), "size": size}})
            how = {"root": str(pictures / "shape_texture_stimuli.zip"), "partial": True, "resize": size,
                   "interpolation": "bicubic"}  # fmt: skip
            found = card_of("shift", "cue_conflict").function(clean, data, seed=0, **how)
            system, answers = served(given.shared, name, data.space), {}
            for variant, split in found.variants.items():
                record = shift.judged(system, split, Rng.of(0, "shape", split.ids), width=32, reading=found.reading)
                answers[variant.corruption] = {key: column.tolist() for key, column in record.columns.items()}
                answers[variant.corruption]["label"] = split.y.tolist()
            return answers

        made = kept(given.out / f"shape-{name}.json", asked)
        cue = {key: np.array(made["cue_conflict"][key]) for key in ("by_shape", "by_texture", "by_either", "label")}
        k, n = int(cue["by_shape"].sum()), int(cue["by_either"].sum())
        lo, hi = wilson(k, n)
        others = [np.mean(made[key]["robust"]) for key in ("edges", "silhouettes")]
        print(f"{name:20} {k:6} {int(cue['by_texture'].sum()):8} {len(cue['label']):5}  "
              f"{k / n:.3f} ({lo:.3f}-{hi:.3f})   {100 * others[0]:6.1f}% {100 * others[1]:11.1f}%")  # fmt: skip


def main() -> None:
    """Print the tables of the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("explanation"))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--masks", type=int, default=500)
    parser.add_argument("--nets", choices=NETS, nargs="+", default=NETS)
    parser.add_argument("--part", choices=("criteria", "shape"), nargs="+", default=["shape", "criteria"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.part:
        {"criteria": criteria, "shape": shape}[part](given)


if __name__ == "__main__":
    main()
