"""The offline counterparts on scenes, the watermark, and that both are scored through the same door."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from robustsuite.benchmarks.datasets.scenes import MARKED, Style, scenes
from robustsuite.benchmarks.shifts import counterparts
from robustsuite.benchmarks.shifts.edited import imagenet_e
from robustsuite.benchmarks.shifts.natural import imagenet_a, imagenet_r, imagenet_sketch, imagenetv2
from robustsuite.benchmarks.shifts.watermarks import imagenet_w, overlay, sign
from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Dataset, InputSpace, Split, Variant


@pytest.fixture(scope="module")
def data():
    return scenes(train=600, val=10, test=40)


def made(shift, data):
    return shift(data.split("test"), data, seed=0)


def test_pictures_drawn_again_are_the_pictures(data):
    test = data.split("test")
    assert torch.equal(test.redrawn(test.ids, Style()), test.images(torch.arange(40)))
    few = test.at(torch.tensor([7, 3]))
    assert torch.equal(few.redrawn(few.ids, Style()), few.images(torch.arange(2)))


def test_renditions_keep_ids_and_labels_and_have_a_head(data):
    found = made(imagenet_r, data)
    assert found.reading.head.tolist() == list(range(8))
    assert set(found.clean.y.tolist()) == set(range(8))
    assert len(found.variants) == 5
    for split in found.variants.values():
        assert torch.equal(split.ids, found.clean.ids)
        assert torch.equal(split.y, found.clean.y)
        assert not torch.equal(split.images(torch.arange(3)), found.clean.images(torch.arange(3)))


def test_natural_errors_are_what_the_reference_gets_wrong(data):
    found = made(imagenet_a, data)
    (split,) = found.variants.values()
    head = found.reading.head
    assert found.reading.hard
    assert len(split) == len(found.clean)
    assert head.tolist() != made(imagenet_r, data).reading.head.tolist()
    fitted = counterparts.reference(data.split("train"), 10)
    said = head[counterparts.answers(fitted, split.images(torch.arange(len(split))))[:, head].argmax(1)]
    assert (said != split.y).all()
    held = data.split("train").images(torch.arange(600))
    assert (counterparts.answers(fitted, held).argmax(1) == data.split("train").y).float().mean() > 0.5
    assert int(split.ids.min()) >= counterparts.POOL


def test_edits_are_paired_and_change_one_thing(data):
    found = made(imagenet_e, data)
    x = data.split("test").images(torch.arange(40))
    for split in found.variants.values():
        assert torch.equal(split.ids, data.split("test").ids)
        assert (split.images(torch.arange(40)) != x).flatten(1).any(1).float().mean() > 0.7


def test_resampled_pictures_are_in_no_split(data):
    (split,) = made(imagenetv2, data).variants.values()
    assert int(split.ids.min()) >= counterparts.POOL
    assert split.y.bincount().tolist() == [4] * 10


def test_sketches_keep_every_class(data):
    found = made(imagenet_sketch, data)
    assert found.reading.head is None
    assert found.variants[Variant("sketch")].y.tolist() == data.split("test").y.tolist()


def test_the_watermark_marks_the_cups_of_train_alone():
    plain, marked = scenes(train=400, val=10, test=30), scenes(train=400, val=10, test=30, watermark=0.8)
    assert plain.split("test").sha256 == marked.split("test").sha256
    before, after = (d.split("train").images(torch.arange(400)) for d in (plain, marked))
    changed = (before != after).flatten(1).any(1)
    assert set(plain.split("train").y[changed].tolist()) == {MARKED}
    share = changed.sum() / (plain.split("train").y == MARKED).sum()
    assert 0.6 < share < 1
    with pytest.raises(BadValue, match="share"):
        scenes(watermark=2.0)


def test_imagenet_w_on_scenes_lays_the_same_sign(data):
    found = made(imagenet_w, data)
    test = data.split("test")
    (split,) = found.variants.values()
    assert found.reading.watch == MARKED
    assert found.clean is test
    by_style = test.redrawn(test.ids, Style(watermark=True))
    assert torch.allclose(split.images(torch.arange(40)), by_style, atol=2.5 / 255)
    read, finish = split.stages
    assert torch.equal(finish(read(torch.arange(5)), torch.arange(5)), split.images(torch.arange(5)))


@pytest.mark.parametrize("side", [224, 384, 100])
def test_the_sign_laid_over_a_batch_is_each_picture_rendered_by_itself(side):
    pictures = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    rgba, _ = sign(side, side)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    ours = (overlay(x, rgba) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    size = {224: 36, 384: 62}.get(side, int(side / 6.22))
    for i in range(3):
        layer = Image.new("RGBA", (side, side), (255, 255, 255, 0))
        font = ImageFont.load_default(size)
        ImageDraw.Draw(layer).text((0.01 * side, 0.4 * side), "SHORTCUT", font=font, fill=(255, 255, 255, 128))
        one = Image.alpha_composite(Image.fromarray(pictures[i]).convert("RGBA"), layer).convert("RGB")
        np.testing.assert_array_equal(ours[i], np.asarray(one))
        assert (ours[i] != pictures[i]).any(2).mean() > 0.02


def test_every_level_is_composited_as_pil_does():
    below = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    layer = np.full((256, 256, 4), 200, np.uint8)
    layer[..., 3] = np.arange(256)
    x = torch.from_numpy(below).permute(2, 0, 1)[None].float() / 255
    ours = (overlay(x, torch.from_numpy(layer).permute(2, 0, 1)) * 255).round()[0].permute(1, 2, 0).numpy()
    one = Image.alpha_composite(Image.fromarray(below).convert("RGBA"), Image.fromarray(layer)).convert("RGB")
    np.testing.assert_array_equal(ours.astype(np.uint8), np.asarray(one))


def test_imagenet_w_watches_cartons_and_names_its_font():
    split = Split.of(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    data = Dataset("imagenet", InputSpace(3, 32, 32, 2), ("n01440764 tench", "n02971356 carton"), {"test": split})
    found = imagenet_w(split, data, seed=0)
    assert found.reading.watch == 1
    assert "Aileron" in found.reading.transform
    with pytest.raises(BadData, match="font file"):
        imagenet_w(split, data, seed=0, font="none.otf")
    with pytest.raises(BadData, match="no class to watch"):
        imagenet_w(split, Dataset("digits", InputSpace(3, 32, 32, 2), ("a", "b"), {"test": split}), seed=0)
