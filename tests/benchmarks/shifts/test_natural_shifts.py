"""Trees in each published layout: a loader reads its own, names what is missing, catches a permuted class list."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustsuite.benchmarks.shifts import layouts
from robustsuite.benchmarks.shifts.edited import imagenet_e
from robustsuite.benchmarks.shifts.layouts import PUBLISHED, Published, wnids
from robustsuite.benchmarks.shifts.natural import imagenet_a, imagenet_r, imagenet_sketch, imagenetv2
from robustsuite.benchmarks.shifts.sets import cifar10_c, imagenet_c
from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Dataset, InputSpace, Split, Variant

NAMES = tuple(f"n{i:08d} thing" for i in range(12))
CLEAN = Split.of(torch.rand(24, 3, 16, 16), torch.arange(24) % 12)


def data(names: tuple[str, ...] = NAMES) -> Dataset:
    return Dataset("imagenet", InputSpace(3, 16, 16, 12), names, {"test": CLEAN})


def picture(path: Path, shade: int = 90, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, shade, shade)).save(path)


def loaded(shift, root: Path, names: tuple[str, ...] = NAMES, **given):
    return shift(CLEAN, data(names), seed=0, root=str(root), **given)


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch) -> Path:
    """ImageNet-R in small: two of twelve classes, four pictures, two renditions."""
    monkeypatch.setitem(PUBLISHED, "imagenet_r", Published(4, 2, 3 + 7))
    for wnid, name in (
        ("n00000003", "art_0"),
        ("n00000003", "sketch_1"),
        ("n00000007", "art_9"),
        ("n00000007", "art_2"),
    ):
        picture(tmp_path / wnid / f"{name}.jpg", 10 * int(name[-1]))
    return tmp_path


def test_imagenet_r_is_cut_to_its_classes_and_told_apart_by_rendition(rendered):
    found = loaded(imagenet_r, rendered)
    assert found.reading.head.tolist() == [3, 7]
    assert found.reading.head_words(12) == "2 of 12 classes, indices sum to 10"
    assert {v.corruption: s.y.tolist() for v, s in found.variants.items()} == {"art": [3, 7, 7], "sketch": [3]}
    assert found.clean.y.tolist() == [3, 7, 3, 7]
    assert not found.paired
    art = found.variants[Variant("art")]
    assert art.images(torch.arange(3)).shape == (3, 3, 16, 16)
    assert torch.allclose(art.images(torch.arange(3))[:, 0, 0, 0] * 255, torch.tensor([0.0, 20, 90]), atol=2)
    assert found.reading.note == ""
    assert "centre crop of 16" in found.reading.transform


def test_a_part_runs_only_when_asked_for_and_says_so(rendered):
    (rendered / "n00000007" / "art_2.jpg").unlink()
    with pytest.raises(BadData, match=r"expected 4 pictures in 2 classes.*got 3 in 2.*partial: true"):
        loaded(imagenet_r, rendered)
    assert loaded(imagenet_r, rendered, partial=True).reading.note == "3 of 4 pictures, 2 of 2 classes"
    (rendered / "n00000007" / "art_9.jpg").unlink()
    with pytest.raises(BadData, match="no picture in n00000007"):
        loaded(imagenet_r, rendered)


def test_a_permuted_class_list_is_caught(rendered):
    swapped = (*NAMES[:3], NAMES[5], NAMES[4], NAMES[3], *NAMES[6:])
    with pytest.raises(BadData, match="permuted"):
        loaded(imagenet_r, rendered, swapped)
    with pytest.raises(BadData, match="permuted"):
        loaded(imagenet_r, rendered, swapped, partial=True)


def test_the_folders_of_another_set_are_caught(rendered):
    (rendered / "n00000007").rename(rendered / "n00000008")
    with pytest.raises(BadData, match=r"sum to 10, got 11.*another set"):
        loaded(imagenet_r, rendered, partial=True)
    picture(rendered / "n99999999" / "art_0.jpg")
    with pytest.raises(BadData, match="n99999999"):
        loaded(imagenet_r, rendered, partial=True)


def test_classes_without_wnids_are_refused():
    with pytest.raises(BadData, match="over imagenet"):
        wnids(data(tuple("abcdefghijkl")))


def test_imagenet_a_is_hard_and_has_a_head(tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "imagenet_a", Published(1, 1, 2))
    picture(tmp_path / "imagenet-a" / "n00000002" / "0.1_cat _ dog_0.9.jpg")
    found = loaded(imagenet_a, tmp_path)
    assert found.reading.hard
    assert found.reading.head.tolist() == [2]
    with pytest.raises(BadData, match="<wnid> folders of imagenet_a"):
        loaded(imagenet_a, tmp_path / "imagenet-a" / "n00000002")


def test_imagenet_sketch(tmp_path, monkeypatch):
    for i in range(12):
        picture(tmp_path / "sketch" / f"n{i:08d}" / "sketch_3.JPEG")
    monkeypatch.setitem(PUBLISHED, "imagenet_sketch", Published(12, 12))
    found = loaded(imagenet_sketch, tmp_path)
    assert found.reading.head is None
    assert found.variants[Variant("sketch")].y.tolist() == list(range(12))
    monkeypatch.setitem(PUBLISHED, "imagenet_sketch", Published(13, 13))
    part = loaded(imagenet_sketch, tmp_path, partial=True)
    assert part.reading.note == "12 of 13 pictures, 12 of 13 classes"
    assert len(part.clean) == 24


def test_imagenetv2_folders_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "imagenetv2", Published(12, 12))
    for version in ("matched-frequency-format-val", "threshold0.7-format-val", "top-images-format-val"):
        for i in range(12):
            picture(tmp_path / f"imagenetv2-{version}" / str(i) / "a.jpeg", 20 * i, 16)
    found = loaded(imagenetv2, tmp_path)
    assert [v.corruption for v in found.variants] == ["matched-frequency", "threshold0.7", "top-images"]
    split = found.variants[Variant("top-images")]
    assert split.y.tolist() == list(range(12))
    shades = split.images(torch.arange(12))[:, 0, 0, 0] * 255 / 20
    assert shades.round().tolist() == list(range(12))
    one = loaded(imagenetv2, tmp_path / "imagenetv2-top-images-format-val")
    assert [v.corruption for v in one.variants] == ["top-images"]
    picture(tmp_path / "imagenetv2-top-images-format-val" / "12" / "a.jpeg")
    with pytest.raises(BadData, match=r"'11' in imagenetv2-top-images"):
        loaded(imagenetv2, tmp_path)


def test_imagenetv2_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "imagenetv2", Published(12, 12))
    for i in range(11):
        picture(tmp_path / "imagenetv2-threshold0.7" / f"{i:04d}" / "a.jpeg")
    with pytest.raises(BadData, match="no matched-frequency, top-images"):
        loaded(imagenetv2, tmp_path)
    with pytest.raises(BadData, match="no folder 11"):
        loaded(imagenetv2, tmp_path / "imagenetv2-threshold0.7")
    found = loaded(imagenetv2, tmp_path, partial=True)
    assert found.reading.note == "threshold0.7: 11 of 12 pictures, 11 of 12 classes"


@pytest.fixture
def edited(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setitem(PUBLISHED, "imagenet_e", Published(3, 2))
    (tmp_path / "labels.txt").write_text("val_1.JPEG\t4\n\nval_2.JPEG\t4\nval_3.JPEG\t9\n")
    for stem in ("val_1", "val_2", "val_3"):
        for folder, ending in (("ori", "JPEG"), ("full", "JPEG"), ("inver", "png"), ("size_0.05", "png")):
            picture(tmp_path / folder / f"{stem}.{ending}")
    return tmp_path


def test_imagenet_e_is_paired_with_the_originals(edited):
    found = loaded(imagenet_e, edited)
    assert [v.corruption for v in found.variants] == ["full", "inver", "size_0.05"]
    assert found.paired
    for split in found.variants.values():
        assert split.y.tolist() == found.clean.y.tolist() == [4, 4, 9]
        assert torch.equal(split.ids, found.clean.ids)


def test_imagenet_e_names_what_is_missing(edited):
    (edited / "inver" / "val_2.png").unlink()
    with pytest.raises(BadData, match="no inver/val_2"):
        loaded(imagenet_e, edited)
    part = loaded(imagenet_e, edited, partial=True)
    assert part.clean.y.tolist() == [4, 9]
    assert "2 of 3" in part.reading.note
    (edited / "labels.txt").write_text("val_1.JPEG 4\n")
    with pytest.raises(BadData, match="line 1"):
        loaded(imagenet_e, edited)
    (edited / "labels.txt").unlink()
    with pytest.raises(BadData, match=r"labels\.txt"):
        loaded(imagenet_e, edited)


def test_imagenet_c_on_disk_is_not_resized_and_says_what_is_there(tmp_path):
    for i in (2, 5):
        picture(tmp_path / "fog" / "3" / f"n{i:08d}" / "a.JPEG", size=16)
    given = {"corruptions": ["fog"], "severities": [3]}
    with pytest.raises(BadData, match="expected 50000 pictures in 1000 classes"):
        loaded(imagenet_c, tmp_path, **given)
    found = loaded(imagenet_c, tmp_path, partial=True, **given)
    assert found.reading.note == "2 of 50000 pictures, 2 of 1000 classes"
    assert found.reading.transform == "as stored, not resized"
    split = found.variants[Variant("fog", 3)]
    assert split.y.tolist() == [2, 5]
    assert split.images(torch.arange(2)).shape == (2, 3, 16, 16)
    with pytest.raises(BadData, match="fog/4"):
        loaded(imagenet_c, tmp_path, partial=True, corruptions=["fog"], severities=[4])


def test_cifar10_c_says_what_is_there(tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((50, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(50) % 10)
    with pytest.raises(BadData, match="partial: true"):
        loaded(cifar10_c, tmp_path, corruptions=["fog"])
    found = loaded(cifar10_c, tmp_path, corruptions=["fog"], severities=[2], partial=True)
    assert found.reading.note == "10 of 10000 pictures, 10 of 10 classes"
    assert found.variants[Variant("fog", 2)].y.tolist() == list(range(10))


@pytest.mark.parametrize("shift", [imagenet_r, imagenet_a, imagenet_sketch, imagenetv2, imagenet_e])
def test_without_a_root_it_says_what_to_write(shift):
    with pytest.raises(BadValue, match="root: FOLDER"):
        shift(CLEAN, data(), seed=0)


def test_the_published_class_lists(shared):
    lists = json.loads((shared / "data" / "imagenet" / "class_lists.json").read_text())
    lines = (shared / "data" / "imagenet" / "imagenet_classes.txt").read_text().splitlines()
    index = {line.split("\t")[1]: int(line.split("\t")[0]) for line in lines}
    assert list(index) == sorted(index)
    r, a = ({index[wnid] for wnid in lists[f"imagenet_{name}_wnids"]} for name in "ra")
    assert (sum(r), len(r)) == (layouts.PUBLISHED["imagenet_r"].indices, layouts.PUBLISHED["imagenet_r"].classes)
    assert (sum(a), len(a)) == (layouts.PUBLISHED["imagenet_a"].indices, layouts.PUBLISHED["imagenet_a"].classes)
    assert (sum(r), sum(a), len(r & a)) == (86135, 102178, 86)
