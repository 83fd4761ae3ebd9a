"""A cell in parts is the cell: the same rows, flags and notes however it is divided; a killed one loses a part."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from robustsuite.app import display
from robustsuite.app.api import run
from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access, Ball, Linf, Threat
from robustsuite.engine import parts
from robustsuite.engine.execute import Progress, execute
from robustsuite.engine.parts import Bounds, Played, divided, read_part, write_part
from robustsuite.engine.plan import Decision
from robustsuite.engine.runner import Runner
from robustsuite.engine.store import Store
from robustsuite.engine.work import follower
from robustsuite.maths.randomness import Rng
from robustsuite.records.cells import read_cell, read_whole
from robustsuite.records.schema import At, CellRecord
from robustsuite.reports.publish.stale import stale
from robustsuite.reports.read.verified import verify
from robustsuite.scenarios import evasion
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.record import Record, joined
from robustsuite.serve.data import Subjects
from robustsuite.serve.oracle import Oracle
from tests.shares import EVERY, SHIFTED, rows
from tests.toys import labelled, lifecycle, linear

ONE, SMALL = Bounds(1 << 40, 1 << 60, 1), Bounds(1 << 40, 1, 16)
"""A cell as a whole; 16 examples a part, three parts a cell."""


def records(folder: Path) -> dict[str, CellRecord]:
    return {f.parent.name: read_cell(f.parent) for f in (folder / "cells").glob("*/run.json")}


SWEEPS = [
    pytest.param(EVERY, {"done", "inert", "refused"}, id="digits"),
    pytest.param(SHIFTED, {"done"}, id="shift", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("sweep", "ends"), SWEEPS)
def test_every_scenario_in_parts_is_the_same_bytes(
    sweep: dict[str, Any], ends: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    for name, bounds in (("whole", ONE), ("parts", SMALL)):
        monkeypatch.setattr(parts, "CPU", bounds)
        run(sweep, out=tmp_path / name).report()
    assert verify(tmp_path / "parts").found == list(stale(tmp_path / "parts")) == []
    whole, divided_ = records(tmp_path / "whole"), records(tmp_path / "parts")
    leaks = {run_id for run_id, record in whole.items() if record.scenario.name == "inversion"}
    one, other = (
        {name: found for name, found in rows(tmp_path / run_).items() if name not in {*leaks, "scores.csv"}}
        for run_ in ("whole", "parts")
    )
    assert one == other
    for run_id, record in whole.items():
        same = divided_[run_id]
        if run_id in leaks:  # clients are optimised side by side: how many there are moves the last bits
            assert_close(tmp_path, run_id)
            continue
        assert (record.status, record.sentence, record.flags) == (same.status, same.sentence, same.flags)
        assert (record.columns, record.weights_sha256) == (same.columns, same.weights_sha256)
        assert (record.cost.queries, record.cost.backwards) == (same.cost.queries, same.cost.backwards)
    assert {r.status for r in whole.values()} == ends
    assert not (tmp_path / "parts" / "parts").exists()
    assert not (tmp_path / "parts" / "leases").exists()


def assert_close(folder: Path, run_id: str) -> None:
    a, b = (read_whole(folder / name / "cells" / run_id)[1] for name in ("whole", "parts"))
    if a is not None and b is not None:
        for name in ("psnr", "control_psnr", "federated_accuracy"):
            assert np.allclose(a[name], b[name], rtol=1e-3, equal_nan=True)
        assert (a["label_ok"] == b["label_ok"]).all()


STEPS: list[int] = []


@evasion.attack(cost=lambda classes, far: Cost(far), norms=("linf",))
def counted(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, far: int = 100) -> Tensor:
    """Says how many pictures it was handed; the fortieth time it is killed."""
    STEPS.append(len(x))
    if len(STEPS) == 40:
        raise KeyboardInterrupt
    return budget.sample(x, rng)


def toy(n: int, far: int) -> Cell:
    net = linear()
    split = labelled(net, n, wrong=0)
    threat = Threat("t", "evasion", Access.WHITE_BOX, budget=Linf(0.01))
    return Cell("toy", lifecycle(net, split), Subjects(split), threat, counted.card, (("far", far),))


def test_a_cell_of_forty_parts_killed_at_the_last_computes_two(tmp_path: Path) -> None:
    STEPS.clear()
    cell = toy(40 * parts.CPU.least, 10_000)
    assert len(divided(cell)) == 40
    with pytest.raises(KeyboardInterrupt):
        execute([(cell, Decision())], Store(tmp_path))
    assert len(list((tmp_path / "parts" / cell.run_id).glob("*.parquet"))) == 39
    (tmp_path / "parts" / cell.run_id / f"0-{parts.CPU.least}.parquet").write_bytes(b"damaged")
    assert execute([(cell, Decision())], Store(tmp_path)) == 1
    assert len(STEPS) == 40 + 2  # the one that was lost and the one that was damaged
    assert read_cell(tmp_path / "cells" / cell.run_id).rows == 40 * parts.CPU.least


def test_each_part_is_told_as_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who computes it, by who looks on while others do, and in plain lines as on a terminal."""
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
    STEPS[:] = [0] * 40
    cell, store, seen = toy(3 * parts.CPU.least, 10_000), Store(tmp_path), []
    planned = [(cell, Decision())]
    look = follower(planned, store, Progress(lambda cell, part, parts: seen.append((part, parts))))
    lines, screen = io.StringIO(), io.StringIO()
    with (
        display.progress(planned, store, 1, screen=Console(file=lines)) as plain,
        display.progress(planned, store, 1, screen=Console(file=screen, force_terminal=True, width=200)) as live,
    ):

        def starts(*place: Any) -> None:
            look()
            plain.starts(*place)
            live.starts(*place)

        def ends(*ended: Any) -> None:
            plain.ends(*ended)
            live.ends(*ended)

        execute(planned, store, Progress(starts, ends))
    assert seen == [(2, 3), (3, 3)]
    told = [line.split(" about")[0].strip() for line in lines.getvalue().splitlines()]
    assert told == [*(f"0/1 t: counted(far=10000), part {i}/3" for i in (1, 2, 3)), "1/1 t: counted(far=10000) done"]
    assert "part 3/3" in screen.getvalue()


