"""What was changed in a run is found and named; what was only copied, packed, merged or run again is not."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from robustsuite.app.api import run
from robustsuite.app.cli import app
from robustsuite.app.rejudged import by_models, by_sweep
from robustsuite.engine.merge import merge
from robustsuite.engine.pack import pack
from robustsuite.engine.store import Store
from robustsuite.errors import BadValue
from robustsuite.records.cells import read_whole
from robustsuite.records.pictures import both, digest_of, read_pictures, write_pictures
from robustsuite.records.schema import CellRecord, dumped
from robustsuite.records.seal import digest_of_cell, root_of, sealed
from robustsuite.reports import write_report
from robustsuite.reports.publish.stale import stale
from robustsuite.reports.read.verified import verify

SWEEP: dict[str, Any] = {
    "name": "sealed", "models": ["python:tests.nets:linear"], "data": ["digits"],
    "defenses": ["none", {"randomized_smoothing": {"sigma": 0.1, "n": 4, "alpha": 0.2}}],
    "threats": {
        "linf": {"scenario": "evasion", "budget": {"linf": "24/255"}, "keep": "all",
                 "attacks": ["fgsm", {"pgd": {"steps": 3}}]},
        "proof": {"scenario": "certification", "budget": {"l2": 0.1}, "attacks": [{"smoothing": {"n": 64, "n0": 10}}]},
    },
}  # fmt: skip
MODEL = "python:tests.nets:linear"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "run"
    run(SWEEP, out=folder, first=32).report()
    return folder


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Path:
    """The run as somebody else gets it: at another path."""
    return Path(shutil.copytree(honest, tmp_path / "elsewhere" / "copy"))


def cell_of(folder: Path, attack: str, defense: str = "none") -> str:
    """The run id of this attack on this defense."""
    records = [read_whole(f)[0] for f in sorted((folder / "cells").iterdir())]
    return next(r.run_id for r in records if r.attack and r.attack.name == attack and r.defense_words() == defense)


def edited(folder: Path, run_id: str, change: Callable[[pd.DataFrame], pd.DataFrame], **facts: Any) -> None:
    """Rows and record of a cell changed by hand; seal=True: and given a digest that fits."""
    anew = facts.pop("seal", False)
    cell = folder / "cells" / run_id
    table = pq.read_table(cell / "examples.parquet")
    rows = change(table.to_pandas())
    pq.write_table(
        pa.Table.from_pandas(rows, schema=pa.schema([table.schema.field(n) for n in rows]), preserve_index=False),
        cell / "examples.parquet",
    )
    record = json.loads((cell / "run.json").read_text()) | {"rows": len(rows)} | facts
    if anew:
        columns = {name: rows[name].to_numpy() for name in rows.columns if name != "run_id"}
        record = dumped(sealed(CellRecord.model_validate_json(json.dumps(record)), columns))
    (cell / "run.json").write_text(json.dumps(record))


def whole(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def flipped(rows: pd.DataFrame) -> pd.DataFrame:
    """The verdict of the first broken image turned round."""
    first = rows.index[rows["clean_ok"] & ~rows["robust"]][0]
    rows.loc[first, "robust"] = True
    return rows


def test_an_honest_copy_passes(copy: Path) -> None:
    seen = verify(copy)
    assert seen.found == list(stale(copy)) == []
    assert seen.cells == 8
    assert seen.pictures > 32
    assert verify(copy, seen.root).found == []
    done = by_models(copy, [MODEL], "cpu")
    assert done.found == []
    assert done.pictures > 32
    assert any("behind randomized_smoothing" in line for line in done.left_out)


def test_the_sweep_judges_every_system_again(honest: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(SWEEP))
    done = by_sweep(honest, file, "cpu", 32)
    assert done.found == []
    refused = cell_of(honest, "smoothing")
    assert [line for line in done.left_out if "is not played again" not in line] == [
        f"{refused}: it has no rows, and the sweep would run it"]  # fmt: skip
    assert done.pictures == verify(honest).pictures
    with pytest.raises(BadValue, match="plans none of its cells"):
        by_sweep(honest, file, "cpu", 31)


def told(folder: Path) -> str:
    """What a person reads of cells and seals."""
    return "\n".join(f"{where}: {what}" for where, what in verify(folder).found)


def rewritten(folder: Path) -> str:
    """What a person reads of the run's report."""
    return "\n".join(f"{where}: {what}" for where, what in stale(folder))


