"""The embedded scenes: bytes from a seed, prefixes, masks that agree with the pictures, edits that edit one thing."""

import pytest
import torch

from robustsuite.benchmarks.datasets.scenes import RENDITIONS, Style, render, scenes
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.randomness import Rng

IDS = torch.arange(20)
STREAMS = Rng.of(0, "test", IDS)
PLAIN = Style(noise=0.0)


def test_the_same_seed_gives_the_same_bytes_whatever_the_length():
    short, long, other = (
        scenes(train=8, val=8, test=30),
        scenes(train=9, val=8, test=40),
        scenes(train=8, test=30, seed=1),
    )
    x = short.split("test").images(torch.arange(30))
    assert torch.equal(x, long.split("test").images(torch.arange(30)))
    assert short.split("val").sha256 == long.split("val").sha256
    assert torch.equal(short.split("test").ids, long.split("test").ids[:30])
    assert not torch.equal(x, other.split("test").images(torch.arange(30)))
    assert not torch.equal(x[:8], short.split("train").images(torch.arange(8)))


def test_splits_are_balanced_and_in_range():
    data = scenes(train=40, val=20, test=30)
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 40, "val": 20, "test": 30}
    assert data.split("test").y.bincount().tolist() == [3] * 10
    x = data.split("test").images(torch.arange(30))
    assert x.shape == (30, 3, 32, 32)
    assert x.dtype == torch.float32
    assert 0 <= x.min() <= x.max() <= 1
    assert data.note == "embedded procedural fixture, not a benchmark"


def test_pictures_are_objects_over_backgrounds_by_the_mask():
    scene = render(IDS % 10, STREAMS, style=PLAIN)
    composed = scene.masks * scene.objects + (1 - scene.masks) * scene.backgrounds
    assert torch.allclose(scene.pictures, composed, atol=1e-6)
    share = scene.masks.mean((1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.8


def test_another_background_leaves_object_and_mask():
    one, two = (render(IDS % 10, STREAMS, style=Style(background=b, noise=0.0)) for b in ("plain", "checks"))
    inside = (one.masks == 1).expand_as(one.pictures)
    assert torch.equal(one.masks, two.masks)
    assert torch.equal(one.pictures[inside], two.pictures[inside])
    assert not torch.equal(one.pictures[~inside], two.pictures[~inside])


def test_size_position_and_direction_move_the_mask():
    grid = (torch.arange(32) + 0.5) / 16 - 1

    def mask(**edit: object) -> torch.Tensor:
        return render(
            IDS % 10, STREAMS, style=Style(**{"size": 0.5, "position": (0.0, 0.0), "direction": 1, **edit})
        ).masks

    small, large = mask(size=0.4), mask(size=0.8)
    assert (large.sum((1, 2, 3)) > 3 * small.sum((1, 2, 3))).all()
    left, right = mask(position=(-0.4, 0.0)), mask(position=(0.4, 0.0))
    centre = [(m * grid).sum((1, 2, 3)) / m.sum((1, 2, 3)) for m in (left, right)]
    assert torch.allclose(centre[1] - centre[0], torch.full((20,), 0.8), atol=0.05)
    car = IDS % 10 == 2
    assert not torch.allclose(mask()[car], mask(direction=-1)[car], atol=0.1)


@pytest.mark.parametrize("rendition", RENDITIONS)
def test_renditions_keep_the_mask_and_change_the_picture(rendition):
    plain = render(IDS % 10, STREAMS, style=PLAIN)
    drawn = render(IDS % 10, STREAMS, style=Style(rendition=rendition, noise=0.0))
    assert torch.equal(plain.masks, drawn.masks)
    assert torch.equal(plain.pictures, drawn.pictures) == (rendition == "photo")
    assert 0 <= drawn.pictures.min() <= drawn.pictures.max() <= 1


def test_the_watermark_is_the_same_for_all_and_local():
    plain, marked = (render(IDS % 10, STREAMS, style=Style(noise=0.0, watermark=w)) for w in (False, True))
    touched = (plain.pictures != marked.pictures).any(1).any(0)
    assert 0.05 < touched.float().mean() < 0.5


def test_what_is_not_there_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'sketch'"):
        Style(rendition="sketchy")
    with pytest.raises(UnknownName, match="background"):
        Style(background="sea")
    with pytest.raises(BadValue, match="direction"):
        Style(direction=0)
    with pytest.raises(BadValue, match="at least one"):
        scenes(test=0)
