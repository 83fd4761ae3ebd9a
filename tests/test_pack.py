"""A packed run says what the loose one said: however packing is stopped, whoever writes meanwhile, whatever breaks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustsuite.engine import pack as packing
from robustsuite.engine.pack import pack
from robustsuite.engine.store import Store
from robustsuite.errors import BadData
from robustsuite.records.examples import PACKED, Examples
from robustsuite.records.folder import cells_of
from robustsuite.records.packed import CELLS, known
from robustsuite.records.schema import (
    Audit,
    Budget,
    CellRecord,
    DataFacts,
    FlagFacts,
    ModelFacts,
    ThreatFacts,
    Used,
    dumped,
)
from robustsuite.reports import write_report
from robustsuite.reports.read.runs import read
from robustsuite.scenarios import scenario_of

N = 30
EVASION = scenario_of("evasion")
COLUMNS = tuple(c for c in EVASION.columns if c.name in ("clean_ok", "robust", "in_budget", "fooled", "distance"))
MORE = (*COLUMNS, next(c for c in EVASION.columns if c.name == "queries"))
ATTACKS, DEFENSES = ("fgsm", "pgd", "square"), ("none", "jpeg")


def record(run_id: str, attack: str = "fgsm", defense: str = "none", status: str = "done") -> CellRecord:
    done = status == "done"
    return CellRecord(
        run_id=run_id, status=status, sentence="" if done else "it was so", scenario=EVASION.facts(), rows=N * done,
        threat=ThreatFacts(name="linf", access=("gradients",), budget=Budget(norm="linf", eps=8 / 255)),
        attack=Used(name=attack, needs=("gradients",)), defenses=() if defense == "none" else (Used(name=defense),),
        model=ModelFacts(name="m", sha256="x"), data=DataFacts(name="d", sha256="y", n=N, splits=("test",)),
        columns=(MORE if attack == "square" else COLUMNS) if done else (),
    )  # fmt: skip


def examples(attack: str, defense: str) -> dict[str, Any]:
    order = np.random.default_rng(3).permutation(N)
    clean = order > 2
    robust = clean & (order > 8 + 3 * ATTACKS.index(attack) - 5 * DEFENSES.index(defense))
    found = {
        "run_id": ["own"] * N, "index": order, "label": order % 10, "clean_ok": clean, "robust": robust,
        "in_budget": np.ones(N, bool), "fooled": clean & ~robust, "distance": np.where(robust, np.nan, 8 / 255),
    }  # fmt: skip
    return found | ({"queries": order + 5} if attack == "square" else {})


def written(folder: Path) -> Path:
    """A run of every kind of cell, loose, one of them audited."""
    kept = Store(folder)
    for defense in DEFENSES:
        for attack in ATTACKS:
            kept.write(record(f"{defense}-{attack}", attack, defense), examples(attack, defense))
    for status in ("failed", "refused"):
        kept.write(record(status, status, "none", status))
    kept.amend("none-pgd", dumped(Audit(run_id="none-pgd", flags=(FlagFacts(name="not_converged", level="warn"),))))
    names = sorted(f.name for f in (folder / "cells").iterdir())
    planned(folder, names)
    return folder


def planned(folder: Path, names: list[str]) -> None:
    sweep = {"name": "packed", "threats": {"linf": list(ATTACKS)}, "defenses": list(DEFENSES), "cells": names}
    Store(folder).describe(sweep)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def said(folder: Path) -> dict[str, Any]:
    """Everything a run says: each cell's record, audit and rows, or why it cannot be read."""
    held, found = Examples(folder, 0), {}
    for cell in cells_of(folder, held):
        assert cell.name not in found, "once"
        frame = held.frame(cell.name, cell.place) if cell.place else cell.frame
        rows = None if frame is None else frame.to_json()
        found[cell.name] = (cell.record, cell.audit, rows) if cell.record else cell.reason
    return found


def folders(folder: Path) -> set[str]:
    return {f.name for f in (folder / "cells").iterdir()}


