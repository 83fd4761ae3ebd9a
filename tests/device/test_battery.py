"""The whole registry on a second device: it plays there at all, and says there what it says on the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from robustsuite.config.registry import card_of, cards
from robustsuite.engine import parts
from robustsuite.engine.store import Parts
from tests.device import battery
from tests.device.pretended import ROOT

SWEEPS = [
    pytest.param(sweep, id=title, marks=[pytest.mark.slow] if battery.later(title) else [])
    for title, sweep in battery.sweeps()
]
COUNTED = {"queries"}
"""Columns that say what was asked, not what was found: on a device finished pictures idle for a few steps."""

LAID_OUT = "smoothing"
"""Randomized smoothing draws its noise in channels-last order on CUDA, so other numbers by design."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of trained weights for every sweep of this file: each device trains for itself."""
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_plugin_says_on_the_device_what_it_says_on_the_cpu(
    sweep: dict[str, Any], weights: Path, tmp_path: Path
) -> None:
    with battery.cache_at(weights / "cpu"):
        expected = battery.played(sweep, "cpu", tmp_path / "cpu")
    with battery.cache_at(weights / "device"):
        found = battery.played(sweep, battery.REAL or "cuda", tmp_path / "device")
    failures = [said(row) for row, _ in found.values() if row["status"] == "failed"]
    assert not failures, "\n".join(failures)
    for run_id, (row, columns) in expected.items():
        agree(row, columns, *found[run_id])


STACKS = ["none", [{"gaussian_augmentation": {"epochs": 1}}]]


@pytest.mark.parametrize("defenses", [pytest.param(STACKS, marks=[] if battery.REAL else [pytest.mark.slow], id="two")])
def test_an_audit_says_on_the_device_what_it_says_on_the_cpu(
    defenses: list[Any], weights: Path, tmp_path: Path
) -> None:  # fmt: skip
    sweep = {"threats": battery.ASKED, "defenses": defenses}
    with battery.cache_at(weights / "cpu"):
        expected = battery.played(sweep, "cpu", tmp_path / "cpu", audited=True)
        found = battery.played(sweep, battery.REAL or "cuda", tmp_path / "device", audited=True)
    audits = {k: row["audit"] for k, (row, _) in expected.items() if "audit" in row}
    assert len(audits) == 4
    for run_id, said_there in audits.items():
        assert found[run_id][0]["audit"].keys() == said_there.keys()
        if not battery.REAL:  # nor has a process of its own the device that is pretended
            for one in (said_there, found[run_id][0]["audit"]):
                del one["digest"]  # of figures that are taken away here
            replayed, there = (one["figures"] for one in (said_there, found[run_id][0]["audit"]))
            if replayed.pop("E35", None) is not None:
                assert there.pop("E35_not_replayed") > 0
            assert found[run_id][0]["audit"] == said_there


def test_a_cell_in_parts_on_the_device_is_the_cell(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = {"threats": battery.ASKED, "defenses": ["none", "jpeg"]}
    with battery.cache_at(weights / "cpu"):
        expected = battery.played(sweep, "cpu", tmp_path / "whole")
    with battery.cache_at(weights / "device"):
        monkeypatch.setattr(parts, "GPU", parts.Bounds(1 << 40, 1, 2))
        sizes, write = list[int](), Parts.write
        monkeypatch.setattr(Parts, "write", lambda to, rows, part: sizes.append(len(rows)) or write(to, rows, part))
        found = battery.played(sweep, battery.REAL or "cuda", tmp_path / "parts")
    assert {row["status"] for row, _ in found.values()} == {"done"}, [said(row) for row, _ in found.values()]
    assert len(sizes) > len(found)
    for run_id, (row, columns) in expected.items():
        agree(row, columns, *found[run_id])


def agree(row: dict[str, Any], columns: dict[str, Any], found: dict[str, Any], on_device: dict[str, Any]) -> None:
    """The same columns; the same bits where the device has the CPU's kernels, else the same verdicts by and large."""
    what = f"{row['attack'] or row['shift']} on {row['defense']}"
    assert (row["status"], row["code"]) == (found["status"], found["code"]), (what, found["sentence"])
    assert columns.keys() == on_device.keys(), what
    if LAID_OUT in str(row["attack"]) + row["defense"]:
        return
    for column in columns.keys() - COUNTED - {"run_id"}:
        pairs = list(zip(columns[column], on_device[column], strict=True))
        if battery.REAL:
            if column in ("robust", "clean_ok"):
                assert sum(a != b for a, b in pairs) <= max(2, len(pairs) // 4), (what, column, pairs)
        else:
            assert all(same(a, b) for a, b in pairs), (what, column, pairs)
    if not battery.REAL:
        assert row["flags"] == found["flags"], what


def applied_place(stack: list[dict[str, Any]]) -> str:
    """The stage of the last defense of a stack."""
    return card_of("defense", next(iter(stack[-1]))).place


def said(row: dict[str, Any]) -> str:
    """What went wrong, and the project's line it went wrong in."""
    lines = [line.strip() for line in row["traceback"].splitlines() if str(ROOT) in line and ".venv" not in line]
    lines = [line for line in lines if "pretended" not in line]
    return f"{row['attack'] or row['corruption']} on {row['defense']}: {row['sentence']} [{lines[-1] if lines else ''}]"


def same(a: Any, b: Any) -> bool:
    """Equal, or both not a number."""
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


@pytest.mark.skipif(not battery.REAL, reason="a real device is named by ROBUSTSUITE_DEVICE")
def test_the_real_device_is_there() -> None:
    assert torch.ones(1, device=battery.REAL).device.type == torch.device(battery.REAL).type


def test_every_place_a_card_names_is_played() -> None:
    named = {threat["scenario"] for sweep in SWEEPS for threat in sweep.values[0].get("threats", {}).values()}
    stages = {applied_place(entry) for sweep in SWEEPS for entry in sweep.values[0].get("defenses", [])}
    assert named | stages >= {card.place for card in cards().values() if card.place}
