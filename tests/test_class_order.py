"""Classes in another order than the data's, weak networks and guessers: each has its known flag, or none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.benchmarks.models.weights import read_weights
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine.runner import Runner
from robustsuite.integrity.checks import grade
from robustsuite.integrity.class_order import apart, called, class_order
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import Dataset, InputSpace, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, load_model, ready, weights_sha256
from tests.benchmarks.models.test_huggingface import written
from tests.nets import linear

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DATA = replace(digits(), classes=NAMES)
SWAPPED = ("zero", "two", "one", *NAMES[3:])


@pytest.mark.parametrize(
    ("model", "data", "odd", "permuted"),
    [
        (("cat", "dog"), ("cat", "dog"), 0, False),
        (("Cat", "polar_bear"), ("cat", "Polar Bear"), 0, False),
        (("tench, Tinca tinca", "goldfish"), ("n01440764 tench", "n01443537 Goldfish, Carassius"), 0, False),
        (("n01440764", "n01443537"), ("n01440764 tench", "n01443537 goldfish"), 0, False),
        (("crane", "crane"), ("n02012849 crane", "n03126707 crane"), 0, False),
        (("goldfish", "tench, Tinca tinca"), ("n01440764 tench", "n01443537 goldfish"), 2, True),
        (("dog", "cat", "eel"), ("cat", "dog", "eel"), 2, True),
        (("dog", "cat", "eel"), ("cat", "dog", "cow"), 3, False),
        (("car", "cat"), ("automobile", "cat"), 1, False),
        (("tench", "goldfish"), ("n01440764", "n01443537"), 2, False),
        (("cat", "dog"), ("0", "1"), 0, False),
        (("LABEL_0", "LABEL_1"), ("cat", "dog"), 0, False),
        (("class 0", "class 1"), ("cat", "dog"), 0, False),
        (("1", "0"), ("0", "1"), 2, True),
        (("0", "1", "10", "2"), ("0", "1", "2", "3"), 0, False),
        (("0", "1", "10", *"23456789"), tuple(map(str, range(11))), 9, True),  # folders in the order of words
        (("cat", "dog"), ("cat", "dog", "eel"), 0, False),
        ((), ("cat", "dog"), 0, False),
    ],
)
def test_names_meet_stand_elsewhere_or_say_nothing(
    model: tuple[str, ...], data: tuple[str, ...], odd: int, permuted: bool
) -> None:
    found, other = apart(model, data)
    assert (len(found), other) == (odd, permuted)


def test_what_a_class_is_called() -> None:
    assert called("n01440764 tench, Tinca_tinca") == {"n01440764", "tench", "tinca tinca"}
    assert called("Label_7") == {"7"}
    assert called("n0 x") == {"n0 x"}


def test_answers_confirm_an_order_that_names_do_not() -> None:
    y = np.repeat([0, 1], 50)
    for model, data, right, level in [
        (("tench", "goldfish"), ("n01440764", "n01443537"), y >= 0, None),
        (("tench", "goldfish"), ("n01440764", "n01443537"), y == 0, "warn"),  # half is what a guess would have
        (("tench", "goldfish"), ("goldfish", "tench"), y >= 0, "fail"),
        (("car", "cat"), ("automobile", "cat"), y == 0, None),
        (("car", "cat"), ("automobile", "cat"), y == 1, "warn"),
    ]:
        flag = class_order(model, data, y, right)
        assert (flag and flag.level) == level
    flag = class_order(("tench", "goldfish"), ("n01440764", "n01443537"), y[30:70], y[30:70] >= 0)
    assert flag is not None, "forty pictures are too few"
    assert flag.detail == (
        "2 of 2 classes share no name: output 0 is 'tench' to the model and 'n01440764' in the data; "
        "40 of 40 of their pictures are right"
    )


class Mixed(nn.Module):
    """`linear`, its classes moved on by `shift`; `weak`: on most pictures it says the first class."""

    def __init__(self, shift: int = 0, weak: bool = False) -> None:
        super().__init__()
        self.net, self.shift, self.weak = linear(), shift, weak

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x).roll(self.shift, 1)
        if self.weak:
            plain = (x.sum((1, 2, 3)) * 1000).long() % 8 != 0
            z = torch.where(plain[:, None], z - z.detach() + 9.0 * torch.eye(10).to(z)[0], z)
        return z


def flags(net: nn.Module, classes: tuple[str, ...] = (), n: int = 200) -> tuple[list[str], str]:
    """The names of a cell's flags that are about classes, and its grade by all of them."""
    data = replace(DATA, splits={**DATA.splits, "test": DATA.split("test").first(n)})
    return played(Model("m", ready(net), DATA.space, weights_sha256(net), classes=classes), data)