def test_a_packed_run_says_the_same_and_takes_few_files(whole: Path, folder: Path, tmp_path: Path) -> None:
    assert pack(folder) == 8
    assert folders(folder) == set()
    files = {f.name.partition("-")[0] for f in (folder / PACKED).iterdir()}
    assert files == {CELLS, "examples", ".lock"}
    assert len(list((folder / PACKED).glob("examples-*"))) == 2, "one a set of columns"
    assert said(folder) == said(whole)
    reports = [write_report([run], tmp_path / run.parent.name) for run in (whole, folder)]
    for one, other in zip(*reports, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert pack(folder) == 0


def test_the_store_knows_packed_cells(folder: Path) -> None:
    before = {name: Store(folder).column(name, "robust") for name in folders(folder)}
    kept = Store(folder)
    assert kept.finished("none-pgd"), "and its answer does not outlive the pack"
    pack(folder)
    assert {name: kept.finished(name) for name in before} == {name: name != "failed" for name in before}
    assert {name: kept.column(name, "robust") for name in before} == before, "in the order in which it was played"
    assert {name for name in before if kept.audited(name)} == {"none-pgd"}
    kept.write(record("none-pgd", "pgd"), examples("pgd", "none"))
    assert folders(folder) == set(), "a finished cell stays where it is"
    assert not kept.finished("nobody")


def test_a_cell_of_its_own_wins_and_replaces_the_packed_one(folder: Path) -> None:
    pack(folder)
    kept = Store(folder)
    kept.write(record("failed", "fgsm", "jpeg"), examples("fgsm", "jpeg"))
    assert said(folder)["failed"][0].status == "done"
    again = said(folder)
    assert pack(folder) == 1
    assert (said(folder), folders(folder)) == (again, set())


def test_an_audit_of_a_packed_cell_stands_beside_it_until_the_next_pack(folder: Path) -> None:
    pack(folder)
    audit = Audit(run_id="jpeg-fgsm", flags=(FlagFacts(name="rough_landscape", level="warn"),), figures={"E17": 0.5})
    Store(folder).amend("jpeg-fgsm", dumped(audit))
    assert folders(folder) == {"jpeg-fgsm"}
    for _ in range(2):
        assert said(folder)["jpeg-fgsm"][1] == audit
        assert Store(folder).audited("jpeg-fgsm")
        pack(folder)
    assert folders(folder) == set()


def test_what_cannot_be_packed_stays(folder: Path) -> None:
    (folder / "cells" / "refused" / "run.json").write_text('{"run_id": "refu')
    old = {"run_id": "old", "status": "failed", "scenario": "evasion", "n": 3, "model": "m", "dataset": "d"}
    (folder / "cells" / "old").mkdir()
    (folder / "cells" / "old" / "run.json").write_text(json.dumps(old))
    holes = pa.table({**examples("fgsm", "none"), "extra": [None, *range(N - 1)]})
    pq.write_table(holes, folder / "cells" / "none-fgsm" / "examples.parquet")
    before = said(folder)
    assert pack(folder) == 6
    assert folders(folder) == {"refused", "old", "none-fgsm"}
    assert said(folder) == before


class Killed(BaseException):
    """The process is gone."""


def stopped(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Every step that touches the disk raises Killed from the `at`-th on, before or after it has done its work."""
    steps = count()

    def dying(work: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **given: Any) -> Any:
            now = next(steps)
            if now > at:
                raise Killed
            done = work(*args, **given)
            if now == at:
                raise Killed
            return done

        return step

    with monkeypatch.context() as patched:
        for module, name in ((os, "replace"), (os, "rename"), (shutil, "copyfile"), (os, "fsync"), (shutil, "rmtree"),
                             (os, "unlink"), (pq.ParquetWriter, "write_table"), (os, "rmdir")):  # fmt: skip
            patched.setattr(module, name, dying(getattr(module, name)))
        yield


@pytest.mark.parametrize("twice", [False, True], ids=["first pack", "second pack"])
def test_a_kill_at_any_step_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: bool
) -> None:
    start = tmp_path / "start"
    shutil.copytree(whole, start)
    if twice:
        pack(start)
        Store(start).write(record("failed", "fgsm", "jpeg"), examples("fgsm", "jpeg"))
        Store(start).write(record("new", "square", "jpeg"), examples("square", "jpeg"))
        Store(start).amend("jpeg-pgd", dumped(Audit(run_id="jpeg-pgd")))
    expected = said(start)
    for at in count():
        folder = tmp_path / f"at{at}"
        shutil.copytree(start, folder)
        try:
            for _ in stopped(monkeypatch, at):
                pack(folder)
            break
        except Killed:
            pass
        assert said(folder) == expected, at
        assert all(Store(folder).finished(name) for name in expected if name != "failed" or twice), at
        pack(folder)
        assert (said(folder), folders(folder)) == (expected, set()), at
        assert not list((folder / PACKED).glob(".writing-*")), at
        shutil.rmtree(folder)
    assert at > (15 if twice else 25), "the steps were counted"


def _written(folder: Path, own: int) -> None:
    kept = Store(folder)
    for i in range(40):
        name = f"own{own}-{i}"
        kept.write(record(name, "fgsm", "jpeg"), examples("fgsm", "jpeg"))
        if i % 2:
            kept.amend(name, dumped(Audit(run_id=name, figures={"E8": 1.0})))
        kept.write(record(f"all{i % 7}", "square", "none"), examples("square", "none"))
        assert kept.finished(name)
        assert kept.finished(f"all{i % 7}")


def _packed(folder: Path, _: int) -> int:
    return sum(pack(folder) for _ in range(40))


@pytest.mark.slow
def test_packers_and_writers_in_one_folder_lose_nothing(tmp_path: Path) -> None:
    Store(tmp_path)
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        jobs = [pool.submit(work, tmp_path, own) for own in range(2) for work in (_written, _packed)]
        moved = sum(job.result() or 0 for job in jobs)
    moved += pack(tmp_path)
    names = {f"own{own}-{i}" for own in range(2) for i in range(40)} | {f"all{i}" for i in range(7)}
    found = said(tmp_path)
    assert set(found) == names
    assert folders(tmp_path) == set()
    assert moved >= len(names)
    for name, (_, audit, rows) in found.items():
        assert rows is not None
        assert bool(audit) == (name.startswith("own") and int(name.partition("-")[2]) % 2 == 1), name


def zeros(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    file.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": zeros,
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir())[1],
    "another table": lambda file: pq.write_table(pa.table({"a": [1]}), file),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("which", [CELLS, "examples-*"])
def test_a_damaged_pack_is_told_computed_again_and_packed_again(name: str, which: str, folder: Path) -> None:
    expected = said(folder)
    kept = Store(folder)
    pack(folder)
    planned(folder, [*expected, "loose"])
    kept.write(record("loose", "fgsm"), examples("fgsm", "none"))
    (file, *_) = sorted((folder / PACKED).glob(which), key=lambda f: -f.stat().st_size)
    DAMAGE[name](file)
    found = read([folder])
    assert "loose" in said(folder), "what is loose is read"
    lost = {i for i in expected if not isinstance(said(folder).get(i), tuple)}
    assert lost
    assert found.absent + sum(line.split(":")[0] in expected for line in found.skipped) == len(lost)
    assert found.skipped or name == "gone"
    assert not any(Store(folder).finished(i) for i in lost)
    for i in lost:
        attack, defense = i.split("-")[::-1] if "-" in i else (i, "none")
        done = attack in ATTACKS
        again = record(i, attack, defense, "done" if done else i)
        Store(folder).write(again, examples(attack, defense) if done else None)
    whole = {i: one if i != "none-pgd" or i not in lost else (one[0], None, one[2]) for i, one in expected.items()}
    assert {i: said(folder).get(i) for i in expected} == whole
    pack(folder)
    assert {i: said(folder).get(i) for i in expected} == whole
    assert folders(folder) == set()


def test_what_a_pack_lost_is_told_until_somebody_deletes_it(folder: Path) -> None:
    pack(folder)
    zeros(max((folder / PACKED).glob("examples-*"), key=lambda f: f.stat().st_size))
    Store(folder).write(record("loose", "fgsm"), examples("fgsm", "none"))
    pack(folder)
    (damaged, *_) = (line for line in read([folder]).skipped if "damaged-" in line)
    assert "run the sweep again" in damaged


def test_any_byte_of_a_pack_may_be_wrong(folder: Path, tmp_path: Path) -> None:
    expected = said(folder)
    pack(folder)
    draw = random.Random(0)
    for file in (folder / PACKED).glob("*.parquet"):
        data = file.read_bytes()
        for _ in range(60):
            at = draw.randrange(len(data))
            file.write_bytes(data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :])
            for name, one in said(folder).items():
                assert isinstance(one, str) or one == expected[name], (file.name, at)
            known(folder)
        file.write_bytes(data)


def changed(folder: Path, **columns: Callable[[list[Any]], list[Any]]) -> None:
    table = pq.read_table(folder / PACKED / CELLS)
    rows = table.to_pydict()
    for name, change in columns.items():
        rows[name] = change(rows[name])
    pq.write_table(pa.table(rows, schema=table.schema), folder / PACKED / CELLS)


@pytest.mark.parametrize(
    "column",
    [
        {"status": lambda v: ['"splendid"'] * len(v)}, {"threat": lambda v: ["{"] * len(v)},
        {"cost": lambda v: ['{"seconds": NaN}'] * len(v)}, {"cost": lambda v: ['{"seconds": -1}'] * len(v)},
        {"version": lambda v: ["3"] * len(v)}, {"rows": lambda v: ["7"] * len(v)},
        {"run_id": lambda v: [v[0]] * len(v)}, {"run_id": lambda v: [None, *v[1:]]},
        {"run_id": lambda v: ["", *v[1:]]}, {"seed": lambda v: [None] * len(v)},
        {"file": lambda v: ["../../cells"] * len(v)}, {"file": lambda v: ["/etc/passwd"] * len(v)},
        {"file": lambda v: [None] * len(v)}, {"row_group": lambda v: [99] * len(v)},
        {"row_group": lambda v: [-1] * len(v)}, {"audit": lambda v: ["{}"] * len(v)},
        {"audit": lambda v: ['{"run_id": "another"}'] * len(v)}, {"columns": lambda v: ["[" * 10_000] * len(v)},
        {"made": lambda v: ["[]"] * len(v)}, {"model": lambda v: ["null"] * len(v)},
    ],
)  # fmt: skip
def test_a_pack_is_held_against_the_schema(column: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    pack(folder)
    whole = set(known(folder))
    changed(folder, **column)
    assert set(known(folder)) != whole
    said(folder)
    with contextlib.suppress(BadData):
        write_report([folder], tmp_path / "report", ["csv"])


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    assert pack(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_locked_nothing_is_packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(packing.fcntl, "flock", none)
    assert pack(folder) == 0
    assert len(folders(folder)) == 8
