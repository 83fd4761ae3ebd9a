"""Attacks on shifted pictures: cells of their own beside the clean ones, under the set's head, in one yaml."""

from pathlib import Path

import pytest

from robustsuite.engine.execute import execute
from robustsuite.engine.plan import plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadValue, UnknownName
from tests.stored import rows as rows_of

SWEEP = {
    "name": "t", "models": ["recipe:scenes_resnet?epochs=1"],
    "data": [{"scenes": {"train": 100, "val": 20, "first": 20}}],
    "shifts": [{"imagenet_c": {"corruptions": ["fog"], "severities": [1]}}, "imagenet_r"],
    "threats": {"linf": {"scenario": "evasion", "budget": {"linf": "2/255"}, "attacks": ["fgsm"]}},
}  # fmt: skip


def sweep(**threat: object):
    return sweep_of({**SWEEP, "threats": {"linf": {**SWEEP["threats"]["linf"], **threat}}}, "t")


def test_a_threat_attacks_the_sets_it_names_and_no_other():
    names = [cell.facts()["threat"] for cell, _ in plan(sweep(shifts="imagenet_c")) if cell.threat]
    assert names == ["linf", "linf on imagenet_c fog 1"]
    assert [cell.facts()["threat"] for cell, _ in plan(sweep()) if cell.threat] == ["linf"]
    cells = [cell for cell, _ in plan(sweep(shifts=["imagenet_r"])) if cell.threat]
    assert len(cells) == 1 + 6
    assert len({cell.run_id for cell in cells}) == 7
    assert cells[1].facts()["threat"] == "linf on imagenet_r unshifted"
    assert cells[1].facts()["head"].startswith("8 of 10 classes")


def test_what_cannot_be_attacked_is_said():
    with pytest.raises(UnknownName, match="did you mean 'imagenet_r'"):
        plan(sweep(shifts=["imagenet_e"]))
    with pytest.raises(BadValue, match="got 'shifts'"):
        plan(sweep(shifts=["imagenet_r"], scenario="certification", attacks=["lirpa"]))


def test_accuracy_under_attack_is_no_higher_than_under_the_shift_alone(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    cells = plan(sweep(shifts=["imagenet_c", "imagenet_r"]))
    execute(cells, Store(tmp_path / "run"))
    rows = rows_of(tmp_path / "run")
    assert {row["status"] for row in rows} == {"done"}
    import pandas as pd

    def table(row: dict[str, object]) -> pd.DataFrame:
        return pd.read_parquet(tmp_path / "run" / "cells" / str(row["run_id"]) / "examples.parquet").set_index("index")

    shifted = {(row["shift"], row["corruption"]): row for row in rows if row["scenario"] == "shift"}
    attacked = [row for row in rows if row["scenario"] == "evasion" and row["shift"]]
    assert len(attacked) == 7
    for row in attacked:
        alone, under = table(shifted[row["shift"], row["corruption"]]), table(row)
        assert (under["clean_ok"] == alone["robust"]).all()
        assert not (under["robust"] & ~alone["robust"]).any()
