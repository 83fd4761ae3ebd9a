"""Peak memory of a cell against its number of pictures at 224 px: flat beyond one part.

python benchmarks/memory.py --out runs/memory [--most 4096]    each point in a process of its own, with a small network;
python benchmarks/memory.py --out runs/memory --planned 50000  a cell of so many, its first parts played, then stopped.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Ball, Threat, parse_ball
from robustsuite.engine.execute import Progress, execute
from robustsuite.engine.parts import divided
from robustsuite.engine.plan import Decision
from robustsuite.engine.store import Store
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import Dataset, InputSpace, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, ready, weights_sha256
from robustsuite.serve.stages import applied

SPACE = InputSpace(3, 224, 224, 10)
SMOOTHED = ("randomized_smoothing", {"sigma": 0.25, "n": 8, "alpha": 0.1})
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "pgd": ("pgd", {"steps": 2}), "apgd": ("apgd", {"steps": 2}), "square": ("square", {"steps": 6}),
    "cgba": ("cgba", {"queries": 10, "n0": 5}), "fmn": ("fmn", {"steps": 2}),
    "smoothing": ("smoothing", {"n": 10, "n0": 5}), "shift": ("", {}),
}  # fmt: skip
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)


def pictures(n: int) -> Split:
    """Pictures that are drawn when they are asked for; the network's own answers are not needed as labels."""
    ids = torch.arange(n)

    def images(positions: Tensor) -> Tensor:
        return Rng.of(0, "pictures", ids[positions]).uniform(*SPACE.shape, low=0.2, high=0.8)

    return Split(torch.zeros(n, dtype=torch.int64), images, ids, hashlib.sha256(str(n).encode()).hexdigest())


def network() -> nn.Module:
    """A few thousand weights; it says class 0 of every such picture."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Conv2d(4, 8, 4, 4), nn.ReLU(), nn.Flatten())
        head = nn.Linear(8 * 49, 10)
    with torch.no_grad():
        head.bias[0] += 1.0
    return ready(nn.Sequential(net, head))


def cell(kind: str, n: int) -> Cell:
    """One cell of n pictures."""
    net, split = network(), pictures(n)
    data = Dataset("drawn", SPACE, tuple(map(str, range(10))), {"test": split})
    defenses = (applied(*SMOOTHED),) if kind == "smoothing" else ()
    cycle = Lifecycle(Model("small", net, SPACE, weights_sha256(net)), data, defenses)
    name, given = KINDS[kind]
    if not name:
        return Cell("memory", cycle, Subjects(split), shift="clean", judged=split)
    card = card_of("attack", name)
    norm = "l2" if kind in ("cgba", "fmn", "smoothing") else "linf"
    budget: Ball = parse_ball(norm, 0.5 if norm == "l2" else 1 / 255)
    threat = Threat("memory", card.place, Access.WHITE_BOX, budget=budget)
    return Cell("memory", cycle, Subjects(split), threat, card, tuple(sorted(given.items())), judged=split)


def played(kind: str, n: int, most: int | None) -> dict[str, object]:
    """What one cell took; most: parts after which it is stopped."""
    one, started = cell(kind, n), time.perf_counter()
    parts = 0

    def starts(*_: object) -> None:
        nonlocal parts
        parts += 1
        if most is not None and parts > most:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        execute([(one, Decision())], Store(Path(folder)), Progress(starts=starts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = round(time.perf_counter() - started, 1)
    return {"kind": kind, "n": n, "parts": len(divided(one)), "peak_mib": round(peak), "seconds": seconds}


def main() -> None:
    """The table and its plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--planned", type=int)
    parser.add_argument("--one", nargs=3, metavar=("KIND", "N", "PARTS"))
    asked = parser.parse_args()
    if asked.one:
        sys.stdout.write(json.dumps(played(asked.one[0], int(asked.one[1]), int(asked.one[2]) or None)))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / ("planned.csv" if asked.planned else "memory.csv")
    rows = list(csv.DictReader(file.open(encoding="utf-8"))) if file.exists() else []
    for kind in KINDS:
        for n in [asked.planned] if asked.planned else [n for n in SIZES if n <= asked.most]:
            if any((row["kind"], row["n"]) == (kind, str(n)) for row in rows):
                continue
            command = [sys.executable, __file__, "--one", kind, str(n), "3" if asked.planned else "0"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append({key: str(value) for key, value in json.loads(said.splitlines()[-1]).items()})
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
            with file.open("w", newline="", encoding="utf-8") as table:  # a run that is stopped goes on
                writer = csv.DictWriter(table, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    if not asked.planned:
        draw(rows, asked.out / "memory.png")


def draw(rows: list[dict[str, str]], file: Path) -> None:
    """Peak against n, a line a kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for kind in KINDS:
        points = sorted((int(row["n"]), int(row["peak_mib"])) for row in rows if row["kind"] == kind)
        axes.plot(*zip(*points, strict=True), marker="o", label=kind)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0)
    axes.set_xlabel("pictures of 224 px in the cell")
    axes.set_ylabel("peak of the process, MiB")
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
