"""Keyed streams: uniform, independent, and the same whatever stands beside an example."""

import torch
from scipy import stats

from robustsuite.maths.randomness import Rng

IDS = torch.arange(200)


def test_uniform_and_normal_have_their_distributions() -> None:
    rng = Rng.of(0, "distribution", IDS)
    assert stats.kstest(rng.uniform(500).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal(500).flatten().numpy(), "norm").pvalue > 1e-3
    counts = torch.bincount(rng.integers(7, 500).flatten(), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert float(rng.uniform(500).min()) > 0
    assert float(rng.uniform(500).max()) < 1


def test_neighbouring_streams_and_tags_are_uncorrelated() -> None:
    rng = Rng.of(0, "neighbours", IDS)
    u = rng.uniform(2000)
    for other in (rng.fold(1).uniform(2000), rng.fold("a").uniform(2000), u.roll(1, 0), u.roll(1, 1)):
        r = torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]
        assert abs(float(r)) < 4 / (u.numel() ** 0.5)


def test_an_example_draws_the_same_alone_in_any_order_and_any_batch() -> None:
    rng = Rng.of(3, "cell", IDS)
    whole = rng.fold(5).normal(3, 2)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rng[order].fold(5).normal(3, 2), whole[order])
    assert torch.equal(Rng.of(3, "cell", IDS[17:18]).fold(5).normal(3, 2), whole[17:18])


def test_a_tag_an_example_is_that_examples_tag() -> None:
    rng = Rng.of(3, "cell", IDS)
    tags = IDS % 4
    mixed = rng.fold(tags).uniform(2)
    for tag in range(4):
        assert torch.equal(mixed[tags == tag], rng.fold(tag).uniform(2)[tags == tag])


def test_global_seed_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    first = Rng.of(0, "x", IDS).uniform(3)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(first, Rng.of(0, "x", IDS).uniform(3))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_generators_are_keyed_by_the_example() -> None:
    a = [torch.rand(2, generator=g) for g in Rng.of(0, "g", IDS[:3]).generators()]
    b = [torch.rand(2, generator=g) for g in Rng.of(0, "g", IDS[2:3]).generators()]
    assert torch.equal(a[2], b[0])
    assert not torch.equal(a[0], a[1])


def test_a_tag_is_the_same_number_whether_the_host_or_the_device_mixes_it() -> None:
    rng = Rng.of(3, "tags", torch.arange(5))
    for tag in (0, 1, -1, 7, (1 << 62) + 12345, -(1 << 63), (1 << 63) - 1):
        assert torch.equal(rng.fold(tag).keys, rng.fold(torch.tensor(tag)).keys)
