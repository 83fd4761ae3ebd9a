"""RayS, SurFree and GeoDA beside their authors' code: distance at equal queries, on the same images, in pairs.

    python benchmarks/peers/labels.py [--shared FOLDER] [--out FOLDER] [--nets resnet4b lenet5 mobilenet]
                                      [--images 12] [--queries 5000] [--step 5] --code FOLDER
                                      [rays surfree geoda geoda_linf]

FOLDER of --code holds checkouts of uclaml/RayS, t-maho/SurFree and thisisalirah/GeoDA by their names. All start from
the same adversarial pictures, pay the same for them and stop at the same number of queries (RayS starts from none).
What counts is the nearest adversarial picture asked about by then, in or out of the box; theirs take one image at a
time. SurFree runs with its config_example.json, for as many steps as its queries last. Of GeoDA, a script for one file
at 224 pixels, the functions are taken with our sigma, tol and band; its search goes in fixed steps of length 5, which
the box clips on small pictures, and --step sets another. At each checkpoint: both medians; ours / theirs,
the geometric mean over images, with its 95 % bootstrap interval; on how many ours is nearer. Below 1 ours is nearer.
What was computed stands under --out and is found again.

Measured on cifar10_resnet4b_adv2, ours / theirs [95 %]; 12 images, with --step 0.1 6 images:

                            after 250             after 1000            after 2500            after 5000
    rays                    1.000 [1.000, 1.000]  1.000 [1.000, 1.000]  1.000 [1.000, 1.000]  1.000 [1.000, 1.000]
    surfree                 0.955 [0.900, 1.011]  0.906 [0.868, 0.943]  0.882 [0.863, 0.900]  0.858 [0.845, 0.871]
    geoda in l2             0.949 [0.840, 1.099]  0.842 [0.792, 0.921]  0.765 [0.723, 0.823]  0.726 [0.685, 0.777]
    geoda in l2, --step 0.1 0.980 [0.932, 1.056]  1.015 [0.973, 1.069]  1.008 [0.979, 1.050]
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import math
import os
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.decisions.geoda import geoda
from robustsuite.attacks.evasion.decisions.rays import rays
from robustsuite.attacks.evasion.decisions.surfree import surfree
from robustsuite.benchmarks.peers.decision import NETS, Stop, loaded, ratios
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import L2, Access, Linf
from robustsuite.maths import projections
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.boundary import Band
from robustsuite.methods.evasion.decisions import CHECKPOINTS, Decisions, noise_start
from robustsuite.serve.oracle import Oracle

OURS = {"rays": (rays, Linf(1)), "surfree": (surfree, L2(math.inf)), "geoda": (geoda, L2(math.inf)),
        "geoda_linf": (geoda, Linf(1))}  # fmt: skip


class Watched(nn.Module):
    """The net as theirs see it: counts pictures but for the first `free`, keeps the nearest adversarial by then."""

    def __init__(self, net: nn.Module, source: Tensor, label: Tensor, norm: str, queries: int, spent: int) -> None:
        super().__init__()
        self.net, self.source, self.label, self.norm, self.queries = net, source, label, norm, queries
        self.spent, self.free, self.track = spent, 0, torch.full((len(CHECKPOINTS),), torch.inf)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.net(x)
        wrong = logits.argmax(1) != self.label
        lengths = projections.norm((x - self.source).flatten(1), self.norm)
        for picture, there, length in zip(x, wrong.tolist(), lengths.tolist(), strict=True):
            if self.norm == "l2" and not bool(picture.any()):  # SurFree's way to say that a picture is none
                continue
            if self.free:
                self.free -= 1
                continue
            self.spent += 1
            if there:
                late = torch.tensor(CHECKPOINTS) < self.spent
                self.track = torch.where(late, self.track, self.track.clamp(max=length))
        if self.spent >= self.queries:
            raise Stop
        return logits


def their_rays(code: Path, watched: Watched, x: Tensor, y: Tensor, start: Tensor) -> None:
    """RayS on one image; on a CPU its moves to a GPU are none."""
    sys.modules["pgbar"] = types.SimpleNamespace(progress_bar=lambda *a: None)  # type: ignore[assignment]
    torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    peer = imported(code / "RayS", "RayS")
    model = types.SimpleNamespace(predict_label=lambda z: watched(z).argmax(1))
    peer.RayS(model, epsilon=0.0).attack_hard_label(x, y, query_limit=watched.queries)


def their_surfree(code: Path, watched: Watched, x: Tensor, y: Tensor, start: Tensor) -> None:
    """SurFree on one image; it asks for the label of the source first."""
    peer = imported(code / "SurFree", "surfree")
    config = json.loads((code / "SurFree/config_example.json").read_text())
    watched.free = 1
    with contextlib.redirect_stdout(io.StringIO()):
        attack = peer.SurFree(**{**config["init"], "steps": 10**6, "max_queries": watched.queries})
        attack(watched, x, y, starting_points=start, basis_params=config["run"]["basis_params"])


def their_geoda(code: Path, watched: Watched, x: Tensor, y: Tensor, start: Tensor, *, step: str) -> None:
    """The functions of GeoDA's script on one image, with what it computes at its end before it calls them."""
    source = (code / "GeoDA/GeoDA.py").read_text().replace("epsilon = 5", f"epsilon = {step}")
    kept = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    band = Band.of(x, 2 if x.shape[-1] < 96 else 3)

    class Noise:
        def __init__(self, n: int, _: object) -> None:
            self.n = n

        def cuda(self) -> Noise:
            return self

        def __call__(self) -> Tensor:
            return band.picture(torch.randn(self.n, x.shape[1], len(band.down), len(band.along)))

    space: dict[str, Any] = {
        "np": np, "torch": torch, "math": math, "linalg": np.linalg, "nn": nn, "Variable": lambda z, **k: z,
        "time": types.SimpleNamespace(time=lambda: 0.0), "clip_image_values": lambda z, lo, hi: z.clamp(lo, hi),
        "lb": 0.0, "ub": 1.0, "net": watched, "device": "cpu", "dist": watched.norm, "sigma": 3e-3, "tol": 2e-3,
        "orig_label": int(y), "x_0": x, "image_fb": x[0].permute(2, 1, 0).numpy(), "mean": [0.0] * x.shape[1],
        "std": [1.0] * x.shape[1], "verbose_control": "No", "grad_estimator_batch_size": 40, "sub_basis_torch": None,
    }  # fmt: skip
    exec(compile(ast.Module(kept, []), "GeoDA.py", "exec"), space)  # noqa: S102 (a peer is run as it is)
    space["SubNoise"] = Noise
    with contextlib.redirect_stdout(io.StringIO()):
        near, _ = space["bin_search"](x, start, 2e-3)
        left = watched.queries - watched.spent
        times = max(1, round(left / 500))
        each, times = space["opt_query_iteration"](left - 25 * times, times, 0.6)
        each, times = space["opt_query_iteration"](left - 25 * times, times, 0.6)
        space["GeoDA"](near, times, each)


