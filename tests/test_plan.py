"""What is planned and what becomes of it: decisions with sentences, run ids, failures, widths, others' plugins."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from torch import nn

from robustsuite.config import registry
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine.execute import Progress, execute, ordered
from robustsuite.engine.plan import Decision, plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import UsageError
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import Subjects
from robustsuite.serve.models import Model, Training, weights_sha256
from tests.stored import rows as rows_of
from tests.test_cli import cells as stored
from tests.test_cli import command
from tests.toys import SPACE, labelled, lifecycle, linear

PLUGINS = '''
"""Somebody else's plugins."""

import torch
from torch import nn

from robustsuite.serve import stages
from robustsuite.scenarios.evasion import attack
from robustsuite.config.threats import Access


class Rounded(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return (self.net(x).detach() * 100).round() / 100


@stages.share()
def quiet(update):
    """Sends less than it knows."""
    return 0 * update


@stages.serve(hides=Access.GRADIENTS)
def rounded(net):
    """Answers with two digits."""
    return Rounded(net)


@stages.serve()
def crooked(net):
    """Does not stand."""
    raise ArithmeticError("no such wrapper")


@attack(needs=Access.SCORES, norms=("linf",))
def clumsy(model, x, y, budget, *, rng):
    """Falls over."""
    raise ZeroDivisionError("fell over\\nand lay there")


@attack(needs=Access.SCORES, norms=("linf",))
def greedy(model, x, y, budget, *, rng, most: int = 16):
    """Wants more memory than there is."""
    if model.width > most:
        raise torch.OutOfMemoryError("too wide")
    return budget.sample(x, rng)
'''

LINF = {"scenario": "evasion", "budget": {"linf": "8/255"}}
BASE: dict[str, Any] = {"name": "planned", "models": ["python:tests.nets:linear"], "data": ["digits"]}


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution with the plugins above, found as any installed one is."""
    site = tmp_path_factory.mktemp("site")
    (site / "others_plugins.py").write_text(PLUGINS)
    facts = site / "others_plugins-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-plugins\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{registry.GROUP}]\nothers = others_plugins\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        registry.cards.cache_clear()
        yield
    sys.modules.pop("others_plugins", None)
    importlib.invalidate_caches()
    registry.cards.cache_clear()


def planned(n: int = 30, **axes: object) -> list[tuple[Cell, Decision]]:
    return list(ordered(plan(sweep_of({**BASE, **axes}, "the test"), "cpu", n)))


def attacked(*attacks: object, **threat: object) -> dict[str, Any]:
    """One threat with these attacks."""
    return {"t": {**LINF, **threat, "attacks": list(attacks)}}


def only(cells: list[tuple[Cell, Decision]], attack: str, defense: str = "none") -> tuple[Cell, Decision]:
    """The one cell of this attack and this defense."""
    (found,) = [
        (cell, decision)
        for cell, decision in cells
        if cell.attack and cell.attack.name == attack and cell.facts()["defense"].startswith(defense)
    ]
    return found


def test_a_stage_that_is_not_passed_is_inert() -> None:
    cells = planned(threats=attacked("pgd"), defenses=["none", "quiet"])
    _, decision = only(cells, "pgd", "quiet")
    bare, run = only(cells, "pgd")
    assert (decision.status, decision.code, run.status) == ("inert", "stage", "run")
    assert "evasion" in decision.sentence
    assert decision.same_as == bare.run_id


def test_changing_the_train_set_of_what_comes_trained_is_inert() -> None:
    def decisions(model: str, *defenses: Any) -> list[str]:
        cells = planned(10, models=[model], threats=attacked("pgd"), defenses=["none", *defenses])
        return [decision.status for cell, decision in cells if cell.attack]

    assert decisions("python:tests.nets:linear", "jpeg", ["jpeg", "rift"]) == ["run", "inert", "run"]
    assert decisions("recipe:cnn_2c2f?epochs=1", "jpeg") == ["run", "run"]


def test_hidden_gradients_without_a_surrogate_are_unmeasured_for_those_who_need_them() -> None:
    cells = planned(threats=attacked("pgd", "square"), defenses=["rounded"])
    _, decision = only(cells, "pgd", "rounded")
    assert (decision.status, decision.code) == ("unmeasured", "no_surrogate")
    assert decision.sentence == "rounded hides gradients and ships no surrogate to attack through"
    assert only(cells, "square", "rounded")[1] == Decision()


@pytest.mark.parametrize(
    ("attack", "threat", "code", "says"),
    [
        ("pgd", {"access": "labels"}, "access", "pgd needs .*gradients.* t grants labels"),
        ("pgd", {"access": "scores"}, "access", "pgd needs gradients"),
        ("pgd", {"budget": {"l0": 3}}, "budget", "pgd works in linf.*, not in l0"),
        ("pgd", {"scenario": "certification"}, "scenario", "pgd plays evasion, the threat is certification"),
        ("smoothing", {}, "scenario", "smoothing plays certification, the threat is evasion"),
        ("pgd", {"budget": {"flow": 1}}, "budget", "pgd works in linf.*, not in flow"),
        ("grid", {"budget": {"flow": 1}}, "budget", "grid works in spatial, not in flow"),
        ("transform_pgd", {"budget": {"linf": 0.1}}, "budget", "transform_pgd works in spatial.*, not in linf"),
        ("lirpa", {"budget": {"patch": 0.1}, "scenario": "certification"}, "budget", "lirpa works in .*, not in patch"),
        ("universal", {}, "access", "universal needs .*aux_data"),
    ],
)
def test_what_an_attack_cannot_do_is_refused(attack: str, threat: dict[str, Any], code: str, says: str) -> None:
    _, decision = only(planned(threats=attacked(attack, **threat)), attack)
    assert (decision.status, decision.code) == ("refused", code)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(decision.sentence)


def test_a_certifier_of_weights_is_refused_where_something_else_answers() -> None:
    smoothed = {"randomized_smoothing": {"sigma": 0.1, "n": 8, "alpha": 0.1}}
    threats = attacked("lirpa", "smoothing", scenario="certification", budget={"l2": 0.1})
    cells = planned(threats=threats, defenses=["none", smoothed])
    _, decision = only(cells, "lirpa", "randomized_smoothing")
    assert (decision.status, decision.code) == ("refused", "hidden")
    assert decision.sentence == "lirpa bounds a network; randomized_smoothing answers by something else"
    assert only(cells, "smoothing", "randomized_smoothing")[1].status == "run"
    assert only(cells, "lirpa")[1].status == "run"


def test_verdicts_are_stored_with_their_sentences(tmp_path: Path) -> None:
    cells = planned(threats=attacked({"pgd": {"steps": 2}}), defenses=["none", "quiet", "rounded"])
    store = Store(tmp_path)
    assert execute(cells, store) == 6
    rows = {f.parent.name: json.loads(f.read_text()) for f in tmp_path.glob("cells/*/run.json")}
    for cell, decision in cells:
        row = rows[cell.run_id]
        if decision.status != "run":
            assert (row["status"], row["sentence"], row["same_as"]) == (
                decision.status, decision.sentence, decision.same_as
            )  # fmt: skip
            assert not (tmp_path / "cells" / cell.run_id / "examples.parquet").exists()
    assert sorted(row["status"] for row in rows.values()) == ["done"] * 4 + ["inert", "unmeasured"]
    assert execute(cells, store) == 0


def toy(**changed: Any) -> Cell:
    net = linear()
    pgd = registry.card_of("attack", "pgd")
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(0.1))
    cell = Cell("toy", lifecycle(net, labelled(net)), Subjects(labelled(net)), threat, pgd)
    return replace(cell, **changed)


def test_a_run_id_changes_with_what_makes_the_number_and_with_nothing_else() -> None:
    cell, other = toy(), linear(1)
    cycle = cell.lifecycle
    quiet = plan(sweep_of({**BASE, "defenses": ["quiet"]}, "the test"))[0][0].lifecycle.defenses
    different = {
        "weights": toy(lifecycle=replace(cycle, model=Model("toy", other, SPACE, weights_sha256(other)))),
        "pictures": toy(subjects=Subjects(labelled(linear(), n=23))),
        "labels": toy(subjects=Subjects(labelled(linear(), wrong=5))),
        "seed": toy(lifecycle=replace(cycle, seed=1)),
        "defense": toy(lifecycle=replace(cycle, defenses=quiet)),
        "parameters": toy(given=(("steps", 3),)),
        "budget": toy(threat=replace(cell.threat, budget=Linf(0.2))),
        "queries": toy(threat=replace(cell.threat, queries=7)),
        "attack": toy(attack=registry.card_of("attack", "fgsm")),
    }
    ids = {name: changed.run_id for name, changed in different.items()}
    assert len({cell.run_id, *ids.values()}) == len(ids) + 1, ids
    default = registry.card_of("attack", "pgd").parameters["steps"]
    for same in (toy(), toy(sweep="another"), toy(given=(("steps", default),))):
        assert same.run_id == cell.run_id
    assert toy(lifecycle=replace(cycle, device="cuda")).run_id == cell.run_id


def test_a_trained_network_is_named_by_the_pictures_it_was_trained_on() -> None:
    def trained(train: int, val: int, **model: Any) -> str:
        cell = toy()
        splits = {"train": labelled(linear(), n=train), "val": labelled(linear(), n=val), "test": cell.split}
        cycle = replace(cell.lifecycle, data=replace(cell.lifecycle.data, splits=splits))
        return toy(lifecycle=replace(cycle, model=replace(cycle.model, **model))).run_id

    def fit(net: nn.Module, training: Training) -> nn.Module:
        return net

    assert trained(20, 10, fit=fit) == trained(20, 10, fit=fit)
    assert len({trained(20, 10, fit=fit), trained(21, 10, fit=fit), trained(20, 11, fit=fit)}) == 3
    assert trained(20, 10) == trained(21, 11), "pretrained weights come from no pictures of ours"


def test_a_cell_that_raises_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threats = attacked("clumsy", "fgsm")
    Path("s.yaml").write_text(yaml.safe_dump({**BASE, "threats": threats, "defenses": ["none", "crooked"]}))
    code, out, err = command(capsys, "run", "s.yaml", "--first", "20")
    assert (code, err) == (3, "")
    assert "fell over" in out
    rows = rows_of("runs/planned")
    by_cell = {(row["attack"], row["defense"]): row for row in rows}
    failed = by_cell["clumsy", "none"]
    assert (failed["status"], failed["code"], failed["sentence"]) == ("failed", "ZeroDivisionError", "fell over")
    assert "in clumsy" in failed["traceback"]
    assert by_cell["fgsm", "none"]["status"] == by_cell[None, "none"]["status"] == "done"
    assert {row["code"] for (_, defense), row in by_cell.items() if defense == "crooked"} == {"ArithmeticError"}
    code, out, _ = command(capsys, "run", "s.yaml", "--first", "20")
    assert code == 3
    assert "6 cells (4 computed now)" in out, "what failed is tried again"


def test_out_of_memory_halves_the_width_and_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    cells = planned(threats=attacked("greedy", "fgsm", {"greedy": {"most": 0}}))
    assert execute(cells, Store(tmp_path), Progress(tell=told.append), width=64) == 4
    statuses = [json.loads((tmp_path / "cells" / c.run_id / "run.json").read_text())["status"] for c, _ in cells]
    assert statuses == ["done", "done", "done", "failed"]
    widths = [sentence.split()[-4] for sentence in told if "in flight" in sentence]
    assert widths == ["32", "16", "8", "4", "2", "1"]
    assert "at a time" in told[-1]  # then in halves, down to one example


def test_verdicts_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    attacks = ["fgsm", {"pgd": {"steps": 4, "restarts": 2}}, {"square": {"steps": 8}}, {"apgd": {"steps": 4}}]
    smoothed = {"randomized_smoothing": {"sigma": 0.2, "n": 8, "alpha": 0.2}}
    cells = planned(20, threats=attacked(*attacks), defenses=["none", smoothed])
    tables = []
    for width in (1, 7, 64):
        execute(cells, Store(tmp_path / str(width)), width=width)
        folders = [tmp_path / str(width) / "cells" / cell.run_id for cell, _ in cells]
        tables.append([pq.read_table(folder / "examples.parquet").to_pydict() for folder in folders])
        for table in tables[-1]:
            table.pop("queries", None)  # a wide batch has begun second restarts by the time the first one wins
    assert len(tables[0]) == 10
    assert any(not all(table["robust"]) for table in tables[0])
    for one, seven, many in zip(*tables, strict=True):
        assert one == seven == many


def test_others_plugins_are_listed_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = {entry["name"]: entry for entry in json.loads(command(capsys, "list", "attacks", "--json")[1])}
    assert listed["greedy"]["origin"] == "others_plugins:greedy"
    assert listed["greedy"]["parameters"] == {"most": 16}
    assert "Answers with two digits" in command(capsys, "list", "defenses")[1]
    Path("s.yaml").write_text(yaml.safe_dump({**BASE, "threats": attacked("greedy"), "defenses": ["rounded"]}))
    code, _, err = command(capsys, "run", "s.yaml", "--first", "20", "--batch-size", "16")
    assert code == 0, err
    assert set(stored("runs/planned").values()) == {"done"}


def test_two_plugins_of_one_name_are_an_error() -> None:
    twin = registry.AttackCard("attack", "pgd", planned, "evasion")
    with pytest.raises(UsageError, match=r"expected one attack of the name 'pgd', got two: .*; rename one"):
        registry._add(dict(registry.cards()), twin)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"scenes": {"train": "abc"}}, "train of scenes as int, got 'abc'"),
        ({"digits": {"first": "x"}}, "first of digits as a number"),
        ({"imagefolder": {"root": 3}}, "root of imagefolder as str, got 3"),
        ({"scenes": {"seed": True}}, "seed of scenes as int, got True"),
        (5, "a name for the data set, got 5"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_a_sentence(spec: object, says: str) -> None:
    from robustsuite.errors import BadValue
    from robustsuite.serve.data import load_data

    with pytest.raises(BadValue, match=says):
        load_data(spec)