def test_a_part_is_bounded_in_bytes_and_in_work() -> None:
    assert [len(part) for part in divided(toy(1000, 1))] == [1000]
    sizes = [len(part) for part in divided(toy(1000, 10_000))]
    assert max(sizes) <= parts.CPU.least
    assert len(sizes) > 1
    assert sum(sizes) == 1000
    assert [part.start for part in divided(toy(1000, 10_000))] == [sum(sizes[:i]) for i in range(len(sizes))]
    big = math.prod((3, 224, 224)) * 4
    assert parts.CPU.bytes // big * 8 * big < 1 << 30  # what an attack holds, some eight times its pictures


def test_a_part_on_disk_is_what_was_played(tmp_path: Path) -> None:
    columns = {
        "robust": torch.tensor([True, False]), "queries": torch.tensor([1, 2]),
        "distance": torch.tensor([0.1, math.nan]), At.of("l2_at", 500): torch.tensor([1.0, 2.0]).double(),
    }  # fmt: skip
    write_part(tmp_path / "p", Played(Record(columns, [], 3, 4), 1.5, 7))
    back = read_part(tmp_path / "p", 2)
    assert back is not None
    assert (back.seconds, back.peak, back.record.forwards, back.record.backwards) == (1.5, 7, 3, 4)
    assert list(back.record.columns) == list(columns)
    assert next(name for name in back.record.columns if isinstance(name, At)).at == 500
    for name, column in columns.items():
        assert back.record.columns[name].dtype == column.dtype
        assert torch.equal(back.record.columns[name].nan_to_num(), column.nan_to_num())
    assert read_part(tmp_path / "p", 3) is None
    assert read_part(tmp_path / "q", 2) is None


def test_a_part_without_an_attacked_picture_lacks_columns_and_is_blank_in_them() -> None:
    one = Record({"robust": torch.tensor([False])}, [], 1, 0)
    two = Record({"robust": torch.tensor([True]), "l2": torch.tensor([0.5]), "steps": torch.tensor([3])}, [], 1, 2)
    both = joined([one, two])
    assert both.columns["robust"].tolist() == [False, True]
    assert math.isnan(both.columns["l2"][0])
    assert both.columns["steps"].tolist() == [0, 3]
    assert (both.forwards, both.backwards) == (2, 2)


def test_a_part_that_fails_fails_its_cell_and_the_other_parts_stay(tmp_path: Path) -> None:
    STEPS[:] = [0] * 40
    cell = toy(4 * parts.CPU.least, 10_000)
    calls = []
    original = Runner.part

    def part(self: Runner, cell: Cell, which: range) -> Played:
        calls.append(which)
        if len(calls) == 2:
            raise ValueError("broken")
        return original(self, cell, which)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "part", part)
        assert execute([(cell, Decision())], Store(tmp_path)) == 1
    record = read_cell(tmp_path / "cells" / cell.run_id)
    assert (record.status, record.sentence) == ("failed", "broken")
    before = len(STEPS)
    assert execute([(cell, Decision())], Store(tmp_path)) == 1
    assert len(STEPS) == before + 3
    assert read_cell(tmp_path / "cells" / cell.run_id).status == "done"
