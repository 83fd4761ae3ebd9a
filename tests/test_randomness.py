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


def test_the_numbers_of_a_key_are_these() -> None:
    """Stored runs were drawn with them. By hand: SplitMix64 in python's own integers, one number after the other."""
    rng, word = Rng.of(3, "cell", torch.tensor([0, 5, 1 << 40])), (1 << 64) - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return z ^ (z >> 31)

    for row, key in enumerate(rng.keys.tolist()):
        bits = [mixed((key + (i + 1) * 0x9E3779B97F4A7C15) & word) for i in range(40_000)]  # more than a block of them
        unit = torch.tensor([((b >> 41) + 0.5) * 2.0**-23 for b in bits])
        assert torch.equal(rng.uniform(200, 200)[row].flatten(), unit)
        assert torch.equal(rng.uniform(40_000, low=-0.3, high=0.7)[row], -0.3 + (0.7 - -0.3) * unit)
        assert torch.equal(rng.normal(40_000)[row], torch.erfinv(2 * unit - 1) * 2**0.5)
        assert rng.integers(7, 40_000)[row].tolist() == [(b >> 1) % (1 << 62) % 7 for b in bits]


def test_a_draw_leaves_the_keys_and_what_they_are_cut_from_alone() -> None:
    ids, tags = torch.arange(6), torch.arange(6) + 3
    rng = Rng.of(0, "kept", ids)
    keys = rng.keys.clone()
    rng[2:4].fold(1).uniform(5)
    rng.fold(tags).normal(5)
    rng.integers(9, 3)
    assert torch.equal(rng.keys, keys)
    assert torch.equal(tags, torch.arange(6) + 3)
    assert torch.equal(ids, torch.arange(6))
    assert rng.uniform(0).shape == (6, 0)
    assert rng[:0].uniform(3, 2).shape == (0, 3, 2)
    assert rng.uniform().shape == (6,)
