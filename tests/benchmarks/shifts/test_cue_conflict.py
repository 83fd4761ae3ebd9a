"""Shapes with other textures: how a net's sixteen answers are counted, and which pictures count."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from robustsuite.benchmarks.datasets.scenes import Style, grain, render, scenes
from robustsuite.benchmarks.shifts.cue_conflict import CATEGORIES, cue_conflict, members
from robustsuite.errors import BadData, BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import CellRecord
from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.sections.explained import bias
from robustsuite.scenarios import shift
from robustsuite.serve.data import Dataset, InputSpace, Reading, ShiftSet, Split, Variant
from robustsuite.serve.models import ready
from robustsuite.serve.subset import Categories
from robustsuite.serve.system import System

NAMES = list(CATEGORIES)
SPACE = InputSpace(3, 16, 16, 1000)
CLEAN = Split.of(torch.rand(4, 3, 16, 16), torch.arange(4))
DATA = Dataset("imagenet", SPACE, tuple(f"n{i:08d} thing" for i in range(1000)), {"test": CLEAN})


def stored(root: Path, *pairs: tuple[str, str], folder: str = "cue-conflict") -> Path:
    """Pictures named by their cues, whose grey values say both: red the shape's number, green the texture's."""
    for i, (shape, texture) in enumerate(pairs):
        file = root / folder / shape / f"{shape}{i + 1}-{texture}{i + 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * NAMES.index(shape), 10 * NAMES.index(texture), 0)).save(file)
    return root


class By(nn.Module):
    """Answers with a class of the category that the picture's red (0) or green (1) names."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: Tensor) -> Tensor:
        kind = (x[:, self.channel].mean((1, 2)) * 25.5).round().long()
        first = members().int().argmax(1)[kind]
        return 9 * nn.functional.one_hot(first, 1000).to(x.dtype)


def played(found: ShiftSet, net: nn.Module) -> dict[str, Any]:
    split = found.variants[Variant("cue_conflict")]
    record = shift.judged(System(ready(net), SPACE), split, Rng.of(0, "t", split.ids), width=8, reading=found.reading)
    return {name: column.numpy() for name, column in record.columns.items()}


PAIRS = (("cat", "elephant"), ("dog", "dog"), ("bird", "oven"), ("truck", "knife"))


@pytest.mark.parametrize(("channel", "expected"), [(0, 1.0), (1, 0.0)])
def test_who_answers_the_texture_has_no_shape_bias_and_who_answers_the_shape_has_all(
    tmp_path: Path, channel: int, expected: float
) -> None:
    found = cue_conflict(CLEAN, DATA, seed=0, root=str(stored(tmp_path, *PAIRS)), partial=True)
    rows = played(found, By(channel))
    assert len(rows["robust"]) == 3, "a picture whose cues agree says nothing"
    record = CellRecord.model_construct(columns=shift.scenario.columns)
    scores = {score.metric: score for score in cell_scores({"record": record}, rows)}
    assert (scores["shape_bias"].value, scores["shape_bias"].n) == (expected, 3)
    assert scores["cue_rate"].value == 1.0
    assert (rows["by_shape"] == (channel == 0)).all()
    assert (rows["by_texture"] == (channel == 1)).all()


def test_who_answers_neither_has_no_bias_at_all(tmp_path: Path) -> None:
    found = cue_conflict(CLEAN, DATA, seed=0, root=str(stored(tmp_path, *PAIRS)), partial=True)
    rows = played(found, By(2))  # always the first category, which none of these is
    record = CellRecord.model_construct(columns=shift.scenario.columns)
    assert "shape_bias" not in {score.metric for score in cell_scores({"record": record}, rows)}
    assert bias({"shape": 0, "texture": 0}).text == "–"
    assert bias({"shape": 3, "texture": 1, "grade": "SOUND"}).text == "75.0 % (30.1–95.4)"


def test_a_category_is_as_probable_as_its_classes_are_on_average() -> None:
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    net = Categories(nn.Identity(), members())
    p, found = logits.softmax(1), net(logits)
    for k, name in enumerate(NAMES):
        torch.testing.assert_close(found[:, k].exp(), p[:, members()[k]].mean(1), msg=name)
    assert Reading(members()).head_words(1000) == "16 categories of 207 classes, by their mean probability"


def test_edges_and_silhouettes_are_read_where_they_are_and_what_is_missing_is_said(tmp_path: Path) -> None:
    stored(stored(tmp_path, *PAIRS), ("cat", "cat"), folder="filled-silhouettes")
    with pytest.raises(BadData, match=r"expected 1280 pictures in 16 classes of cue_conflict .*, got 4 in 4"):
        cue_conflict(CLEAN, DATA, seed=0, root=str(tmp_path))
    found = cue_conflict(CLEAN, DATA, seed=0, root=str(tmp_path), partial=True)
    assert [variant.corruption for variant in found.variants] == ["cue_conflict", "silhouettes"]
    assert found.variants[Variant("silhouettes")].texture is None
    assert found.reading.note == "4 of 1280 pictures, 4 of 16 classes"
    Image.new("RGB", (16, 16)).save(tmp_path / "cue-conflict" / "cat" / "tabby.png")
    with pytest.raises(BadData, match="expected a name such as cat7-elephant1 in cue-conflict, got 'tabby'"):
        cue_conflict(CLEAN, DATA, seed=0, root=str(tmp_path), partial=True)
    with pytest.raises(BadValue, match="expected the folder of cue_conflict"):
        cue_conflict(CLEAN, DATA, seed=0)


def test_scenes_have_conflicts_of_their_own() -> None:
    data = scenes(train=10, val=10, test=40)
    clean = data.split("test")
    found = cue_conflict(clean, data, seed=0)
    conflict = found.variants[Variant("cue_conflict")]
    assert conflict.texture is not None
    assert bool((conflict.texture != clean.y).all())
    assert len({*((conflict.texture - clean.y) % 10).tolist()}) == 4  # of 40 pictures; all nine of 90
    where = torch.arange(40)
    part = conflict.at(torch.tensor([7, 3]))
    assert part.texture.tolist() == conflict.texture[[7, 3]].tolist()
    apart = (conflict.images(where) - clean.images(where)).abs().amax(1)
    assert clean.masks is not None
    assert float(apart[clean.masks(clean.ids) == 0].max()) < 1e-6, "grounds stay as they are"
    assert bool((apart.amax((1, 2)) > 0.05).all())
    scene = render(clean.y, Rng.of(0, "scenes/test", clean.ids), style=Style(noise=0, texture=1))
    plain = render(clean.y, Rng.of(0, "scenes/test", clean.ids), style=Style(noise=0, grain=0))
    rng = Rng.of(0, "scenes/test", clean.ids).fold("grain")
    added = 0.04 * grain((clean.y + 1) % 10, rng, 32).float()
    inner = (plain.masks == 1) & ((plain.objects > 0.2) & (plain.objects < 0.8)).all(1, keepdim=True)
    light = ((scene.objects - plain.objects) - added).abs().amax(1, keepdim=True)[inner]
    assert float(light.max()) < 0.02, "what differs is the other kind's grain, under the picture's light"


def test_the_categories_are_the_published_lists(shared: Path) -> None:
    lists = json.loads((shared / "data/imagenet/class_lists.json").read_text())["sixteen_class_imagenet_indices"]
    assert {name: members()[k].nonzero().flatten().tolist() for k, name in enumerate(NAMES)} == {
        name: sorted(indices) for name, indices in lists.items()
    }
