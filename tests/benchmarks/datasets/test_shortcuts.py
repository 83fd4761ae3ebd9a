"""The data set `shortcuts` and its shift set: how often each shortcut tells the truth, and what reading one costs."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from robustsuite.benchmarks.datasets.scenes import watermark
from robustsuite.benchmarks.datasets.shortcuts import SHORTCUTS, balanced, label, shortcuts, uncommon
from robustsuite.benchmarks.shifts.combinations import FLIPPED, every_combination, named
from robustsuite.benchmarks.shifts.sets import imagenet_c
from robustsuite.errors import BadData, BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import shift
from robustsuite.serve.data import Dataset, Variant
from tests.toys import system


@pytest.fixture(scope="module")
def data() -> Dataset:
    return shortcuts(train=60, val=80, test=200)


@pytest.mark.parametrize(("n", "share"), [(2000, 0.95), (330, 0.9), (40, 1.0), (40, 0.0)])
def test_each_shortcut_goes_along_with_each_class_in_exactly_the_stated_share(n: int, share: float) -> None:
    ids = torch.arange(n)
    flipped = uncommon(3, "train", ids, share)
    for y in (0, 1):
        own = flipped[label(ids) == y]
        assert (own.sum(0) == round((1 - share) * len(own))).all()
    if n == 2000:  # independent: both at once as often as chance has it, 0.25 % of 2000, not 5 %
        assert int((flipped[:, 0] & flipped[:, 1]).sum()) < 15
        assert not torch.equal(flipped, uncommon(4, "train", ids, share))


def test_val_has_every_combination_of_each_kind_alike() -> None:
    ids = torch.arange(160)
    for kind, combination in product(range(10), product((False, True), repeat=3)):
        assert int((balanced(ids)[ids % 10 == kind] == torch.tensor(combination)).all(1).sum()) == 2


class Reader(nn.Module):
    """Answers 1 where the sign stands, by what is brighter on its strokes than just beside them."""

    def forward(self, x: Tensor) -> Tensor:
        ink = watermark(x.shape[-1]).float()
        near = (nn.functional.max_pool2d(ink[None, None], 5, 1, 2)[0, 0] > 0).float() - (ink > 0).float()
        strokes = (ink == 1).float()
        on, beside = ((x.mean(1) * at).sum((1, 2)) / at.sum() for at in (strokes, near))
        z = (on - beside) / (1 - beside) - 0.35  # the sign covers 0.65 of what it stands on with white
        return torch.stack([-z, z], 1)


def test_a_net_that_reads_the_watermark_alone_has_the_gap_of_the_share(data: Dataset) -> None:
    test = data.split("test")
    served, made = system(Reader().eval()), every_combination(test, data, seed=0).variants
    rng = Rng.of(0, "t", test.ids)
    assert int(shift.judged(served, test, rng, width=64).columns["robust"].sum()) == 190  # of 200
    for flipped in FLIPPED[:5]:
        right = shift.judged(served, made[Variant(named(flipped))], rng, width=64).columns["robust"]
        assert float(right.float().mean()) == float("watermark" not in flipped)


def test_only_what_is_named_changes(data: Dataset) -> None:
    test = data.split("test").first(20)
    made = every_combination(test, data, seed=0)
    assert len(made.variants) == 8
    assert next(iter(made.variants)).corruption == "as usual"
    rows = torch.arange(20)
    usual = made.variants[Variant("as usual")].images(rows)
    same = uncommon(0, "test", torch.arange(200), 0.95)[:20].any(1).logical_not()
    assert torch.equal(usual[same], test.images(rows)[same])
    for name in SHORTCUTS:
        other = made.variants[Variant(name)]
        changed = (other.images(rows) != usual).flatten(1).float().mean(1)
        assert bool((changed > 0.01).all()), name
        assert torch.equal(other.y, test.y)
    assert len({split.sha256 for split in made.variants.values()}) == 8


def test_other_shift_sets_and_other_data_are_refused_in_a_sentence(data: Dataset) -> None:
    split = data.split("test")
    with pytest.raises(BadData, match="sweep both together"):
        every_combination(split, Dataset("scenes", data.space, data.classes, data.splits), seed=0)
    marked = imagenet_c(split, data, seed=0, corruptions=["fog"], severities=1)
    assert next(iter(marked.variants.values())).images(torch.arange(2)).shape == (2, 3, 32, 32)
    with pytest.raises(BadValue, match="share in"):
        shortcuts(share=1.2)
