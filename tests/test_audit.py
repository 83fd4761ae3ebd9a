"""The dear checks: each planted failure is found, an honest cell is left in peace, nothing is audited twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine.audit import audit
from robustsuite.engine.case import Case
from robustsuite.engine.execute import execute
from robustsuite.engine.plan import Decision
from robustsuite.engine.store import Store
from robustsuite.errors import BadData
from robustsuite.integrity.apart import Apart
from robustsuite.reports.read.runs import read
from robustsuite.scenarios.cell import Cell
from robustsuite.serve import stages
from robustsuite.serve.data import Dataset, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, weights_sha256
from robustsuite.serve.stages import Applied
from tests.frauds import Fraud, honest
from tests.nets import Noised

DATA = digits()
TEST = DATA.split("test").first(40)


@stages.serve(stochastic=True, eot=4)
def noised(net: nn.Module) -> nn.Module:
    """Input noise, declared as such."""
    return Noised(net, 0.25)


NOISED = Applied(noised.card)  # type: ignore[attr-defined]


def cell(
    net: nn.Module, attack: str = "pgd", eps: float = 0.1, defenses: tuple[Applied, ...] = (), **given: Any
) -> Cell:
    data = Dataset("digits", DATA.space, DATA.classes, {**DATA.splits, "test": TEST})
    cycle = Lifecycle(Model("net", net.eval(), DATA.space, weights_sha256(net)), data, defenses)
    card = card_of("attack", attack)
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(eps))
    return Cell("audits", cycle, Subjects(TEST), threat, card, tuple(sorted(given.items())))


def audited(folder: Path, one: Cell) -> dict[str, Any]:
    """The audit of one cell, by flag."""
    store = Store(folder)
    execute([(one, Decision())], store)
    assert audit([(one, Decision())], store) == 1
    return dict(json.loads((store.cells / one.run_id / "audit.json").read_text()))


def names(found: dict[str, Any]) -> dict[str, str]:
    return {flag["name"]: flag["level"] for flag in found["flags"]}


def test_an_honest_cell_passes_every_audit_once(tmp_path: Path) -> None:
    one = cell(honest(adversarial=True), steps=20, restarts=2)
    found = audited(tmp_path, one)
    assert found["flags"] == []
    assert set(found["figures"]) == {
        "E4_whole", "E4_half", "E7_steps", "E7_restarts", "E8", "E12_0.01", "E12_100", "E17", "E23",
        "E36_not_asked",  # its network was made here
    }  # fmt: skip
    assert audit([(one, Decision())], Store(tmp_path)) == 0


def test_starved_cross_entropy_is_found_by_scaling_and_by_the_whole_box(tmp_path: Path) -> None:
    found = names(audited(tmp_path, cell(Fraud(lambda z: 1000 * z), steps=10)))
    assert found["scale_dependent"] == "fail"
    assert "unbounded_fails" in found


def test_an_attack_that_has_not_converged_is_found(tmp_path: Path) -> None:
    found = names(audited(tmp_path, cell(honest(), eps=0.3, steps=1, rel_step=0.2)))
    assert found["not_converged"] == "fail"


def test_random_search_finds_what_an_attack_without_gradients_leaves(tmp_path: Path) -> None:
    constant = Fraud(lambda z: z.detach() + 0 * z, before=lambda x: x)
    found = names(audited(tmp_path, cell(constant, attack="fgsm", eps=0.3)))
    assert found["random_search_wins"] == "fail"


def test_what_a_random_system_drops_by_chance_is_no_finding(tmp_path: Path) -> None:
    """Of what stands because of one play, some falls in the next, to the same attack: so it does to a longer one."""
    one = cell(honest(adversarial=True), defenses=(NOISED,), steps=10, restarts=2)
    found = audited(tmp_path, one)
    assert found["flags"] == []
    robust = torch.tensor(Store(tmp_path).column(one.run_id, "robust"))
    case = Case(one, one.lifecycle.served(), robust, robust.long(), 64, {}, cast(Apart, None), None)
    fell = ~case.again(case.standing, restarts=4).columns["robust"]
    assert int(fell.sum()) > 1, "some did fall"
    assert case.beyond_chance(fell) == 0
    assert case.beyond_chance(torch.ones_like(fell)) > 10


def test_random_search_finds_what_hides_behind_noise(tmp_path: Path) -> None:
    constant = Fraud(lambda z: z.detach() + 0 * z, before=lambda x: x)
    found = names(audited(tmp_path, cell(constant, "fgsm", eps=0.3, defenses=(NOISED,))))
    assert found["random_search_wins"] == "fail"


def test_batches_that_decide_are_found(tmp_path: Path) -> None:
    found = names(audited(tmp_path, cell(Fraud(lambda z: z - z.mean(0)), steps=5)))
    assert found["order_dependent"] == "warn"


def test_a_rough_landscape_is_found(tmp_path: Path) -> None:
    rough = Fraud(before=lambda x: x + 0.2 * (1e4 * x + x.cos()).sin())
    assert "rough_landscape" in names(audited(tmp_path, cell(rough, steps=2)))


def test_a_report_counts_the_audits_flags(tmp_path: Path) -> None:
    store, one = Store(tmp_path), cell(honest(), steps=5)
    execute([(one, Decision())], store)
    store.describe({"name": "audits", "cells": [one.run_id]})
    assert read([tmp_path]).cells["grade"].tolist() == ["PROVISIONAL"], "one attack alone"
    audit_file = store.cells / one.run_id / "audit.json"
    flag = {"name": "not_converged", "detail": "x", "level": "fail"}
    audit_file.write_text(json.dumps({"run_id": one.run_id, "flags": [flag]}))
    assert read([tmp_path]).cells["grade"].tolist() == ["INVALID"]
    audit_file.write_text("{")
    with pytest.raises(BadData, match="got none"):
        read([tmp_path])
    assert not store.finished(one.run_id), "a cell with a damaged file is computed again"


def test_only_measured_attacks_are_audited(tmp_path: Path) -> None:
    store, one = Store(tmp_path), cell(honest(), steps=5)
    assert audit([(one, Decision())], store) == 0
    assert audit([(one, Decision("refused"))], store) == 0


@pytest.mark.parametrize("attack", ["square"])
def test_a_black_box_attack_is_audited_for_what_bears_on_it(tmp_path: Path, attack: str) -> None:
    figures = audited(tmp_path, cell(honest(), attack=attack, steps=60))["figures"]
    assert set(figures) == {"E12_0.01", "E12_100", "E23", "E36_not_asked"}
    assert torch.tensor(list(figures.values())).isfinite().all()
