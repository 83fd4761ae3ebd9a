"""The table of model sources: each form has the plain network's verdicts, or its sentence."""

import json
from pathlib import Path

import pytest

from robustsuite.benchmarks import sources

ROWS = {
    "checkpoint: .safetensors": "pgd",
    "checkpoint: EMA beside, none chosen": "choose weights=model or weights=ema",
    "checkpoint: bfloat16": "pgd",
    "checkpoint: a whole pickled network": "got a whole pickled network",
    "torchscript: traced": "pgd",
    "torchscript: quantised": "square",
    "python: classes alone": "cgba",
    "python: one output, two classes": "pgd",
    "python: a network quantised in torch": "square",
}


def test_a_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sources.sys.modules, "own_nets", raising=False)
    small = ["--n", "8", "--epochs", "1", "--train", "256"]
    rows = sources.main(["--out", str(tmp_path), *small, "--only", *ROWS])
    assert [row["source"] for row in rows] == list(ROWS)
    for row in rows:
        expected = ROWS[row["source"]]
        if row["loads"] == "no":
            assert expected in row["sentence"]
        else:
            assert (row["attack"], row["equal"]) == (expected, row["n"]), row
            assert (row["apart"] or 0) < 1e-4
    assert len((tmp_path / "sources.md").read_text().splitlines()) == 2 + len(ROWS) + 2
    assert json.loads((tmp_path / "sources.json").read_text())["rows"] == rows
