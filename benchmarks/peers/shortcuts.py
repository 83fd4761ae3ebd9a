"""Whac-A-Mole: what each mitigation of one shortcut does to the others, and the watermark of ImageNet-W on real nets.

    python benchmarks/peers/shortcuts.py [--shared FOLDER] [--out FOLDER] [--seeds 3] [--epochs 12] [--font FILE]

First the data `shortcuts` (three shortcuts, each along with the class in 95 % of the training pictures) and a ResNet-8:
accuracy on the pictures as they are distributed (ID), and the gap of every combination of flipped shortcuts to it, in
points with a 95 % interval over test pictures (paired, the mean over seeds). Then, where FOLDER holds the ImageNet nets
and data/imagenet/imagenet_sample700.zip: accuracy with and without the watermark, the share answered 'carton' and its
mean probability. Without --font the sign reads SHORTCUT, which is not ImageNet-W's. One thread. What was computed
stands under --out as json and is found again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustsuite.benchmarks.datasets.shortcuts import shortcuts
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.benchmarks.shifts.combinations import every_combination
from robustsuite.benchmarks.shifts.watermarks import imagenet_w
from robustsuite.defenses.harden.last_layer_retraining import last_layer_retraining
from robustsuite.defenses.train.last_layer_ensemble import last_layer_ensemble
from robustsuite.defenses.train.shortcut_augmentation import shortcut_augmentation
from robustsuite.maths import stats
from robustsuite.serve.data import Dataset, Split, load_data
from robustsuite.serve.models import Training, as_it_is, load_model
from robustsuite.serve.training import Recipe, fitted, one_cycle, untrained

ALL = "watermark+background+texture"
NETS = {"mobilenetv1_025": 128, "mobilenetv1_050": 160, "mobilenetv1_100": 224}
"""Of the ImageNet nets those with a recipe here, and the side of their pictures."""


def plain(net: nn.Module, training: Training, epochs: int) -> nn.Module:
    """ERM: the network from fresh weights on the pictures as they are."""
    recipe = Recipe(epochs, one_cycle(0.2, epochs), flip=True, crop=2)
    return fitted(untrained(net, training.seed), training, recipe)


def augmented(names: str, net: nn.Module, training: Training, epochs: int) -> nn.Module:
    """One augmentation for each shortcut named."""
    return shortcut_augmentation(as_it_is, shortcuts=names, epochs=epochs)(net, training)


def retrained(net: nn.Module, training: Training, epochs: int) -> nn.Module:
    """ERM, its last layer trained anew on pictures in which shortcuts say nothing."""
    return last_layer_retraining(plain(net, training, epochs), training)


def ensemble(names: str, net: nn.Module, training: Training, epochs: int) -> nn.Module:
    """LLE over ERM."""
    return last_layer_ensemble(as_it_is, shortcuts=names)(plain(net, training, epochs), training)


def ensemble_augmented(net: nn.Module, training: Training, epochs: int) -> nn.Module:
    """LLE over a body that has seen every edit."""
    return last_layer_ensemble(as_it_is, shortcuts=ALL)(augmented(ALL, net, training, epochs), training)


METHODS: dict[str, Callable[[nn.Module, Training, int], nn.Module]] = {
    "ERM": plain,
    "augmentation: watermark": partial(augmented, "watermark"),
    "augmentation: background": partial(augmented, "background"),
    "augmentation: texture": partial(augmented, "texture"),
    "augmentation: all three": partial(augmented, ALL),
    "last-layer retraining (balanced)": retrained,
    "LLE: watermark": partial(ensemble, "watermark"),
    "LLE": partial(ensemble, ALL),
    "LLE on augmented body": ensemble_augmented,
}  # fmt: skip


def right(net: nn.Module, split: Split) -> list[bool]:
    """Which pictures are answered right."""
    with torch.no_grad():
        return torch.cat([net(x).argmax(1) == y for _, x, y in split.batches(500)]).tolist()


def verdicts(data: Dataset, method: str, epochs: int, seed: int) -> dict[str, list[bool]]:
    """A training's verdicts on the pictures as they are distributed ('ID') and under every combination."""
    training = Training(data.split("train"), data.split("val"), seed)
    net = METHODS[method](build("scenes_resnet", data.space), training, epochs).eval()
    test = data.split("test")
    made = every_combination(test, data, seed=0).variants
    return {"ID": right(net, test), **{variant.corruption: right(net, part) for variant, part in made.items()}}


