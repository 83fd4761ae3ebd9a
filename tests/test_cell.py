"""What cells share is worked out once and changes nothing: ids and words are those of the cell's record in full."""

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, tensor

from robustsuite import __version__
from robustsuite.config import registry
from robustsuite.config.goals import OrderedTopK, Targeted, ToClass
from robustsuite.config.registry import AttackCard, DefenseCard, identity, used
from robustsuite.config.threats import L2, Access, Linf, PoisonRate, Threat, Update
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord, DataFacts, ModelFacts, ShiftFacts, Stream, dumped
from robustsuite.scenarios.cell import Cell, Memo
from robustsuite.serve.data import Reading, Subjects, Variant
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training
from robustsuite.serve.stages import Applied
from tests.toys import SPACE, labelled, lifecycle, linear


def recorded(cell: Cell) -> CellRecord:
    """The cell's record, each part of it made for this cell alone."""
    cycle, subjects, reading = cell.lifecycle, cell.subjects, cell.reading
    model, data, variant = cycle.model, cycle.data, cell.variant if cell.shift != "clean" else None
    return CellRecord(
        run_id="-", status="done", sweep=cell.sweep, scenario=cell.scenario.facts(), seed=cycle.seed,
        threat=cell.threat.facts() if cell.threat else None,
        attack=used(cell.attack, dict(cell.given)) if cell.attack else None,
        defenses=tuple(used(d.card, dict(d.given)) for d in cycle.defenses),
        model=ModelFacts(
            name=model.name, sha256=model.sha256, behaviour=model.behaviour, shows=model.shows.kinds()
        ),
        data=DataFacts(
            name=data.name, sha256=cell.split.sha256, n=len(cell.split), splits=subjects.splits, stream=subjects.stream
        ),
        shift=ShiftFacts(
            name=cell.shift, corruption=variant.corruption if variant else "",
            severity=variant.severity if variant else None, head=reading.head_words(model.space.classes),
            transform=reading.transform,
        ) if cell.shift else None,
    )  # fmt: skip


def hashed(cell: Cell) -> str:
    """The cell's id, from its record in full."""
    cycle = cell.lifecycle
    facts = dumped(recorded(cell)) | {
        "attack": identity(cell.attack, dict(cell.given)) if cell.attack else None,
        "defenses": [identity(d.card, dict(d.given)) for d in cycle.defenses],
        "scenario": identity(cell.scenario.card, {}),
        "trained_on": cycle.trained_on(), "suite": __version__, "sweep": None,
    }  # fmt: skip
    del facts["model"]["shows"]
    for beside in ("pictures", "pictures_sha256", "digest"):
        del facts[beside]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def agree(cell: Cell) -> None:
    """The cell's id, record and words are those that are made for it alone."""
    row = flat(recorded(cell))
    assert cell.run_id == hashed(cell)
    assert cell.facts() == row
    assert cell.words() == {axis: row[axis] for axis in ("model", "dataset", "defense", "shift", "threat", "attack")}


def reestimate(net: nn.Module, *, momentum: float = 0.1) -> nn.Module:
    """Adapts to what it is asked."""
    return net


def attack(model: object, x: Tensor, *, value: Any = 1, other: int = 2) -> Tensor:
    """Nothing."""
    return x


