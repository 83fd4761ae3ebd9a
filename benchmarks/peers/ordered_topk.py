"""QuadAttacK beside CW^K and adversarial distillation: same optimiser, budget, pictures, lists and judge.

    python -m robustsuite.benchmarks.peers.ordered_topk --shared FOLDER [--net mobilenetv1_050] [--images 64]
        [--skip 0] [--k 1 5 10 20] [--searches 1] [--iterations 60] [--set cw_k:lr=0.005,upper=200 ...] [--seeds 0]

FOLDER holds models/imagenet_*.safetensors and data/imagenet/imagenet_sample700.zip (default: $ROBUSTSUITE_SHARED).
The pictures are the first the net gets right, in a fixed random order, after leaving out --skip of it, so that a
search for settings can run on others. Energies are means over an attack's own successes, and the l2 one also over the
pictures on which all attacks succeed.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from robustsuite.config.goals import OrderedTopK
from robustsuite.config.registry import card_of
from robustsuite.config.threats import L2, Access, Threat
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import quadratic
from robustsuite.scenarios import evasion
from robustsuite.serve.data import InputSpace, Split, load_data
from robustsuite.serve.models import Normalised, load_model, ready
from robustsuite.serve.system import System

NETS = {"mobilenetv1_025": 128, "mobilenetv1_050": 160, "mobilenetv1_100": 224, "mobilenetv2_100_qat": 224}
"""Weights and the side of the pictures they were trained on."""
ATTACKS = ("quadattack", "cw_k", "adversarial_distillation_zero")


def network(folder: Path, name: str) -> nn.Module:
    """The published weights, normalisation in front."""
    file = folder / f"models/imagenet_{name}.safetensors"
    space = InputSpace(3, NETS[name], NETS[name], 1000)
    if not name.startswith("mobilenetv2"):
        return ready(load_model(f"checkpoint:{file}?arch={name}", space).net)
    import timm

    net = timm.create_model("mobilenetv2_100", pad_type="same")
    with safe_open(file, "pt") as weights:
        values = {k: weights.get_tensor(k).float() for k in weights.keys()}  # noqa: SIM118
    net.load_state_dict(values, strict=False)
    return ready(Normalised(net, (0.5,) * 3, (0.5,) * 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pictures(folder: Path, net: nn.Module, size: int, images: int, skip: int) -> Split:
    """The first `images` pictures that the net gets right, after `skip` of a fixed order."""
    root = str(folder / "data/imagenet/imagenet_sample700.zip")
    whole = load_data({"imagenet": {"root": root, "size": size}})[1]
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[skip:]
    found: list[tuple[Tensor, Tensor]] = []
    for part in order.split(16):
        x, y = whole.images(part), whole.y[part]
        right = net(x).argmax(1) == y
        found.append((x[right], y[right]))
        if sum(len(b) for _, b in found) >= images:
            break
    x, y = (torch.cat(column)[:images] for column in zip(*found, strict=True))
    return Split.of(x, y)


class Stopwatch:
    """Seconds spent in the solver."""

    def __init__(self) -> None:
        self.seconds, self.inner = 0.0, quadratic.multipliers

    def __call__(self, *given: Any) -> Tensor:
        start = time.perf_counter()
        solved = self.inner(*given)
        self.seconds += time.perf_counter() - start
        return solved


def settings(texts: list[str]) -> dict[str, dict[str, float]]:
    """'cw_k:lr=0.005,upper=200' as a dictionary by attack."""
    split = [text.partition(":") for text in texts]
    return {
        name: {k: float(v) for k, _, v in (pair.partition("=") for pair in rest.split(","))} for name, _, rest in split
    }


def main() -> None:
    """Print one row an attack and K."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--net", choices=NETS, default="mobilenetv1_050")
    for name, default in {"images": 64, "skip": 0, "searches": 1, "iterations": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], help="attack:parameter=value,...")
    parser.add_argument("--attacks", nargs="+", default=ATTACKS)
    given = parser.parse_args()
    net = network(given.shared, given.net)
    split = pictures(given.shared, net, NETS[given.net], given.images, given.skip)
    quadratic.multipliers = watch = Stopwatch()  # type: ignore[assignment]
    chosen = settings(given.set)
    print(f"{given.net}, {len(split)} pictures, {given.searches} x {given.iterations}, lists of seeds {given.seeds}")
    print("  K attack                         success      l1     l2   linf  l2 where all succeed    s  of it solving")
    for k in given.k:
        rows = {name: [] for name in given.attacks}
        took = {}
        for name in given.attacks:
            budget = {"searches": given.searches, "iterations": given.iterations, **chosen.get(name, {})}
            watch.seconds, start = 0.0, time.perf_counter()
            rows[name] = [columns(net, split, name, k, seed, budget) for seed in given.seeds]
            took[name] = time.perf_counter() - start, watch.seconds
        table(k, {name: {c: torch.cat([r[c] for r in found]) for c in found[0]} for name, found in rows.items()}, took)


def columns(net: nn.Module, split: Split, name: str, k: int, seed: int, given: dict[str, Any]) -> dict[str, Tensor]:
    """The scenario's record of one attack."""
    card, side = card_of("attack", name), split.images(split.ids[:1]).shape[-1]
    threat = Threat("ordered", "evasion", Access.WHITE_BOX, L2(float("inf")), goal=OrderedTopK(k))
    system = System(net, InputSpace(3, side, side, 1000))
    rng = Rng.of(seed, "ordered", split.ids)
    return evasion.judged(system, partial(card.function, **given), split, threat, rng, width=64, card=card).columns


def table(k: int, found: dict[str, dict[str, Tensor]], took: dict[str, tuple[float, float]]) -> None:
    """One row an attack."""
    everywhere = torch.stack([c["fooled"] & c["clean_ok"] for c in found.values()]).all(0)
    for name, c in found.items():
        hit = c["fooled"] & c["clean_ok"]
        l1, l2, linf = (float(c[norm][hit].mean()) for norm in ("l1", "l2", "linf"))
        seconds, solving = took[name]
        print(
            f"{k:3} {name:30} {float(hit.float().mean()):6.1%} {l1:7.1f} {l2:6.2f} {linf:6.3f} "
            f"{float(c['l2'][everywhere].mean()):11.2f} ({int(everywhere.sum()):3}) {seconds:9.0f} "
            f"{solving / seconds:6.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