def test_a_flipped_verdict(copy: Path) -> None:
    cell = cell_of(copy, "fgsm")
    edited(copy, cell, flipped)
    assert f"{cell} (linf: fgsm): its record or its rows were changed" in told(copy)
    assert "the verdict is not what the other columns lead to: example" in told(copy)
    edited(copy, cell, whole, seal=True)
    assert "is another one than was sealed" in told(copy)
    assert "the verdict is not what the other columns lead to" in told(copy)
    assert "report/scores.csv: not what the rows lead to" in rewritten(copy)


def test_verdicts_that_are_flipped_with_all_that_bears_on_them_fall_to_the_model(copy: Path) -> None:
    def turned(rows: pd.DataFrame) -> pd.DataFrame:
        fell = rows["clean_ok"] & ~rows["robust"]
        rows.loc[fell, "robust"], rows.loc[fell, "fooled"] = True, False
        rows.loc[fell, "answer"] = rows.loc[fell, "label"]
        return rows

    root, cell = verify(copy).root, cell_of(copy, "pgd")
    edited(copy, cell, turned, seal=True)
    Store(copy).seal()
    shutil.rmtree(copy / "report")
    assert verify(copy).found == []  # who can write everything anew leaves nothing to find but the root
    assert "expected the root" in verify(copy, root).found[0].what
    found = by_models(copy, [MODEL], "cpu").found
    assert [one.where for one in found] == [cell]
    assert "kept pictures that the model answers otherwise now: examples" in found[0].what


def test_a_changed_label(copy: Path) -> None:
    def relabelled(rows: pd.DataFrame) -> pd.DataFrame:
        first = rows.index[rows["clean_ok"]][0]
        rows.loc[first, "label"] += 1
        changed.append(rows.loc[first, "index"])
        return rows

    changed: list[int] = []
    edited(copy, cell_of(copy, "fgsm"), relabelled, seal=True)
    assert f"answered with another class than the label: example {changed[0]}" in told(copy)
    assert f"another label than other cells have: example {changed[0]}" in told(copy)


def test_deleted_rows(copy: Path) -> None:
    cell = cell_of(copy, "pgd")
    edited(copy, cell, lambda rows: rows[rows["robust"]], seal=True)
    assert f"{cell} (linf: pgd(steps=3)): " in told(copy)
    assert "rows of 32 examples: rows were taken away" in told(copy)


def test_a_removed_cell(copy: Path) -> None:
    cell = cell_of(copy, "pgd")
    shutil.rmtree(copy / "cells" / cell)
    assert f"{cell} (linf: pgd(steps=3)): sealed, and not there any more" in told(copy)
    assert f"pictures/{cell}.parquet: pictures of a cell that is not there" in told(copy)


def test_a_removed_cell_that_nothing_lists_any_more(copy: Path) -> None:
    cell, root = cell_of(copy, "pgd"), verify(copy).root
    shutil.rmtree(copy / "cells" / cell)
    (copy / "pictures" / f"{cell}.parquet").unlink()
    swept = json.loads((copy / "sweep.json").read_text())
    swept["cells"].remove(cell)
    (copy / "sweep.json").write_text(json.dumps(swept))
    assert "sweep.json: changed since the run was sealed" in told(copy)
    seal = json.loads((copy / "seal.json").read_text())
    del seal["cells"][cell]
    (copy / "seal.json").write_text(json.dumps(seal))
    assert "seal.json: its root is not that of what it lists" in told(copy)
    Store(copy).seal()
    assert verify(copy, root).found[0].what.startswith(f"expected the root {root}")


