"""What a plan will take: remaining time by kind, trainings tried on a few pictures, workers where they are worth it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from robustsuite.app import display
from robustsuite.app.display import Clock
from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.engine import estimate
from robustsuite.engine.execute import Planned, ordered
from robustsuite.engine.plan import plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from tests.shares import EVERY

TRUE = {"fgsm": 0.5, "pgd": 4.0, "apgd": 2.0, "square": 8.0, "cgba": 3.0, "fmn": 1.0, "imagenet_c": 0.2, "clean": 0.1}
"""Seconds that a cell of each kind really takes, with a factor on what was expected that differs by kind."""


def cells_of(seeds: int) -> list[Planned]:
    threats = {k: EVERY["threats"][k] for k in ("linf", "scores", "labels", "near")}
    sweep = {**EVERY, "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 20}}], "shifts": [],
             "defenses": ["none"], "threats": threats, "seeds": list(range(seeds))}  # fmt: skip
    return list(ordered(plan(sweep_of(sweep, "x"))))


def kind(cell: Planned) -> str:
    return cell[0].attack.name if cell[0].attack else str(cell[0].shift).partition("(")[0]


def minutes(said: str) -> float:
    minute, second = said.split()[1].split(":")
    return int(minute) * 60 + int(second)


def test_steps_below_0_cost_nothing_and_no_less() -> None:
    asked = {**EVERY, "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 20}}],
             "shifts": [], "defenses": ["none"],
             "threats": {"t": {"scenario": "explanation", "attacks": [{"smoothgrad": {"draws": -3}}]}}}  # fmt: skip
    (cost,) = [cell.cost() for cell, _ in plan(sweep_of(asked, "x")) if cell.attack]
    assert cost == Cost(40, 0)


@pytest.mark.parametrize("workers", [1, 4])
def test_remaining_time_is_within_a_factor_of_two_from_a_fifth_on(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    cells = cells_of(10)
    wrong = {cell[0].run_id: TRUE[kind(cell)] * (0.01 if kind(cell) == "pgd" else 3) for cell in cells}
    clock = Clock(cells, wrong, workers)
    total = sum(TRUE[kind(cell)] for cell in cells) / workers
    for cell in cells:
        took = TRUE[kind(cell)]
        now += took / workers
        cost = SimpleNamespace(seconds=took)
        clock.finished(SimpleNamespace(run_id=cell[0].run_id, status="done", cost=cost))  # type: ignore[arg-type]
        if total / 5 < now < total - 10:
            assert (total - now) / 2 - 1 <= minutes(clock.left()) <= (total - now) * 2 + 1
    assert clock.left() == "about 0:00 left"


def test_a_refused_cell_says_nothing_of_its_kind() -> None:
    cells = cells_of(1)
    clock = Clock(cells, {cell[0].run_id: 1.0 for cell in cells})
    refused = SimpleNamespace(run_id=cells[1][0].run_id, status="refused", cost=SimpleNamespace(seconds=0.0))
    clock.finished(refused)  # type: ignore[arg-type]
    assert not clock.spent
    assert sum(clock.open.values()) == len(cells) - 1


def test_trainings_are_tried_on_a_few_pictures_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    tuned = {"adversarial_finetuning": {"eps": 0.1, "epochs": 2, "steps": 2, "augment": False}}
    sweep = {"name": "x", "models": ["recipe:cnn_2c2f?epochs=2"], "data": [{"digits": None}],
             "defenses": ["none", tuned]}  # fmt: skip
    cells = list(ordered(plan(sweep_of(sweep, "x"))))
    found = estimate.trainings(cells)
    assert found.keys() == {key for cell, _ in cells for key in cell.lifecycle.trainings()}
    assert len(found) == 2
    assert min(found.values()) >= 0
    assert max(found.values()) > 0
    assert not list(tmp_path.rglob("*"))
    took = iter((2.0, 5.0))  # the recipe, and the recipe with what is tuned after it
    monkeypatch.setattr(estimate, "_tried", lambda *_: next(took))
    assert list(estimate.trainings(cells).values()) == [2.0, 3.0]


def test_what_an_adversary_trains_for_itself_has_its_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    scores = {"scenario": "membership", "access": ["scores", "aux_data"], "shadows": 6,
              "attacks": ["threshold", "lira", "ratio"]}  # fmt: skip
    scan = {"scenario": "scan", "access": ["white_box", "aux_data"], "zoo": 8, "attacks": ["mm_bd", "head_weights"]}
    sweep = {"name": "x", "models": ["recipe:cnn_2c2f?epochs=2"], "data": [{"digits": None}],
             "threats": {"scores": scores, "scan": scan}}  # fmt: skip
    monkeypatch.setattr(estimate, "_tried", lambda *_: 3.0)
    victims, own = 2, 6 + 8  # the victim on a half by coins, and on all pictures
    assert list(estimate.trainings(list(ordered(plan(sweep_of(sweep, "x"))))).values()) == [3.0] * (victims + own)


def test_a_machine_gets_workers_where_there_is_work_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, store = cells_of(1), Store(tmp_path)
    monkeypatch.setattr(estimate.joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(estimate, "ROOM", 1)
    for seconds, workers in ((1.0, 1), (estimate.WORTH * 3.5, 3), (1e6, 8)):
        monkeypatch.setattr(estimate, "estimate", lambda missing, seconds=seconds: {"x": seconds})
        assert estimate.crew(cells, store, "cpu") == workers
    monkeypatch.setattr(estimate, "ROOM", 1 << 60)
    assert estimate.crew(cells, store, "cpu") == 1
    assert estimate.crew(cells, store, "cuda:1") == 1


def test_a_cost_counts_the_routes_that_are_open() -> None:
    """Three where gradients are there to be asked, one where they are hidden, one for what asks for none."""
    sweep = {"name": "x", "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 4}}],
             "defenses": ["none", {"randomized_smoothing": {"n": 4}}],
             "threats": {"t": {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": ["fgsm", "square"]}}}
    costs = {}
    for cell, _ in plan(sweep_of(sweep, "x")):
        if cell.attack is not None:
            costs[cell.attack.name, bool(cell.lifecycle.defenses)] = cell.cost()
    assert costs["square", True] == costs["square", False]
    hidden = next(d.card for cell, _ in plan(sweep_of(sweep, "x")) for d in cell.lifecycle.defenses)
    assert Access.GRADIENTS in hidden.hides
    assert costs["fgsm", True].backwards == costs["fgsm", False].backwards * max(1, hidden.eot)


def test_a_cost_is_at_most_what_the_threat_lets_be_asked() -> None:
    attack = {"square": {"steps": 5000}}
    threat = {"scenario": "evasion", "access": "scores", "budget": {"linf": 0.1}, "attacks": [attack]}
    limited = {**threat, "budget": {"linf": 0.1, "queries": 100}}
    total = {**threat, "budget": {"linf": 0.1, "queries_total": 80}}
    sweep = {"name": "x", "models": ["recipe:cnn_2c2f"], "data": [{"digits": {"first": 8}}],
             "threats": {"free": threat, "limited": limited, "total": total}}  # fmt: skip
    cells = [cell for cell, _ in plan(sweep_of(sweep, "x")) if cell.attack]
    assert [cell.cost().forwards for cell in cells] == [5003 * 8, 102 * 8, 80 + 2 * 8]