def gap(each: list[dict[str, list[bool]]], name: str) -> str:
    """Points of accuracy lost under a combination, with an interval over pictures."""
    lost = np.mean([np.array(one[name], float) - np.array(one["ID"], float) for one in each], 0)
    lo, hi = stats.bootstrap_interval(lost, seed=0)
    return f"{100 * lost.mean():+6.1f} [{100 * lo:+.1f}, {100 * hi:+.1f}]"


def table(given: argparse.Namespace) -> None:
    """Train what is missing, and print a row a method."""
    data = cache(partial(shortcuts, train=given.train, test=given.test))
    print(f"{given.train} training and {given.test} test pictures, {given.seeds} seeds, {given.epochs} epochs")
    for method in METHODS:
        each = []
        for seed in range(given.seeds):
            file = given.out / f"{method}-{given.train}-{given.test}-{given.epochs}-{seed}.json".replace(":", "")
            each.append(kept(file, lambda method=method, seed=seed: verdicts(data(), method, given.epochs, seed)))
        share = 100 * float(np.mean([one["ID"] for one in each]))
        gaps = "  ".join(f"{name} {gap(each, name)}" for name in each[0] if name not in ("ID", "as usual"))
        print(f"  {method:34} ID {share:5.1f} %  {gaps}", flush=True)


def cartons(folder: Path, name: str, side: int, font: str | None) -> dict[str, Any]:
    """One ImageNet net on the sample pictures, without and with the watermark."""
    root = str(folder / "data" / "imagenet" / "imagenet_sample700.zip")
    data, split = load_data({"imagenet": {"root": root, "size": side}})
    net = load_model(f"checkpoint:{folder}/models/imagenet_{name}.safetensors?arch={name}", data.space).net.eval()
    made = imagenet_w(split, data, seed=0, font=font)
    found: dict[str, Any] = {"n": len(split), "sign": made.reading.transform}
    for title, part in (("clean", split), ("marked", next(iter(made.variants.values())))):
        with torch.no_grad():
            z = [(net(x), y) for _, x, y in part.batches(100)]
        logits, y = torch.cat([a for a, _ in z]), torch.cat([b for _, b in z])
        found[title] = {"right": (logits.argmax(1) == y).tolist(),
                        "carton": (logits.argmax(1) == made.reading.watch).tolist(),
                        "probability": float(logits.softmax(1)[:, made.reading.watch].mean())}  # fmt: skip
    return found


def watermarks(given: argparse.Namespace) -> None:
    """Ask what is missing, and print a row a net."""
    for name, side in NETS.items():
        font = Path(given.font).stem if given.font else "none"
        file = given.out / f"imagenet_w-{name}-{font}.json"
        found = kept(file, partial(cartons, given.shared, name, side, given.font))
        clean, marked = found["clean"], found["marked"]
        lost = np.array(marked["right"], float) - np.array(clean["right"], float)
        lo, hi = stats.bootstrap_interval(lost, seed=0)
        shares = [(sum(part["carton"]), *stats.wilson(sum(part["carton"]), found["n"])) for part in (clean, marked)]
        said = " -> ".join(f"{k} of {found['n']} [{100 * a:.1f}, {100 * b:.1f} %]" for k, a, b in shares)
        print(f"  {name:18} {100 * np.mean(clean['right']):.1f} %, IN-W gap {100 * lost.mean():+.1f} [{100 * lo:+.1f}, "
              f"{100 * hi:+.1f}], answered carton {said}, its probability {100 * clean['probability']:.2f} -> "
              f"{100 * marked['probability']:.2f} %; {found['sign']}", flush=True)  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("shortcuts"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--font", help="a file of SourceHanSerifSC-ExtraLight")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if (given.shared / "data" / "imagenet" / "imagenet_sample700.zip").is_file():
        watermarks(given)
    table(given)


if __name__ == "__main__":
    main()