def test_a_cell_from_another_run(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run({**SWEEP, "models": ["python:tests.nets:another"], "defenses": ["none"]}, out=other, first=32)
    foreign, mine = cell_of(other, "pgd"), cell_of(copy, "pgd")
    shutil.copytree(other / "cells" / foreign, copy / "cells" / foreign)
    assert f"{foreign}: is not in the seal: computed since, or of another run" in told(copy)
    shutil.rmtree(copy / "cells" / foreign)
    theirs = pq.read_table(other / "cells" / foreign / "examples.parquet").to_pandas()
    edited(copy, mine, lambda rows: theirs.assign(run_id=mine))
    assert f"{mine} (linf: pgd(steps=3)): its record or its rows were changed" in told(copy)


def test_an_attack_that_is_renamed_to_more_steps(copy: Path) -> None:
    cell = cell_of(copy, "pgd")
    record = json.loads((copy / "cells" / cell / "run.json").read_text())
    record["attack"]["given"]["steps"] = 1000
    edited(copy, cell, whole, attack=record["attack"], seal=True)
    assert f"{cell} (linf: pgd(steps=3)): pgd was given steps=1000, and ran with 3" in told(copy)
    record["attack"]["parameters"]["steps"] = 1000
    edited(copy, cell, whole, attack=record["attack"])
    assert "its record or its rows were changed" in told(copy)


def test_a_name_that_tables_show_for_an_attack(copy: Path) -> None:
    swept = json.loads((copy / "sweep.json").read_text())
    swept["names"] = {"attack": {"pgd(steps=3)": "PGD-1000"}}
    (copy / "sweep.json").write_text(json.dumps(swept))
    assert "sweep.json: changed since the run was sealed: what was swept, or what tables call it" in told(copy)


def test_a_picture_that_was_saved_anew_in_eight_bits(copy: Path) -> None:
    cell = cell_of(copy, "fgsm")
    file = copy / "pictures" / f"{cell}.parquet"
    kept = both(read_pictures(file))
    assert kept is not None
    lossy = kept._replace(adversarial=np.rint(kept.adversarial * 255).astype(np.float32) / 255 * np.float32(0.98))
    file.unlink()
    n, digest = write_pictures(file, [lossy])
    assert "pictures are not the" in told(copy)
    record = read_whole(copy / "cells" / cell)[0]
    edited(copy, cell, whole, pictures=n, pictures_sha256=digest, seal=True)
    assert "pictures at another distance than their rows say: examples" in told(copy)
    assert record.pictures == n
    file.write_bytes(file.read_bytes()[:-5])
    assert f"pictures/{cell}.parquet is damaged" in told(copy)
    file.unlink()
    assert f"pictures/{cell}.parquet is missing" in told(copy)


def test_lossless_compression_is_no_change(copy: Path) -> None:
    file = copy / "pictures" / f"{cell_of(copy, 'fgsm')}.parquet"
    table = pq.read_table(file)
    pq.write_table(table, file, compression="gzip", write_page_checksum=True)
    assert verify(copy).found == []


def test_other_weights(copy: Path) -> None:
    done = by_models(copy, ["python:tests.nets:another"], "cpu")
    assert [one.where for one in done.found] == ["python:tests.nets:another"]
    assert "are those of no cell" in done.found[0].what
    assert done.pictures == 0


def test_other_weights_under_the_sweep(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(SWEEP))
    copy = Path(shutil.copytree(honest, tmp_path / "copy"))
    cell = cell_of(copy, "fgsm")
    edited(copy, cell, whole, weights_sha256="0" * 64, seal=True)
    found = [one for one in by_sweep(copy, file, "cpu", 32).found if one.where == cell]
    assert ["other weights now" in one.what for one in found] == [True]


def test_what_an_attack_may_not_be_said_to_have_done(copy: Path) -> None:
    """Each leaves the other columns as they are, and is given a digest that fits."""

    def elsewhere(rows: pd.DataFrame) -> pd.DataFrame:
        fell = rows["clean_ok"] & ~rows["robust"]
        return rows.assign(in_budget=rows["in_budget"] & ~fell, robust=rows["robust"] | fell)

    edited(copy, cell_of(copy, "pgd"), elsewhere, seal=True)
    assert "fooled within the distance that the budget reaches, and not inside it: examples" in told(copy)
    assert "pictures inside the budget, and their rows say otherwise: examples" in told(copy)
    edited(copy, cell_of(copy, "fgsm"), lambda rows: rows.assign(rejected=True), seal=True)
    assert "rejected, and answered: examples" in told(copy)


def test_a_clean_number_made_up(copy: Path) -> None:
    clean = next(r.run_id for r in (read_whole(f)[0] for f in sorted((copy / "cells").iterdir()))
                 if not r.attack and r.defense_words() == "none")  # fmt: skip
    edited(copy, clean, lambda rows: rows.assign(robust=True, prediction=rows["label"]), seal=True)
    assert "answered unattacked with another class than in other cells: examples" in told(copy)


def test_what_the_sweep_did_not_ask_for(copy: Path, tmp_path: Path) -> None:
    cell = cell_of(copy, "pgd")
    record = json.loads((copy / "cells" / cell / "run.json").read_text())
    attack = {**record["attack"], "given": {"steps": 50}, "parameters": {**record["attack"]["parameters"], "steps": 50}}
    edited(copy, cell, whole, attack=attack, seal=True)
    assert "an attack that the sweep did not ask for: linf: pgd(steps=50)" in told(copy)
    threat = {**record["threat"], "budget": {**record["threat"]["budget"], "eps": 48 / 255}}
    edited(copy, cell, whole, attack=record["attack"], threat=threat, seal=True)
    assert "a budget that the sweep did not ask for: linf(eps=48/255), where it says linf: 24/255" in told(copy)
    edited(copy, cell, whole, threat=record["threat"], model={**record["model"], "name": "other"}, seal=True)
    assert "a model that the sweep did not ask for: other" in told(copy)
    attack = {**record["attack"], "parameters": {**record["attack"]["parameters"], "restarts": 9}}
    edited(copy, cell, whole, attack=attack, model=record["model"], seal=True)
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(SWEEP))
    assert (cell, "its record's attack is not what the sweep asks for") in by_sweep(copy, file, "cpu", 32).found