def imported(folder: Path, name: str) -> Any:
    """A module of a peer's folder."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def tracks(name: str, given: argparse.Namespace, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N, checkpoints) of ours and of theirs, inf for none."""
    (attack, ball), queries, ids = OURS[name], given.queries, torch.arange(len(x))
    play: Callable[..., None] = {"rays": their_rays, "surfree": their_surfree}.get(
        name, partial(their_geoda, step=given.step)
    )
    oracle = Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", ids), width=len(x))
    found = attack(oracle, x, y, ball, rng=Rng.of(0, "attack", ids), queries=queries)
    ours = torch.stack([found.columns[f"{ball.norm}_at_{mark}"] for mark in CHECKPOINTS], 1).nan_to_num(nan=torch.inf)
    oracle = Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", ids), width=len(x))
    ask = Decisions(oracle, x, y, targeted=False, queries=queries, norm=ball.norm)
    start = x if name == "rays" else noise_start(ask, ids, Rng.of(0, "attack", ids).fold("start"))[0]
    theirs = []
    for i in ids.tolist():
        torch.manual_seed(i)
        watched = Watched(net, x[i], y[i], ball.norm, queries, int(ask.spent[i]))
        with contextlib.suppress(Stop):
            play(given.code, watched, x[i : i + 1].clone(), y[i : i + 1], start[i : i + 1].clone())
        theirs.append(torch.minimum(watched.track, ask.track[i]))
    return ours, torch.stack(theirs)


def both(name: str, which: str, given: argparse.Namespace) -> list[Any]:
    """`tracks` on this net, as lists."""
    net, x, y, _ = loaded(given.shared, which, given.images)
    return [part.tolist() for part in tracks(name, given, net, x, y)]


def main() -> None:
    """Compute what is missing, then print one table an attack and net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", choices=[*OURS, []], default=list(OURS))
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, default=Path("labels"))
    parser.add_argument("--code", type=Path, default=Path())
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=["resnet4b", "lenet5", "mobilenet"])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--step", default="5")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.attacks:
        for which in given.nets:
            stem = f"{name}-{which}-{given.images}-{given.queries}"
            file = given.out / f"{stem}{f'-{given.step}' if name.startswith('geoda') else ''}.json"
            found = map(np.array, kept(file, partial(both, name, which, given)))
            print(f"{name}, {NETS[which][0]}, {given.images} images")
            print("  queries    ours    theirs    ratio 95 % interval   nearer", flush=True)
            ratios(*found, given.queries)


if __name__ == "__main__":
    main()
