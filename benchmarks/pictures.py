"""What keeping the pictures that an attack broke takes: bytes a picture, and seconds beside those of the cell.

python benchmarks/pictures.py --data FOLDER    with FOLDER/data and FOLDER/models as this project's tests have them
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

from robustsuite.engine.execute import execute, ordered
from robustsuite.engine.plan import plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from robustsuite.records.pictures import both, read_pictures, write_pictures

ATTACKS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "linf": ("white_box", {"linf": "E"}, {"apgd": {"steps": 20}}),
    "l2": ("white_box", {"l2": "E"}, {"apgd": {"steps": 20}}),
    "l0": ("white_box", {"l0": "E"}, {"fmn": {"steps": 50}}),
    "cgba": ("labels", {"l2": "E", "queries": 500}, {"cgba": {"queries": 500}}),
}
"""By name: access, budget, attack."""

SETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "32 px": (
        "models/cifar10_resnet20.safetensors?arch=cifar_resnet20", {"cifar10": {"root": "data/cifar10"}},
        {"linf": "8/255", "l2": 0.5, "l0": 100, "cgba": 2.0},
    ),
    "224 px": (
        "models/imagenet_mobilenetv1_025.safetensors?arch=mobilenetv1_025",
        {"imagenet": {"root": "data/imagenet/imagenet_sample700.zip"}},
        {"linf": "4/255", "l2": 3.0, "l0": 2000, "cgba": 20.0},
    ),
}  # fmt: skip
"""By name: the model, the data, the radius of each attack."""


def measured(folder: Path, size: str, attack: str, n: int) -> list[str]:
    """One row: how many are kept by default and of all, bytes each, and what writing them takes of the cell's time."""
    spec, data, radii = SETS[size]
    access, budget, entry = ATTACKS[attack]
    asked = {k: radii[attack] if v == "E" else v for k, v in budget.items()}
    ((source, given),) = data.items()
    threat = {"scenario": "evasion", "access": access, "budget": asked, "attacks": [entry], "keep": "all"}
    value = {
        "name": "pictures", "models": [f"checkpoint:{folder / spec}"], "threats": {attack: threat},
        "data": [{source: {**given, "root": str(folder / given["root"])}}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        cells = [pair for pair in ordered(plan(sweep_of(value, "this file"), "cpu", n)) if pair[0].threat]
        started = time.perf_counter()
        execute(cells, store)
        whole = time.perf_counter() - started
        kept = both(read_pictures(store.pictures(cells[0][0].run_id)))
        assert kept is not None
        row = [size, attack]
        for many in (16, len(kept.ids)):
            started = time.perf_counter()
            written, _ = write_pictures(Path(place) / "again.parquet", [kept.at(slice(0, many))])
            seconds = time.perf_counter() - started
            each = (Path(place) / "again.parquet").stat().st_size / written
            row += [str(written), f"{each / 1024:,.1f}", f"{100 * seconds / whole:.2f}"]
        return [*row, f"{8 * kept.clean[0].size / 1024:,.0f}", f"{whole:.0f}"]


def main() -> None:
    """Print the table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--first", type=int, default=64)
    args = parser.parse_args()
    columns = ("size", "attack", "kept", "KiB each", "% of the cell's time", "all", "KiB each", "%", "KiB uncompressed",
               "cell, s")  # fmt: skip
    made = (measured(args.data, size, attack, args.first) for size in SETS for attack in ATTACKS)
    for row in chain(([*columns], ["---"] * len(columns)), made):
        sys.stdout.write(f"| {' | '.join(row)} |\n")


if __name__ == "__main__":
    main()