@pytest.mark.parametrize("change", [
    {"scenario": {"name": "certification"}}, {"scenario": {"name": "poisoning"}},
    {"columns": [{"name": "robust"}, {"name": "clean_ok"}]},
])  # fmt: skip
def test_a_record_of_other_columns_is_a_finding_and_no_traceback(copy: Path, change: dict[str, Any]) -> None:
    cell = cell_of(copy, "fgsm")
    keep = [column["name"] for column in change.get("columns", [])]
    edited(copy, cell, lambda rows: rows[["run_id", "index", "label", *keep]] if keep else rows, **change)
    done = CliRunner().invoke(app, ["verify", str(copy)])
    assert done.exit_code == 1
    assert cell in done.output
    assert "its columns are not those of" in " ".join(done.output.split())


def test_a_file_that_never_ends_is_none(copy: Path) -> None:
    file = copy / "cells" / cell_of(copy, "fgsm") / "examples.parquet"
    file.unlink()
    os.mkfifo(file)
    assert "examples.parquet is no file" in told(copy)
    file.unlink()
    rows = pa.array(np.zeros((1 << 28) + 1, dtype=bool))
    pq.write_table(pa.table({"robust": rows}), file, compression="zstd")
    assert "more than any cell" in told(copy)


def test_an_audit_without_a_digest_and_a_finding_of_another_hand(copy: Path) -> None:
    cell = cell_of(copy, "fgsm")
    flag = {"name": "masked_gradients", "level": "fail", "check": "E1"}
    (copy / "cells" / cell / "audit.json").write_text(json.dumps({"run_id": cell, "flags": [flag]}))
    assert f"{cell} (linf: fgsm): its audit has no digest" in told(copy)
    (copy / "cells" / cell / "audit.json").write_text(json.dumps({"run_id": cell, "flags": [flag], "digest": "0" * 64}))
    assert f"{cell} (linf: fgsm): its audit was changed after it was made" in told(copy)
    Store(copy).keep("chart", {"name": "chart", "finding": {}})
    (kept,) = (copy / "artefacts").iterdir()
    assert f"artefacts/{kept.name}: not the one that was sealed" in told(copy)
    kept.write_text(json.dumps({"name": "chart", "finding": {"good": 1}}))
    assert f"artefacts/{kept.name}: changed after it was kept" in told(copy)


