"""AutoAttack three ways on one network: through us, by pyautoattack called directly, and our cheaper composition.

    python benchmarks/peers/autoattack.py --shared FOLDER [--n 200] [--eps 2/255] [--only exact ours] [--at-once]

FOLDER holds models/cifar10_resnet4b_adv2.safetensors and data/cifar10/cifar10_test8000_jpeg.npz. Same seed, same
batches. The first two must agree on every image after every stage.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyautoattack
import torch
from PIL import Image
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, parse_number
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.oracle import Oracle

BATCH, SEED = 250, 0
LABELS = ("exact", "direct", "ours")
Stages = dict[str, Tensor]


def pictures(folder: Path, n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures (n, 3, 32, 32) in [0, 1] and labels (n,)."""
    pack = np.load(folder / "data/cifar10/cifar10_test8000_jpeg.npz")
    blob = pack["jpeg"].tobytes()
    spans = list(pairwise(pack["offsets"]))[:n]
    decoded = [np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB")) for a, b in spans]
    x = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().float() / 255
    return x, torch.from_numpy(pack["labels"][:n].astype("int64"))


class Watch(logging.Handler):
    """Reads the package's own state file whenever it logs the accuracy after a stage."""

    def __init__(self, state: Path) -> None:
        super().__init__(logging.DEBUG)
        self.state, self.stages = state, {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(("initial accuracy", "robust accuracy after")):
            name = "clean" if text.startswith("initial") else "after_" + text.split()[3].rstrip(":").lower()
            flags = json.loads(self.state.read_text())["_robust_flags"]
            self.stages[name.replace("-", "_")] = torch.tensor(flags)


def directly(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[Stages, Tensor]:
    """pyautoattack without us: who is robust after each stage, and the pictures."""
    logger = logging.getLogger("auto-attack")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder) / "state.json")
        logger.addHandler(watch)
        attack = pyautoattack.AutoAttack(net, norm="Linf", eps=eps, seed=SEED, version="standard")
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=BATCH, state_path=watch.state)
        logger.removeHandler(watch)
    return watch.stages, x_adv


def through_us(name: str, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[Stages, Tensor, tuple[int, int]]:
    """A registered attack as a sweep runs it: everything if its card says so, else the correctly classified ones."""
    card, n = card_of("attack", name), len(x)
    clean = net(x).argmax(1) == y
    rows = torch.arange(n) if card.whole else clean.nonzero().flatten()
    rng = Rng.of(SEED, name, torch.arange(n))[rows]
    oracle = Oracle.over(net, Access.WHITE_BOX, rng, width=BATCH)
    extra = {"seed": SEED, "batch_size": BATCH} if name == "autoattack" else {}
    found = card.function(oracle, x[rows], y[rows], Linf(eps), rng=rng.fold("attack"), **extra)
    x_adv, stages = x.clone(), {"clean": clean}
    x_adv[rows] = found.x_adv
    for stage, column in found.columns.items():
        if stage.startswith("after_"):
            stages[stage] = torch.zeros(n, dtype=torch.bool).index_copy(0, rows, column)
    return stages, x_adv, oracle.counts.totals()


class Run(NamedTuple):
    """Who is robust after each stage, the pictures, forwards and backwards, and seconds: processor's, clock's."""

    stages: Stages
    x_adv: Tensor
    counts: tuple[int, int]
    processor: float
    clock: float


def run(label: str, folder: Path, n: int, eps: float) -> Run:
    """One of the three, on one thread."""
    torch.set_num_threads(1)
    net, (x, y), counts = network(folder), pictures(folder, n), (0, 0)
    processor, clock = time.process_time(), time.perf_counter()
    if label == "direct":
        stages, x_adv = directly(net, x, y, eps)
    else:
        stages, x_adv, counts = through_us({"exact": "autoattack", "ours": "ensemble"}[label], net, x, y, eps)
    return Run(stages, x_adv, counts, time.process_time() - processor, time.perf_counter() - clock)


def network(folder: Path) -> nn.Module:
    """resnet4b with its published weights."""
    weights = folder / "models/cifar10_resnet4b_adv2.safetensors"
    return ready(load_model(f"checkpoint:{weights}?arch=resnet4b", InputSpace(3, 32, 32, 10)).net)


def report(done: dict[str, Run], folder: Path, n: int, eps: float) -> None:
    """A line for each run, then who agrees with whom."""
    for label, one in done.items():
        line = ", ".join(f"{k.removeprefix('after_')} {100 * v.float().mean():.1f}" for k, v in one.stages.items())
        work = f"{one.counts[0] / n:.0f} f + {one.counts[1] / n:.0f} b an image, " if any(one.counts) else ""
        print(f"{label:6} {line}; {work}{one.processor:.0f} s of processor, {one.clock:.0f} s by the clock")
    if "exact" in done and "direct" in done:
        ours, theirs = done["exact"], done["direct"]
        same = {k: int((ours.stages[k] == theirs.stages[k]).sum()) for k in theirs.stages}
        equal = torch.equal(ours.x_adv, theirs.x_adv)
        print(f"exact against direct, images of {n} on which they agree: {same}; equal pictures: {equal}")
    if "exact" in done and "ours" in done:
        exact, cheap = done["exact"], done["ours"]
        left, left_cheap = list(exact.stages.values())[-1], list(cheap.stages.values())[-1]
        x, y = pictures(folder, n)
        judged = (network(folder)(cheap.x_adv).argmax(1) == y) | ~Linf(eps).allows(x, cheap.x_adv)
        print(
            f"composition: {int(left_cheap.sum())} robust (judged {int(judged.sum())}) against {int(left.sum())} by "
            f"AutoAttack: {int((left_cheap & ~left).sum())} missed, {int((left & ~left_cheap).sum())} more; "
            f"{100 * sum(cheap.counts) / sum(exact.counts):.1f} % of its evaluations"
        )


def main() -> None:
    """Run them and print robust accuracy after each stage, evaluations an image and seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--only", nargs="*", default=list(LABELS), choices=LABELS)
    parser.add_argument("--at-once", action="store_true", help="in three processes at once; compare processor seconds")
    args = parser.parse_args()
    eps = parse_number(args.eps)
    print(f"resnet4b, CIFAR-10 (JPEG), n={args.n}, {Linf(eps)}, batch {BATCH}, seed {SEED}, 1 thread each")
    with ProcessPoolExecutor(len(args.only) if args.at_once else 1, mp_context=get_context("spawn")) as pool:
        waiting = {label: pool.submit(run, label, args.shared, args.n, eps) for label in args.only}
        done = {label: future.result() for label, future in waiting.items()}
    report(done, args.shared, args.n, eps)


if __name__ == "__main__":
    main()