def played(model: Model, data: Dataset) -> tuple[list[str], str]:
    split, card = data.split("test"), card_of("attack", "fgsm")
    threat = Threat("t", card.place, Access.WHITE_BOX, budget=Linf(0.01))
    cell = Cell("c", Lifecycle(model, data), Subjects(split), threat, card, (), judged=split)
    made, _ = Runner(64).played(cell)
    found = [flag.model_dump() for flag in made["flags"]]
    return [f["name"] for f in found if f["name"] in ("clean_at_chance", "class_order")], grade(found)


def test_a_permuted_id2label_and_shuffled_outputs_are_invalid_and_a_good_net_is_sound() -> None:
    assert flags(Mixed(), NAMES) == ([], "SOUND")
    assert flags(Mixed(), SWAPPED) == (["class_order"], "INVALID")
    assert flags(Mixed(shift=1), NAMES) == (["clean_at_chance"], "INVALID")
    assert flags(Mixed(shift=1), ("nine", *NAMES[:9])) == (["clean_at_chance", "class_order"], "INVALID")
    other = tuple(f"digit {i} of ten" for i in range(10))
    assert flags(Mixed(), other) == ([], "SOUND"), "the answers confirm the order"
    assert flags(Mixed(), other, n=40) == (["class_order"], "PROVISIONAL")


def test_a_weak_network_is_told_from_a_guesser_on_all_pictures() -> None:
    with torch.no_grad():
        x, y = DATA.split("test").images(torch.arange(300)), DATA.split("test").y[:300]
        share = float((Mixed(weak=True)(x).argmax(1) == y).double().mean())
    assert 0.13 < share < 0.3
    assert "clean_at_chance" not in flags(Mixed(weak=True), NAMES, n=300)[0]
    torch.manual_seed(1)
    for guesser in (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Mixed(shift=3)):
        assert flags(guesser)[0] == ["clean_at_chance"]


def test_an_id2label_in_another_order_than_the_folders(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    space = InputSpace(3, 8, 8, 3)
    model = load_model(f"hf:{written(tmp_path)}", space)
    x = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        test = Split.of(x, ready(model.net)(x).argmax(1))
    for classes, found in {("Cat", "dog", "eel"): [], ("dog", "cat", "eel"): ["class_order"]}.items():
        names, grade_ = played(model, Dataset("d", space, classes, {"test": test}))
        assert [name for name in names if name == "class_order"] == found
        assert not found or grade_ == "INVALID"


@pytest.mark.parametrize(
    "beside",
    [{"classes": list(SWAPPED)}, {"class_to_idx": {name: i for i, name in enumerate(SWAPPED)}},
     {"idx_to_class": dict(enumerate(SWAPPED))}, {"id2label": dict(enumerate(SWAPPED))}],
    ids=lambda held: next(iter(held)),
)  # fmt: skip
def test_names_beside_weights_are_the_models(beside: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"model": linear().state_dict(), **beside}, tmp_path / "w.pt")
    model = load_model(f"checkpoint:{tmp_path / 'w.pt'}?arch=python:tests.nets:linear", DATA.space)
    assert model.classes == SWAPPED
    torch.save({"model": linear().state_dict(), "classes": 10}, tmp_path / "w.pt")
    assert read_weights(str(tmp_path / "w.pt")).classes == ()


def test_a_sweep_stores_it_and_grades_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    torch.save({"model": linear().state_dict(), "classes": ["1", "0", *map(str, range(2, 10))]}, tmp_path / "w.pt")
    sweep = {"name": "s", "models": [f"checkpoint:{tmp_path / 'w.pt'}?arch=python:tests.nets:linear"],
             "data": [{"digits": {"first": 60}}],
             "threats": {"t": {"scenario": "evasion", "budget": {"linf": 0.01}, "attacks": ["fgsm"]}}}  # fmt: skip
    scores = rs.run(sweep, out=tmp_path / "run").scores
    (row,) = scores[scores["metric"] == "robust_accuracy"].to_dict("records")
    assert "class_order" in str(row["flags"])
    assert row["grade"] == "INVALID"
