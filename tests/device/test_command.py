"""`robustsuite run --device cuda`, from the command line to the report."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from tests.device.battery import REAL
from tests.device.pretended import Pretended
from tests.stored import rows as rows_of
from tests.test_cli import command

Capsys = pytest.CaptureFixture[str]
SWEEP = {
    "name": "there", "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 20}}],
    "threats": {"linf": {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": [{"pgd": {"steps": 4}}]}},
}  # fmt: skip


@pytest.mark.parametrize("flags", [[], ["--dry-run"], ["--audit"]])
def test_a_sweep_runs_on_the_device_that_is_named(flags: list[str], tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    with nullcontext() if REAL else Pretended():
        out, device = str(tmp_path / "out"), REAL or "cuda"
        code, _, said = command(capsys, "run", str(tmp_path / "sweep.yaml"), "--out", out, "--device", device, *flags)
    assert code == 0, said
    rows = rows_of(tmp_path / "out")
    assert {(row["status"], row["device"]) for row in rows} == (set() if "--dry-run" in flags else {("done", device)})