def test_cells_of_an_earlier_plan_are_known_and_no_finding(copy: Path) -> None:
    run(SWEEP, out=copy, first=8).report()
    seen = verify(copy)
    assert seen.found == list(stale(copy)) == []
    assert {what for _, what in seen.notes} == {"of an earlier plan in this folder; reports leave it out"}
    edited(copy, cell_of(copy, "fgsm"), flipped)
    assert "its record or its rows were changed" in told(copy)


def test_a_merge_of_what_is_not_as_it_was_sealed_has_no_seal(copy: Path, tmp_path: Path) -> None:
    cell = cell_of(copy, "pgd")
    shutil.rmtree(copy / "cells" / cell)
    swept = json.loads((copy / "sweep.json").read_text())
    swept["cells"].remove(cell)
    (copy / "sweep.json").write_text(json.dumps(swept))
    _, skipped = merge([copy], tmp_path / "merged")
    assert skipped == [f"{copy}: another sweep.json, so what is merged has no seal"]
    assert "seal.json: missing" in told(tmp_path / "merged")


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.tex", "integrity.json", "costs.md"])
def test_an_edited_text_of_the_report(copy: Path, name: str) -> None:
    file = copy / "report" / name
    text = file.read_text()
    file.write_text(text.replace("fgsm", "fgsn"))
    assert f"report/{name}: not what the rows lead to" in rewritten(copy) or name == "costs.md"
    file.write_text(text.replace("\n", "\r\n"))
    assert rewritten(copy) == "", "line ends are nobody's edit"


def test_a_page_that_was_written_alone_is_the_page(copy: Path) -> None:
    write_report([copy], copy / "report", ["html"])
    assert rewritten(copy) == ""


def test_a_root_that_is_none_is_a_sentence(copy: Path) -> None:
    for root in ("", "ab", "x" * 64):
        with pytest.raises(BadValue, match="expected a root of 64 hex digits"):
            verify(copy, root)
    assert verify(copy, verify(copy).root.upper()).found == []


def test_an_edited_table_of_the_report(copy: Path) -> None:
    file = copy / "report" / "worst_case.csv"
    file.write_text(file.read_text().replace("0.", "0.9", 1))
    assert "report/worst_case.csv: not what the rows lead to, from line 2 on" in rewritten(copy)


def test_packed_merged_and_run_again_it_is_the_same(copy: Path, honest: Path, tmp_path: Path) -> None:
    before = json.loads((copy / "seal.json").read_text())
    assert pack(copy) == 8
    assert verify(copy).found == []
    run(SWEEP, out=copy, first=32)
    assert json.loads((copy / "seal.json").read_text()) == before
    for i, runs in enumerate(([honest], [copy])):
        merge(runs, tmp_path / f"merged-{i}")
        assert verify(tmp_path / f"merged-{i}").found == []
        assert json.loads((tmp_path / f"merged-{i}" / "seal.json").read_text())["cells"] == before["cells"]


def test_the_same_sweep_run_once_more_has_the_same_root(honest: Path, tmp_path: Path) -> None:
    run(SWEEP, out=tmp_path / "again", first=32)
    assert verify(tmp_path / "again").root == verify(honest).root
    other = {**SWEEP, "seeds": [1]}
    run(other, out=tmp_path / "other", first=32)
    assert verify(tmp_path / "other").root != verify(honest).root


