"""No picture left: nothing to read, nothing classified correctly, nothing proven. Every part must have an answer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from robustsuite.benchmarks.datasets.decode import Preparation, read_pictures
from robustsuite.benchmarks.datasets.folders import imagefolder, lazy
from robustsuite.config.goals import Untargeted, parse_goal
from robustsuite.config.registry import AttackCard, card_of, cards
from robustsuite.config.sets import parse_set
from robustsuite.config.threats import L2, Access, Threat, parse_ball
from robustsuite.defenses.certifiers.lirpa import lirpa
from robustsuite.defenses.certifiers.smoothing import smoothing
from robustsuite.defenses.serve.randomized_smoothing import randomized_smoothing
from robustsuite.errors import MissingPackage
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import certification, evasion, shift
from robustsuite.scenarios.record import Record
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Dataset, Split
from robustsuite.serve.models import ready
from robustsuite.serve.system import System

NONE = torch.zeros(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("imgs")
    pixels = torch.randint(0, 256, (8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, picture in enumerate(pixels.numpy()):
        (root / str(i % 4)).mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / str(i % 4) / f"{i}.png")
    return imagefolder(root=str(root), size=32, resize=32)


def net() -> nn.Module:
    torch.manual_seed(0)
    return ready(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)))


def all_wrong(split: Split) -> Split:
    with torch.no_grad():
        return replace(split, y=(net()(split.images(torch.arange(len(split)))).argmax(1) + 1) % 4)


def test_no_file_is_no_picture_of_the_size_that_is_said(data: Dataset) -> None:
    assert read_pictures([], Preparation(size=24)).shape == (0, 3, 24, 24)
    assert read_pictures([], channels=1).shape == (0, 1, 0, 0)
    nothing = lazy([], Preparation(size=24))
    assert nothing.y.dtype == torch.int64
    assert nothing.images(NONE).shape == (0, 3, 24, 24)


def test_a_size_that_is_not_said_is_that_of_the_first_picture(data: Dataset, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    as_stored = lazy([(tmp_path / "a.png", 0)], Preparation())
    assert as_stored.images(NONE).shape == (0, 3, 10, 20)


def test_every_way_to_ask_a_split_for_no_picture(data: Dataset) -> None:
    test = data.split("test")
    card = card_of("shift", "imagenet_c")
    shifted = card.function(test, data, seed=0, corruptions="all", severities=[1], jpeg_roundtrip=85)
    splits = [test, test.mapped(lambda x, p: x, "same"), data.joined("test").examples, *shifted.variants.values()]
    for split in splits:
        none = split.at(NONE)
        parts = [split.images(NONE), none.images(NONE), *(x for _, x, _ in none.batches(4))]
        assert [part.shape for part in parts] == [(0, 3, 32, 32)] * len(parts)


EVASION = [name for (kind, name), card in cards().items() if kind == "attack" and card.place == "evasion"]


@pytest.mark.parametrize("name", EVASION)
def test_an_attack_with_nothing_to_attack(data: Dataset, name: str) -> None:
    card, split = card_of("attack", name), all_wrong(data.split("test"))
    assert isinstance(card, AttackCard)
    norm = (card.norms or ("linf",))[0]
    ball = parse_set(norm, {"linf": 8 / 255}.get(norm, 1.0))
    goal = Untargeted() if "untargeted" in card.goals else parse_goal({"ordered_topk": 2})
    threat = Threat("t", "evasion", Access.WHITE_BOX | Access.AUX_DATA, ball, goal=goal)
    aux = Aux(data.split("test"), lambda *spec: net())
    for few in (split, split.at(NONE)):
        try:
            record = evasion.judged(
                System(net(), data.space), card.function, few, threat, Rng.of(0, "t", few.ids), width=8, card=card,
                aux=aux,
            )  # fmt: skip
        except MissingPackage:
            pytest.skip("a package is missing")
        assert record.columns["robust"].tolist() == [False] * len(few)


def test_a_shift_of_no_picture(data: Dataset) -> None:
    none = data.split("test").at(NONE)
    record = shift.judged(System(net(), data.space), none, Rng.of(0, "t", none.ids), width=8)
    assert record.columns["robust"].shape == (0,)


@pytest.mark.parametrize("given", [{}, {"bisection": 3}, {"method": "ibp"}], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_certification_over_folders_where_nothing_is_proven(
    data: Dataset, given: dict[str, object], norm: str
) -> None:
    """Neither where every picture is wrong, nor where each right one stands close to the boundary, nor of none."""
    test = data.split("test")
    with torch.no_grad():
        right = replace(test, y=net()(test.images(torch.arange(len(test)))).argmax(1))
    for split, eps in ((all_wrong(test), 0.1), (right, 0.99 if norm == "linf" else 50.0), (test.at(NONE), 0.1)):
        record = certified(data, split, Threat("t", "certification", Access.WHITE_BOX, parse_ball(norm, eps)), given)
        assert record.columns["robust"].tolist() == [False] * len(split)
        assert record.flags == []


def certified(data: Dataset, split: Split, threat: Threat, given: dict[str, object]) -> Record:
    context: Any = SimpleNamespace(
        served=lambda: System(net(), data.space), split=split, threat=threat, rng=Rng.of(0, "t", split.ids), width=8,
        attack=partial(lirpa, **given), card=SimpleNamespace(name="lirpa"),
    )  # fmt: skip
    return certification.conclude(context, certification.play(context))


@pytest.mark.parametrize("sequential", [False, True])
def test_votes_about_no_picture(data: Dataset, sequential: bool) -> None:
    x = torch.zeros(0, 3, 32, 32)
    served = randomized_smoothing(net(), sigma=0.25, n=100)
    found = smoothing(served, x, NONE, L2(0.4), rng=Rng.of(0, "t", NONE), n0=10, n=200, sequential=sequential)
    assert found.prediction.shape == found.radius.shape == (0,)