SWEEP: dict[str, Any] = {
    "name": "kinds", "models": ["recipe:scenes_resnet?epochs=1", {"recipe:scenes_resnet": {"epochs": 2}, "as": "two"}],
    "data": [{"scenes": {"train": 20, "val": 10, "first": 10}, "as": "ten"}], "seeds": [0, 1],
    "shifts": [{"imagenet_c": {"corruptions": ["fog"], "severities": [1, 5]}}, "imagenet_r"],
    "defenses": ["none", {"jpeg": {"quality": 50}, "as": "JPEG"}, [{"jpeg": {"quality": 60}}, "grayscale"],
                 {"randomized_smoothing": {"sigma": 0.25}}, {"fine_pruning": {"epochs": 1}}, "gradient_clipping",
                 "reestimate"],
    "stream": {"order": "shuffled", "batch": 7},
    "threats": {
        "linf": {"scenario": "evasion", "budget": {"linf": "8/255"}, "shifts": ["imagenet_c", "imagenet_r"],
                 "attacks": ["fgsm", {"pgd": {"steps": 3, "eot": 2}, "as": "PGD"}, {"pgd": {"steps": 4, "first": 5}}]},
        "far": {"scenario": "evasion", "budget": {"l2": "inf", "queries": 9, "queries_total": 99}, "access": "scores",
                "goal": {"target": 3}, "attacks": ["square", "fgsm"]},
        "listed": {"scenario": "evasion", "budget": {"l2": 1}, "goal": {"ordered_topk": 3}, "attacks": ["quadattack"]},
        "proof": {"scenario": "certification", "budget": {"l2": 0.5},
                  "attacks": ["smoothing", {"lirpa": {"first": 3}}, {"bab": {"nodes": 9}}]},
        "backdoor": {"scenario": "poisoning", "budget": {"poison_rate": 0.1}, "access": "train_set", "target": 1,
                     "attacks": ["badnets", "blended"]},
        "useless": {"scenario": "unlearnable", "budget": {"poison_rate": 1.0}, "access": "train_set",
                    "attacks": ["cuda"]},
        "leak": {"scenario": "inversion", "access": ["weights", "update"], "budget": {"batch": 1, "trained": False},
                 "attacks": [{"inverting_gradients": {"first": 4}}]},
        "parsed": {"scenario": "parsing", "access": "aux_data", "budget": {"linf": "8/255"}, "evasion": "fgsm",
                   "assumes": {"evasion": {"pgd": {"steps": 3}}}, "attacks": ["convnet4"]},
        "members": {"scenario": "membership", "access": ["scores", "aux_data"], "pool": 10, "shadows": 4,
                    "attacks": ["lira", {"threshold": {"signal": "margin"}}]},
        "stolen": {"scenario": "extraction", "access": ["scores", "aux_data"], "clone": "recipe:cnn_3_relu",
                   "budget": {"linf": "8/255", "queries_total": 50}, "attacks": ["knockoff", "cabage"]},
        "streamed": {"scenario": "adaptation", "batch": 4, "shift": {"imagenet_c": {"corruptions": ["fog"]}}},
        "explained": {"scenario": "explanation", "diffroar": 0.1, "attacks": ["gradient", {"rise": {"masks": 9}}]},
        "scanned": {"scenario": "scan", "access": ["white_box", "aux_data"], "attacks": ["mm_bd", "neural_cleanse"]},
    },
}  # fmt: skip