def test_an_edit_is_not_blessed_by_the_run_that_comes_next(copy: Path, tmp_path: Path) -> None:
    cell = cell_of(copy, "fgsm")
    edited(copy, cell, flipped)
    run(SWEEP, out=copy, first=32)
    assert "its record or its rows were changed" in told(copy)
    merge([copy], tmp_path / "merged")
    assert "its record or its rows were changed" in told(tmp_path / "merged")
    pack(copy)
    assert "its record or its rows were changed" in told(copy)


def test_a_run_without_a_seal_is_no_sealed_run(copy: Path) -> None:
    (copy / "seal.json").unlink()
    assert "seal.json: missing" in told(copy)
    cell = cell_of(copy, "fgsm")
    edited(copy, cell, whole, digest="")
    assert f"{cell} (linf: fgsm): no digest" in told(copy)


def test_the_command(copy: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(copy), "--model", MODEL, "--device", "cpu"])
    assert done.exit_code == 0
    assert f"root {verify(copy).root}" in done.output
    assert "all as it was computed" in " ".join(done.output.split())
    edited(copy, cell_of(copy, "fgsm"), flipped)
    assert CliRunner().invoke(app, ["verify", str(copy)]).exit_code == 1


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_a_seal_is_signed_with_what_people_have(copy: Path, tmp_path: Path) -> None:
    def keygen(*arguments: str, **more: Any) -> int:
        return subprocess.run(["ssh-keygen", *arguments], capture_output=True, check=False, **more).returncode

    key, signers = tmp_path / "key", tmp_path / "signers"
    assert keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key)) == 0
    signers.write_text(f"auditor {(tmp_path / 'key.pub').read_text()}")
    assert keygen("-Y", "sign", "-n", "robustsuite", "-f", str(key), str(copy / "seal.json")) == 0
    asked = "-Y", "verify", "-n", "robustsuite", "-I", "auditor", "-f", str(signers), "-s", str(copy / "seal.json.sig")
    assert keygen(*asked, input=(copy / "seal.json").read_bytes()) == 0
    edited(copy, cell_of(copy, "fgsm"), flipped, seal=True)
    Store(copy).seal()
    assert keygen(*asked, input=(copy / "seal.json").read_bytes()) != 0


def tree(lines: list[str]) -> bytes:
    """RFC 6962, section 2.1, word for word: the largest power of two below n to the left."""
    if len(lines) == 1:
        return sha256(b"\x00" + lines[0].encode()).digest()
    k = 1 << (len(lines) - 1).bit_length() - 1
    return sha256(b"\x01" + tree(lines[:k]) + tree(lines[k:])).digest()


@given(st.lists(st.text(max_size=4), min_size=1, max_size=40))
def test_the_root_is_that_of_the_standard(lines: list[str]) -> None:
    assert root_of(lines) == tree(sorted(lines)).hex() == root_of(reversed(lines))


def test_a_digest_is_of_values_not_of_how_they_are_stored() -> None:
    record = CellRecord.model_validate_json(json.dumps({
        "run_id": "a", "status": "done", "scenario": {"name": "evasion"}, "model": {"name": "m"},
        "data": {"name": "d", "n": 2},
    }))  # fmt: skip
    columns = {"index": np.array([4, 2]), "robust": np.array([True, False]), "file": np.array(["b", "ä"]),
               "d": np.array([np.nan, 0.5], dtype=np.float32)}  # fmt: skip
    digest = digest_of_cell(record, columns)
    other = {"d": np.array([0.5, np.nan]), "file": np.array(["ä", "b"], dtype=object),
             "robust": np.array([False, True]), "index": np.array([2, 4], dtype=np.int32)}  # fmt: skip
    assert digest_of_cell(record, other) == digest == digest_of_cell(record.model_copy(update={"digest": "x"}), columns)
    assert digest != digest_of_cell(record, columns | {"robust": np.array([True, True])})
    assert digest != digest_of_cell(record.model_copy(update={"seed": 1}), columns)
    assert digest != digest_of_cell(record, columns | {"more": columns["robust"]})
    assert digest_of([]) == (0, "")
