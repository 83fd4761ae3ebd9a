"""Cells on disk: whole or not at all, and disk errors in one sentence."""

import errno
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from robustsuite.engine import store
from robustsuite.engine.store import Store
from robustsuite.errors import BadOutput
from robustsuite.records import leases
from robustsuite.records.cells import read_cell
from robustsuite.records.schema import CellRecord, Column, Cost, DataFacts, ModelFacts, ScenarioFacts, dumped
from robustsuite.records.seal import sealed

ROW = CellRecord(
    run_id="abc", status="done", scenario=ScenarioFacts(name="evasion"), model=ModelFacts(name="m"),
    data=DataFacts(name="d", n=0), rows=3, columns=(Column(name="robust"),), cost=Cost(seconds=1.5),
)  # fmt: skip
EXAMPLES = {"index": np.arange(3), "robust": np.array([True, False, True])}


def test_a_cell_reads_back(tmp_path: Path) -> None:
    kept = Store(tmp_path / "run")
    kept.write(ROW, EXAMPLES)
    written = sealed(ROW, EXAMPLES)
    assert json.loads((tmp_path / "run/cells/abc/run.json").read_text()) == dumped(written)
    assert read_cell(tmp_path / "run/cells/abc") == written
    assert pq.read_table(tmp_path / "run/cells/abc/examples.parquet").to_pydict()["robust"] == [True, False, True]
    assert kept.finished("abc")
    assert not kept.finished("abd")


@pytest.mark.parametrize(("status", "again"), [("done", False), ("refused", False), ("failed", True)])
def test_failed_cells_are_tried_again(tmp_path: Path, status: str, again: bool) -> None:
    kept = Store(tmp_path)
    kept.write(ROW.model_copy(update={"status": status}), EXAMPLES)
    assert kept.finished("abc") is not again


def test_a_half_written_cell_is_not_there_and_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store(tmp_path)
    monkeypatch.setattr(store.pq, "write_table", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kept.write(ROW, EXAMPLES)
    assert not kept.finished("abc")
    (half,) = (tmp_path / "cells").iterdir()
    Store(tmp_path)
    assert half.is_dir(), "somebody may still be writing it"
    foreign = half.rename(half.with_name(half.name.replace(f"-{leases.mark()}-", "-elsewhere.1.2-")))
    Store(tmp_path)
    assert foreign.is_dir(), "somebody on another machine may still be writing it"
    os.utime(foreign, (0, 0))
    Store(tmp_path)
    assert not list((tmp_path / "cells").iterdir())
    dead = leases.mark().replace(f".{os.getpid()}.", ".999999999.")
    (tmp_path / "cells" / f".writing-{dead}-x-abc").mkdir()
    Store(tmp_path).tidy()
    assert not list((tmp_path / "cells").iterdir())


def test_a_cell_is_replaced_whole(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    kept.write(ROW.model_copy(update={"status": "failed"}))
    kept.write(ROW, EXAMPLES)
    assert kept.finished("abc")
    assert sorted(p.name for p in (tmp_path / "cells/abc").iterdir()) == ["examples.parquet", "run.json"]


def test_full_disk_and_unwritable_folder_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store(tmp_path)
    kept.write(ROW, EXAMPLES)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store.pq, "write_table", full)
        with pytest.raises(BadOutput, match="finished cells are kept"):
            kept.write(ROW.model_copy(update={"run_id": "next"}), EXAMPLES)
    assert kept.finished("abc")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match="--out"):
        Store(tmp_path / "file" / "run")


def test_numbers_that_are_none_are_not_written_as_zero(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        kept.write(ROW.model_copy(update={"cost": Cost.model_construct(seconds=float("nan"))}))
    assert os.listdir(tmp_path / "cells") != ["abc"]


def _writer(folder: Path, own: int) -> None:
    """Open the store and write cells of its own and those of everybody, again and again."""
    for i in range(25):
        kept = Store(folder)
        kept.describe({"name": "shared"})
        kept.keep("finding", {"from": i % 3})
        for name in (f"own{own}-{i}", f"all{i % 5}"):
            kept.write(ROW.model_copy(update={"run_id": name}), EXAMPLES)
            kept.amend(name, {"run_id": name}) if own == 0 and name.startswith("own") else None
            assert kept.finished(name)


def test_several_runs_write_into_one_folder(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        for done in [pool.submit(_writer, tmp_path, own) for own in range(4)]:
            done.result()
    names = {f"own{own}-{i}" for own in range(4) for i in range(25)} | {f"all{i}" for i in range(5)}
    assert {f.name for f in (tmp_path / "cells").iterdir()} == names, "nothing lost, nothing left over"
    for name in names:
        cell = tmp_path / "cells" / name
        assert read_cell(cell).rows == len(pq.read_table(cell / "examples.parquet"))
