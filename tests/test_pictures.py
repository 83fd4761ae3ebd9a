"""Kept pictures come back to the last bit, the same ones however a cell is divided, and say what their rows say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import robustsuite as rs
from robustsuite.app.api import run
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine import parts
from robustsuite.engine.execute import execute
from robustsuite.engine.parts import Bounds
from robustsuite.engine.plan import Decision
from robustsuite.engine.store import Store
from robustsuite.errors import BadData, BadValue, UsageError
from robustsuite.records.cells import read_whole
from robustsuite.records.pictures import Kept, both, digest_of, read_pictures, write_pictures
from robustsuite.reports.publish.export import export
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.kept import MOST
from robustsuite.serve.data import Subjects
from tests.test_parts import counted
from tests.toys import labelled, lifecycle, linear

SWEEP: dict[str, Any] = {
    "name": "kept", "models": ["python:tests.nets:linear"], "data": ["digits"],
    "threats": {"linf": {"scenario": "evasion", "budget": {"linf": "32/255"}, "attacks": ["fgsm"]}},
}  # fmt: skip


def kept(values: list[float], shape: tuple[int, int, int] = (1, 1, 2)) -> Kept:
    """Pictures of these values, half of them clean and half attacked."""
    half = np.array(values, dtype=np.float32).reshape(2, -1, *shape)
    return Kept(np.arange(len(half[0]), dtype=np.int64) * 7, half[0], half[1])


def same(a: Kept | None, b: Kept | None) -> bool:
    """Whether two are the same to the last bit."""
    return a is not None and b is not None and all(
        mine.dtype == other.dtype and mine.tobytes() == other.tobytes() and mine.shape == other.shape
        for mine, other in zip(a, b, strict=True)
    )  # fmt: skip


UNIT = st.floats(0, 1, width=32)


@given(st.lists(st.one_of(UNIT, st.sampled_from([1e-30, 0.5, 1.0, float(np.float32(1 / 255))])), min_size=4,
                max_size=40).map(lambda values: values[: len(values) // 4 * 4]))  # fmt: skip
def test_what_is_written_is_read_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    file, pictures = tmp_path_factory.mktemp("kept") / "a.parquet", kept(values)
    n, sha256 = write_pictures(file, [pictures])
    assert same(both(read_pictures(file)), pictures)
    assert digest_of(read_pictures(file)) == (n, sha256) == digest_of([pictures])


def test_a_sum_that_float32_cannot_say_is_kept_all_the_same(tmp_path: Path) -> None:
    clean, far = np.float32(0.5), np.float32(1e-9)
    assert clean + (far - clean) != far
    pictures = kept([clean, clean, far, 0.25])
    write_pictures(tmp_path / "a.parquet", [pictures])
    assert same(both(read_pictures(tmp_path / "a.parquet")), pictures)


def test_none_make_no_file(tmp_path: Path) -> None:
    assert write_pictures(tmp_path / "a.parquet", []) == (0, "")
    assert not (tmp_path / "a.parquet").exists()


def test_several_groups_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustsuite.records.pictures.GROUP_VALUES", 4)
    pictures = kept(list(np.linspace(0, 1, 24)))
    n, sha256 = write_pictures(tmp_path / "a.parquet", [pictures])
    found = list(read_pictures(tmp_path / "a.parquet"))
    assert len(found) == 3
    assert same(both(found), pictures)
    assert digest_of([pictures]) == (n, sha256)


@pytest.mark.parametrize("damage", ["cut", "noise", "text", "other"])
def test_what_is_no_file_of_pictures_is_a_sentence(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a.parquet"
    write_pictures(file, [kept(list(np.linspace(0, 1, 64)), (1, 4, 4))])
    whole = file.read_bytes()
    noise = bytes(b ^ 0x55 for b in whole[40:100])
    file.write_bytes({
        "cut": whole[:-9], "noise": whole[:40] + noise + whole[100:],
        "text": b"no parquet", "other": (Path(__file__)).read_bytes(),
    }[damage])  # fmt: skip
    with pytest.raises(BadData, match=r"a\.parquet is damaged"):
        list(read_pictures(file))
    with pytest.raises(BadData, match="missing"):
        list(read_pictures(tmp_path / "b.parquet"))


def toy(keep: str, n: int = 96) -> Cell:
    net = linear()
    split = labelled(net, n, wrong=0)
    threat = Threat("t", "evasion", Access.WHITE_BOX, budget=Linf(0.3), keep=keep)
    return Cell("toy", lifecycle(net, split), Subjects(split), threat, counted.card, (("far", 10_000),))


def played(cell: Cell, folder: Path) -> Store:
    execute([(cell, Decision())], Store(folder))
    return Store(folder)


@pytest.mark.parametrize("keep", ["broken", "all", "none"])
def test_the_same_pictures_however_a_cell_is_divided(
    keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_parts.STEPS", [0] * 40)
    found, records = [], []
    for name, bounds in (("whole", Bounds(1 << 40, 1 << 60, 1)), ("parts", Bounds(1 << 40, 1, 16))):
        monkeypatch.setattr(parts, "CPU", bounds)
        cell = toy(keep)
        store = played(cell, tmp_path / name)
        file = store.pictures(cell.run_id)
        found.append(both(read_pictures(file)) if file.exists() else None)
        records.append(read_whole(store.cells / cell.run_id))
        assert list(tmp_path.glob("*/.writing*")) == []
    (record, rows, _), (other, _, _) = records
    assert (record.pictures, record.pictures_sha256) == (other.pictures, other.pictures_sha256)
    assert rows is not None
    if keep == "none":
        assert found == [None, None]
        assert record.pictures == 0
        return
    assert same(*found)
    broken = rows["clean_ok"] & rows["fooled"] & rows["in_budget"]
    assert broken.sum() > MOST
    ids = set(found[0].ids) if found[0] else set()
    assert ids < set(rows["index"][broken]) if keep == "broken" else ids == set(rows["index"][rows["clean_ok"]])
    assert record.pictures == len(ids) == (MOST if keep == "broken" else rows["clean_ok"].sum())
    picked = rows.set_index("index").loc[found[0].ids]
    for name, x in (("prediction", found[0].clean), ("answer", found[0].adversarial)):
        with torch.no_grad():
            answers = linear()(torch.from_numpy(x)).argmax(1).numpy()
        assert (picked[name].to_numpy() == answers).all()


def test_a_part_whose_pictures_are_damaged_is_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [0] * 36  # counted: killed when it would be the fortieth
    monkeypatch.setattr("tests.test_parts.STEPS", steps)
    monkeypatch.setattr(parts, "CPU", Bounds(1 << 40, 1, 16))
    cell = toy("all")
    with pytest.raises(KeyboardInterrupt):
        played(cell, tmp_path)
    shown = sorted((tmp_path / "parts" / cell.run_id).glob("*.pictures"))
    assert len(shown) == 3
    shown[0].write_bytes(b"damaged")
    store = played(cell, tmp_path)
    assert len(steps) == 36 + 6 + 1 + 1  # the one that was lost and the one that was damaged
    assert store.halfway() == {}
    assert digest_of(read_pictures(store.pictures(cell.run_id)))[0] == 96


def test_yaml_says_what_is_kept(tmp_path: Path) -> None:
    done = run(SWEEP, out=tmp_path / "a", first=40)
    assert len(done.scores)
    run_id = next(f.stem for f in (tmp_path / "a/pictures").iterdir())
    pictures = done.images(run_id[:6])
    assert 0 < len(pictures.ids) <= MOST
    assert np.abs(pictures.adversarial - pictures.clean).max() <= 32 / 255 + 1e-6
    nothing = {**SWEEP, "threats": {"linf": {**SWEEP["threats"]["linf"], "keep": "none"}}}
    other = run(nothing, out=tmp_path / "b", first=40)
    assert not (tmp_path / "b/pictures").exists()
    assert {f.name for f in (tmp_path / "a/cells").iterdir()} == {f.name for f in (tmp_path / "b/cells").iterdir()}
    with pytest.raises(BadValue, match="of which no picture is kept"):
        other.images(run_id)
    with pytest.raises(BadValue, match="0 cells"):
        done.images("nowhere")
    with pytest.raises(UsageError, match=r"expected 'broken', 'all' or 'none' for threats\.linf\.keep"):
        run({**SWEEP, "threats": {"linf": {**SWEEP["threats"]["linf"], "keep": "some"}}}, out=tmp_path / "c")
    for formats, files in (("png", 3 * len(pictures.ids)), ("npz", 1)):
        written = export(tmp_path / "a", tmp_path / formats, formats)
        assert len(written) == files + 1
        table = written[0].read_text().splitlines()
        assert table[0].startswith("cell,threat,attack,defense,model,dataset,example,label,prediction,answer,distance")
        assert len(table) == 1 + len(pictures.ids)
    arrays = np.load(tmp_path / "npz" / f"{run_id}.npz")
    assert same(Kept(arrays["ids"], arrays["clean"], arrays["adversarial"]), pictures)
    with pytest.raises(BadData, match="expected kept pictures"):
        export(tmp_path / "b", tmp_path / "none")
    assert rs.Run(tmp_path / "a").images(run_id).ids.tolist() == pictures.ids.tolist()