def test_ids_and_words_of_planned_cells_are_those_of_their_records(monkeypatch: pytest.MonkeyPatch) -> None:
    adapting = DefenseCard("defense", "reestimate", reestimate, "serve", adapts="stream")
    monkeypatch.setitem(registry.cards(), ("defense", "reestimate"), adapting)
    cells = plan(sweep_of(SWEEP, "the test"))
    played = {cell.threat.scenario if cell.threat else "shift" for cell, _ in cells}
    assert played == {"evasion", "certification", "poisoning", "unlearnable", "inversion", "parsing", "membership",
                      "extraction", "adaptation", "scan", "explanation", "shift"}  # fmt: skip
    assert {"run", "refused", "inert", "unmeasured"} == {decision.status for _, decision in cells}
    assert any(cell.subjects.stream for cell, _ in cells)
    assert any(cell.reading.head is not None and cell.threat for cell, _ in cells)
    for cell, _ in cells[:: max(1, len(cells) // 600)]:
        agree(cell)
    ids = [cell.run_id for cell, _ in cells]
    assert len(set(ids)) == len(ids)


def test_cells_of_a_plan_share_their_parts() -> None:
    axes = {"seeds": list(range(5)), "defenses": ["none", "jpeg"]}
    cells = [cell for cell, _ in plan(sweep_of({**SWEEP, **axes}, "the test"))]
    assert len({id(cell.memo) for cell in cells}) == 1
    shifted = {(cell.shift, cell.variant) for cell in cells if cell.threat and cell.shift}
    assert len({id(cell.threat) for cell in cells if cell.threat}) == len(SWEEP["threats"]) + len(shifted)
    few = [cell.subjects for cell in cells if cell.attack and dict(cell.given).get("steps") == 4 and not cell.shift]
    assert len(few) == 2 * 2 * 5
    assert len({id(subjects) for subjects in few}) == 1, "the first pictures are cut once, for all systems and seeds"


VALUES = st.recursive(
    st.sampled_from([0, 0.0, False, 1, 1.0, True, -0.0, 1e-12, math.inf, None, "1", 'a "b"', "ü\n", (1, 2), [1, 2]]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
NET = linear()
SPLITS = [labelled(NET), labelled(NET, n=23), labelled(NET).first(3)]
THREATS = [
    None, Threat("t", "evasion", Access.WHITE_BOX, Linf(8 / 255)), Threat('a "t"', "evasion", Access.SCORES, Linf(1)),
    Threat("t", "evasion", Access.LABELS, L2(math.inf), queries=5, queries_total=7, goal=Targeted()),
    Threat("t", "evasion", Access.SCORES, L2(1.0), goal=OrderedTopK(2)),
    Threat("t", "certification", Access.NONE, L2(1)), Threat("i", "inversion", Access.UPDATE, update=Update(batch=4)),
    Threat("p", "poisoning", Access.TRAIN_SET, goal=ToClass(2), poison=PoisonRate(0.1), target=2),
    Threat("own", "unlearnable", terms=(("limit", 1), ("kind", {"a": [1.0]}))),
]  # fmt: skip
READINGS = [Reading(), Reading(head=tensor([0, 2]), transform="cut"), Reading(head=tensor([0, 1]), transform="cut")]
SHIFTS = [(None, None), ("clean", None), ("fog(x=1)", Variant("fog", 3)), ("edit", Variant("bluer"))]


def fitted(net: nn.Module, training: Training) -> nn.Module:
    """A recipe."""
    return net


def models() -> list[Model]:
    known = lifecycle(NET, SPLITS[0]).model
    behaviour = {"torchvision": "torchvision 0.1", "a": "ö"}
    return [known, replace(known, name='"another"', behaviour=behaviour), replace(known, fit=fitted, sha256="recipe")]


@st.composite
def lifecycles(draw: st.DrawFn) -> Lifecycle:
    card = DefenseCard("defense", "reestimate", reestimate, draw(st.sampled_from(["serve", "train", "share"])))
    asked = [(), (("momentum", 1),), (("momentum", 1.0),), (("momentum", (1, 2)),)]
    defenses = tuple(Applied(card, one) for one in draw(st.lists(st.sampled_from(asked), max_size=2)))
    data = lifecycle(NET, SPLITS[0]).data
    data = replace(data, splits={**data.splits, "train": SPLITS[1], "val": SPLITS[2]})
    return Lifecycle(draw(st.sampled_from(models())), data, defenses, draw(st.integers(0, 3)))


@st.composite
def drawn(draw: st.DrawFn) -> list[Cell]:
    """Cells that share a memo, many of their parts, and values that are equal and yet not the same."""
    memo, attacked = Memo(), AttackCard("attack", "attack", attack, "evasion", needs=Access.SCORES)
    cycles = draw(st.lists(lifecycles(), min_size=1, max_size=3))
    streams = [None, Stream(order="listed", batch=7), Stream(order="shuffled", batch=7)]
    subjects = [Subjects(split, splits, stream=stream) for split in SPLITS for stream in streams
                for splits in (("test",), ("train", "test"), ())]  # fmt: skip
    cells = []
    for _ in range(draw(st.integers(1, 6))):
        threat, (shift, variant) = draw(st.sampled_from(THREATS)), draw(st.sampled_from(SHIFTS))
        parameters: tuple[Any, ...] = draw(st.sampled_from([(), (("value", draw(VALUES)),)])) if threat else ()
        cells.append(Cell(
            draw(st.sampled_from(["s", "another"])), draw(st.sampled_from(cycles)), draw(st.sampled_from(subjects)),
            threat, attacked if threat else None, parameters, shift or (None if threat else "clean"), variant,
            reading=draw(st.sampled_from(READINGS)), memo=memo,
        ))  # fmt: skip
    return cells


@settings(max_examples=150, deadline=None)
@given(drawn())
def test_ids_and_words_of_any_cells_are_those_of_their_records(cells: list[Cell]) -> None:
    for cell in cells:
        agree(cell)
    for cell in cells:
        agree(replace(cell, memo=Memo()))


def test_what_is_equal_and_yet_another_value_is_told_apart() -> None:
    memo, card = Memo(), AttackCard("attack", "attack", attack, "evasion")
    cells = [
        Cell("s", lifecycle(NET, SPLITS[0]), Subjects(SPLITS[0]), THREATS[1], card, (("value", value),), memo=memo)
        for value in (1, 1.0, True)
    ]
    assert SPACE.classes == 3
    assert len({cell.run_id for cell in cells}) == 3
