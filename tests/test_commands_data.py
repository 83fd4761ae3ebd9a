"""`robustsuite data check`: what is there, what is missing, what is mapped wrongly, what does not decode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from robustsuite.app.cli import app
from robustsuite.app.commands_data import findings, in_words
from robustsuite.benchmarks.datasets.cifar10 import CLASSES
from robustsuite.errors import BadValue, UnknownName


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ImageNet's val folders with two classes of pictures, and three pictures of ImageNet-R."""
    lines = [f"{i}\tn{i:08d}\tthing {i}" for i in range(12)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    for name in (
        "in/val/n00000003/a",
        "in/val/n00000007/b",
        "r/n00000003/art_0",
        "r/n00000007/toy_1",
        "r/n00000007/toy_2",
    ):
        file = tmp_path / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(file)
    return tmp_path


def imagenet(root: Path) -> dict[str, dict[str, object]]:
    return {"imagenet": {"root": str(root / "in"), "classes_file": str(root / "classes.txt"), "size": 16}}


def test_a_part_is_counted_against_the_published_set(root):
    found = list(findings({"imagenet_r": {"root": str(root / "r")}}, imagenet(root)))
    amiss = [f.text for f in found if not f.good]
    assert len(amiss) == 1
    assert "expected 30000 pictures in 200 classes of imagenet_r" in amiss[0]
    assert "got 3 in 2" in amiss[0]
    texts = [f.text for f in found if f.good]
    assert "toy: 2 pictures, 1 classes" in texts
    assert "head: 2 of 12 classes, indices sum to 10" in texts


def test_a_picture_that_does_not_decode_is_named(root):
    (root / "r" / "n00000007" / "toy_2.jpg").write_bytes(b"no picture")
    amiss = [f.text for f in findings({"imagenet_r": {"root": str(root / "r")}}, imagenet(root)) if not f.good]
    assert any("toy_2.jpg" in text for text in amiss)
    assert not any("toy_1.jpg" in text for text in amiss)


def test_a_permuted_class_list_is_named(root):
    lines = [f"{i}\tn{(i + 5) % 12:08d}\tthing" for i in range(12)]
    (root / "classes.txt").write_text("\n".join(lines))
    amiss = [f.text for f in findings({"imagenet_r": {"root": str(root / "r")}}, imagenet(root)) if not f.good]
    assert amiss
    assert all("permuted" in text for text in amiss)


def test_a_data_set_is_looked_at_by_itself(root):
    found = list(findings(imagenet(root)))
    assert all(f.good for f in found)
    named = [f"{i} 'n{i:08d} thing {i}'" for i in range(10)]
    assert found[0].text == (
        f"classes in order: {', '.join(named)}, ..., "
        f"11 'n00000011 thing 11' (sorted by name); a model's outputs must be in this order"
    )
    assert [f.text for f in found[1:3]] == ["pictures of 16 × 16 pixels", "test: 2 pictures, 2 classes of 12"]


def test_the_order_of_classes_and_what_was_left_aside_are_said(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}").mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{i}" / "x.png")
    (tmp_path / "3" / "y.heic").write_bytes(b"")
    texts = [f.text for f in findings(f"imagefolder:{tmp_path}")]
    assert texts[0].startswith("classes in order: 0 '0', 1 '1', 2 '2'")
    assert "11 '11' (sorted as numbers)" in texts[0]
    assert texts[1] == "1 file of other kinds left aside: .heic"
    assert "9 'truck' (sorted by name)" in in_words(CLASSES)
    assert in_words(("b", "a")) == "0 'b', 1 'a' (the data set's own); a model's outputs must be in this order"


def test_the_command_ends_with_one_where_something_is_amiss(root):
    spec = f"{{imagenet_r: {{root: '{root / 'r'}'}}}}"
    data = str(imagenet(root))
    amiss = CliRunner().invoke(app, ["data", "check", spec, "--data", data])
    assert amiss.exit_code == 1
    assert "amiss expected 30000 pictures" in amiss.output
    fine = CliRunner().invoke(app, ["data", "check", "{scenes: {train: 20, val: 10, test: 10}}"])
    assert fine.exit_code == 0
    assert "all as it should be" in fine.output


def test_what_it_cannot_check_it_says():
    with pytest.raises(BadValue, match="--data"):
        list(findings("imagenet_r"))
    with pytest.raises(UnknownName, match="did you mean 'imagenet"):
        list(findings("imagenet_q"))
