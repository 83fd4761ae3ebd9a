"""The notebooks: committed as they ran, and they run: offline, from an empty folder, each in its own kernel."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "reports" / "notebooks").glob("*.ipynb"))


def test_there_are_four() -> None:
    assert [n.stem[:2] for n in NOTEBOOKS] == ["1_", "2_", "3_", "4_"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_it_is_committed_with_its_outputs_and_without_a_machine(file: Path) -> None:
    text = file.read_text("utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 3
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not re.search(r"[\"'(= ]/(work|root|tmp|home)/", text)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_it_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("ROBUSTSUITE_CACHE", os.environ.get("ROBUSTSUITE_CACHE", str(tmp_path / "cache")))
    notebook = nbformat.read(file, 4)
    started = time.monotonic()
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    print(f"{file.name}: {time.monotonic() - started:.0f} s")
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output["output_type"] == "error"]
