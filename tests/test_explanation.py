"""Explanation: attribution methods and criteria with known answers, and what is never said."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.explanation.rise import drawn
from robustsuite.benchmarks.datasets.blocks import blocks, null_block
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.registry import cards
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import area, blurred, curves, inside, mean_colour, pointed, ranks
from robustsuite.scenarios.explanation.asked import ExplanationSpec
from robustsuite.scenarios.explanation.played import checked, conclude, decide, judged
from robustsuite.scenarios.explanation.retrained import diffroar
from robustsuite.scenarios.record import Record
from robustsuite.serve.data import Split
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle
from tests.test_conformance import NET, X
from tests.toys import labelled, lifecycle, linear, pictures

METHODS = {card.name: card for card in cards().values() if card.kind == "attack" and card.place == "explanation"}
QUICK: dict[str, dict[str, Any]] = {"smoothgrad": {"draws": 4}, "integrated_gradients": {"steps": 5},
                                    "rise": {"masks": 12, "cells": 3}}  # fmt: skip
with torch.no_grad():
    SAID = NET(X).argmax(1)


def maps(name: str, net: nn.Module, x: Tensor, classes: Tensor, *, rows: Tensor | None = None, width: int = 64,
         **given: Any) -> Tensor:  # fmt: skip
    """What a method makes of pictures, asked about these rows."""
    rows = torch.arange(len(x)) if rows is None else rows
    rng = Rng.of(0, "maps", rows)
    model = Oracle.over(net, Access.WHITE_BOX, rng.fold("oracle"), width=width)
    found: Tensor = METHODS[name].function(model, x[rows].clone(), classes[rows], rng=rng, **given)
    return found


@pytest.mark.parametrize(("name", "given"), [
    ("rise", {"masks": 0}), ("rise", {"cells": 0}), ("rise", {"keep": 1.5}), ("rise", {"keep": 0.0}),
    ("smoothgrad", {"draws": 0}), ("smoothgrad", {"noise": -1.0}), ("integrated_gradients", {"steps": 0}),
])  # fmt: skip
def test_a_map_of_nothing_is_refused(name: str, given: dict[str, float]) -> None:
    with pytest.raises(BadValue, match=rf"expected .*, got .*{next(iter(given.values()))}.*; "):
        maps(name, NET, X, SAID, **given)


@pytest.mark.parametrize("name", METHODS)
def test_a_map_is_its_pictures_own_whatever_stands_beside_it(name: str) -> None:
    given, order = QUICK.get(name, {}), torch.arange(11, -1, -1)
    whole = maps(name, NET, X, SAID, **given)
    assert whole.shape == (12, 6, 6)
    alone = torch.cat([maps(name, NET, X, SAID, rows=torch.tensor([i]), width=1, **given) for i in range(12)])
    assert torch.equal(whole, alone)
    assert torch.equal(maps(name, NET, X, SAID, rows=order, width=7, **given), whole[order])
    assert maps(name, NET, X, SAID, rows=order[:0], **given).shape == (0, 6, 6)
    assert not bool((whole.flatten(1).std(1) == 0).any())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_what_its_card_says_and_needs_what_it_says(name: str) -> None:
    card, given, rng = METHODS[name], QUICK.get(name, {}), Rng.of(0, "maps", torch.arange(12))
    model = Oracle.over(NET, card.needs | Access.SCORES, rng, width=5)
    card.function(model, X.clone(), SAID, rng=rng, **given)
    most = card.priced(5, **given)
    assert model.counts.totals() == (12 * most.forwards, 12 * most.backwards)


def test_of_a_linear_net_the_gradients_are_its_weights_and_the_integral_is_exact() -> None:
    net, x = linear(), pictures(6)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    head = net[1]  # type: ignore[index]
    weights = head.weight[y].view(6, 4, 4)
    torch.testing.assert_close(maps("gradient", net, x, y), weights.abs())
    torch.testing.assert_close(maps("smoothgrad", net, x, y, draws=7), weights.abs())
    torch.testing.assert_close(maps("integrated_gradients", net, x, y, steps=3), weights * x[:, 0])


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_integrated_gradients_add_up_to_the_difference_to_their_baseline(baseline: str) -> None:
    start = mean_colour(X) if baseline == "mean" else torch.zeros_like(X)
    with torch.no_grad():
        own = (NET(X) - NET(start)).gather(1, SAID[:, None]).squeeze(1)
    found = maps("integrated_gradients", NET, X, SAID, steps=2000, baseline=baseline).sum((1, 2))
    torch.testing.assert_close(found, own, atol=1e-3, rtol=1e-3)


class Averaged(nn.Module):
    """One convolution, a ReLU, the mean over positions, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).mean((2, 3)))
        return out


def test_grad_cam_by_hand() -> None:
    net, x, y, generator = Averaged(), pictures(5), torch.tensor([0, 1, 2, 1, 0]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        net.head.weight[:, 0].abs_()
        ready(net)
        features = net.features(x)  # type: ignore[operator]
    weights = net.head.weight[y] / 16  # type: ignore[union-attr,index]
    expected = (weights[:, :, None, None] * features).sum(1).relu()
    assert bool((expected > 0).any())
    torch.testing.assert_close(maps("gradcam", net, x, y), expected)


def test_grad_cam_of_a_net_without_positions_says_what_to_use() -> None:
    with pytest.raises(Unsupported, match="use gradient, integrated_gradients or rise"):
        maps("gradcam", linear(), pictures(2), torch.tensor([0, 1]))


class Shares(nn.Module):
    """Two classes, the first with a probability that is linear in the picture: sum of c times x."""

    def __init__(self, c: Tensor) -> None:
        super().__init__()
        self.register_buffer("c", c)

    def forward(self, x: Tensor) -> Tensor:
        p = 0.5 + (x[:, 0] * self.c).sum((1, 2))
        return torch.stack([p, 1 - p], 1).log()


def test_rise_of_a_linear_probability_is_its_weights_under_the_masks_covariance() -> None:
    c = 0.02 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    x, y = pictures(1).repeat(1, 1, 2, 2), torch.tensor([0])
    given = {"cells": 4, "keep": 0.5}
    found = maps("rise", ready(Shares(c)), x, y, masks=6000, width=1000, **given)[0].flatten()
    own = drawn(Rng.of(0, "maps", torch.zeros(6000, dtype=torch.int64)).fold(torch.arange(6000)), 4, 0.5, (8, 8))
    own, others = own.flatten(1), drawn(Rng.of(1, "others", torch.arange(6000)), 4, 0.5, (8, 8)).flatten(1)
    assert float(own.min()) >= 0
    assert float(own.max()) <= 1
    assert own.mean() == pytest.approx(0.5, abs=0.01)
    plain, adds = 0.5 + (c * mean_colour(x)[0, 0]).sum(), (c * (x - mean_colour(x))[0, 0]).flatten()
    p = plain + own @ adds
    torch.testing.assert_close(found, p @ own / 3000)
    limit = torch.cov(others.T) @ adds / 0.5  # what is left, without the masks' own mean, of ever more masks
    assert float(torch.corrcoef(torch.stack([found - p.mean() * own.mean(0) / 0.5, limit]))[0, 1]) > 0.95


def linear_ask(c: Tensor) -> Any:
    """A 'probability' that is the sum of c (H, W) times the picture's one channel."""
    return lambda rows, x: (x[:, 0] * c).sum((1, 2))


def test_deletion_and_insertion_of_a_linear_answer_in_closed_form_and_no_order_is_better() -> None:
    c, ones, zeros = torch.tensor([[4.0, 2.0], [1.0, 3.0]]), torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    ask = linear_ask(c)
    best = ranks(c[None], Rng.of(0, "ties", torch.arange(1)))
    assert best.tolist() == [[0, 2, 3, 1]]
    taken = curves(ask, zeros, ones, best, 8)
    assert taken.tolist() == [[10.0, 3.0, 0.0]]  # all, without 4 and 3, without any
    assert area(taken).tolist() == [(10 / 2 + 3 + 0) / 2]
    given = curves(ask, ones, zeros, best, 1)
    assert given.tolist() == [[0.0, 7.0, 10.0]]
    orders = [torch.tensor([order]) for order in itertools.permutations(range(4))]
    lost = torch.stack([area(curves(ask, zeros, ones, order, 8)) for order in orders])
    kept = torch.stack([area(curves(ask, ones, zeros, order, 8)) for order in orders])
    assert float(lost.min()) == float(area(taken))
    assert float(kept.max()) == float(area(given))
    assert float(lost.mean()) == pytest.approx(5.0)  # chance: half of what there is
    assert float(kept.mean()) == pytest.approx(5.0)


def test_equal_pixels_are_taken_in_a_random_order_of_the_examples_own() -> None:
    rng = Rng.of(0, "ties", torch.arange(50))
    places = ranks(torch.zeros(50, 4, 4), rng)
    assert bool((places.sort(1).values == torch.arange(16)).all())
    assert len({tuple(row) for row in places.tolist()}) == 50
    assert torch.equal(ranks(torch.zeros(1, 4, 4), rng[7:8])[0], places[7])


def test_pointing_and_what_lies_on_the_object_by_hand() -> None:
    found = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    places = ranks(found, Rng.of(0, "ties", torch.arange(2)))
    assert bool(pointed(places, masks)[0])
    assert inside(found, masks).tolist() == [0.75, 0.25]  # a map of nothing has what its area has


def test_a_blur_keeps_what_is_flat_and_the_mean_colour_is_the_pictures() -> None:
    flat = torch.full((1, 3, 20, 20), 0.3)
    torch.testing.assert_close(blurred(flat), flat)
    x = pictures(2)
    torch.testing.assert_close(mean_colour(x)[:, :, 0, 0], x.mean((2, 3)))
    spread = torch.zeros(1, 1, 31, 31)
    spread[0, 0, 15, 15] = 1
    assert blurred(spread).sum() == pytest.approx(1.0)
    assert int((blurred(spread) > 0).sum()) == 11 * 11


def test_what_is_judged_of_maps_and_where_masks_are_not_known_nothing_is_said() -> None:
    c, x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) / 16, pictures(3)
    rng = Rng.of(0, "ties", torch.arange(3))
    columns = judged(linear_ask(c), x, c * (x - blurred(x))[:, 0], None, rng, 64)
    assert not {"pointed", "on_object", "object_area"} & set(columns)
    torch.testing.assert_close(columns["insertion_share"] * columns["confidence"], columns["insertion"])
    flat = judged(linear_ask(c), x, torch.zeros(3, 4, 4), torch.ones(3, 4, 4) / 2, rng, 64)
    assert bool(flat["flat"].all())
    assert not bool(columns["flat"].any())
    assert bool((columns["insertion"] >= flat["insertion"]).all())
    assert flat["object_area"].tolist() == [0.5] * 3


def test_maps_of_another_shape_or_with_nan_are_refused() -> None:
    card: Any = SimpleNamespace(name="mine")
    for wrong in (torch.zeros(3, 1, 4, 4), torch.full((3, 4, 4), torch.nan)):
        with pytest.raises(BadValue, match=r"expected a map of finite numbers .*, \(3, 4, 4\), from mine"):
            checked(wrong, pictures(3), card)


class Refusing(nn.Module):
    """Answers NaN where a picture is darker than 0.45 on average."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return torch.where((x.mean((1, 2, 3)) < 0.45)[:, None], torch.nan, out)


def test_a_system_that_rejects_on_the_way_is_not_measured_and_rise_sees_nothing_left_there() -> None:
    net, x = ready(Refusing(linear())), pictures(2) + torch.tensor([0.15, -0.2]).view(2, 1, 1, 1)
    assert bool(maps("rise", net, x, torch.tensor([0, 1]), masks=30, cells=2).isfinite().all())
    rng = Rng.of(0, "ties", torch.arange(2))

    def ask(rows: Tensor, shown: Tensor) -> Tensor:
        out: Tensor = net(shown).softmax(1)[:, 0]
        return out

    columns = judged(ask, x, torch.rand(2, 4, 4), None, rng, 64)
    assert columns["insertion"].isnan().tolist() == [False, True]
    system: Any = SimpleNamespace(net=net, hides=Access.NONE, surrogate=None)
    context: Any = SimpleNamespace(served=lambda: system, card=METHODS["rise"])
    said = conclude(context, Record(columns, [], 0, 0)).note
    assert said == "no answer on the way of 1 of 2 pictures: what counts these is not measured"
    system = SimpleNamespace(net=net, hides=Access.SCORES, surrogate=linear())
    assert conclude(context, Record(columns, [], 0, 0)).note.startswith("explained through its surrogate; ")


def sided(n: int, seed: int) -> Split:
    """Pictures of noise whose class, 0 to 2, is written into the left half alone, as a bright row."""
    x, y = 0.5 * pictures(n, seed), torch.arange(n) % 3
    for i, k in enumerate(y.tolist()):
        x[i, 0, k, :2] += 0.4
    return Split.of(x, y)


def prototypes(train: Split, val: Split) -> nn.Module:
    """The nearest class mean as a linear net: a training in no time."""
    x, y = train.images(torch.arange(len(train))).flatten(1), train.y
    means = torch.stack([x[y == k].mean(0) for k in range(3)])
    head = nn.Linear(16, 3)
    with torch.no_grad():
        head.weight.copy_(means)
        head.bias.copy_(-means.square().sum(1) / 2)
    return ready(nn.Sequential(nn.Flatten(), head))


def test_diffroar_is_positive_where_the_signal_comes_first_and_negative_where_it_comes_last() -> None:
    splits = sided(300, 1), sided(30, 2), sided(90, 3)
    side = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(4, 4)

    def found(weight: Tensor) -> tuple[float, float]:
        by = lambda x, y, rng: weight.expand(len(x), 4, 4)  # noqa: E731
        first, last = diffroar(by, prototypes, splits, 0.5, 0, width=64, device="cpu")
        return float(first.float().mean()), float(last.float().mean())

    first, last = found(side)
    assert first > 0.8
    assert last < 0.6
    assert found(-side) == (last, first)
    random, same = found(torch.zeros(4, 4))
    assert abs(random - same) < 0.3


def test_diffroar_of_a_model_that_comes_trained_is_refused() -> None:
    net = linear()
    threat = ExplanationSpec(scenario="explanation", attacks=["gradient"], diffroar=0.1).threat("maps")
    cell: Any = SimpleNamespace(lifecycle=lifecycle(net, labelled(net)), threat=threat)
    said = decide(cell)
    assert said is not None
    assert (said.status, said.code) == ("refused", "recipe")
    plain = ExplanationSpec(scenario="explanation", attacks=["gradient"]).threat("maps")
    assert decide(SimpleNamespace(lifecycle=cell.lifecycle, threat=plain)) is None  # type: ignore[arg-type]


def test_beside_captum() -> None:
    attr = pytest.importorskip("captum.attr")
    x = X.clone().requires_grad_()
    saliency = attr.Saliency(NET).attribute(x, target=SAID, abs=True)
    torch.testing.assert_close(maps("gradient", NET, X, SAID), saliency.amax(1))
    integral = attr.IntegratedGradients(NET).attribute(x, target=SAID, n_steps=64, method="riemann_middle")
    torch.testing.assert_close(maps("integrated_gradients", NET, X, SAID, steps=64), integral.sum(1))
    cam = attr.LayerGradCam(NET, NET[1]).attribute(x, target=SAID, relu_attributions=True)  # type: ignore[index]
    torch.testing.assert_close(maps("gradcam", NET, X, SAID), cam[:, 0].detach())


def test_in_blocks_the_digit_is_where_the_mask_says_and_the_other_block_says_nothing() -> None:
    data, plain = blocks(), digits()
    split, own = data.split("test"), plain.split("test")
    x, digit = split.images(torch.arange(60)), own.images(torch.arange(60))
    assert split.masks is not None
    masks = split.masks(split.ids[:60])
    above = masks[:, 0, 0] == 1
    assert 15 < int(above.sum()) < 45
    assert torch.equal(masks[:, :8], 1 - masks[:, 8:])
    assert torch.equal(torch.where(above[:, None, None], x[:, 0, :8], x[:, 0, 8:]), digit[:, 0])
    other = torch.where(above[:, None, None], x[:, 0, 8:], x[:, 0, :8])
    assert torch.equal(other, null_block().expand(60, 8, 8)), "the same in every picture, whatever the class"
    few = split.at(torch.tensor([5, 2]))
    assert few.masks is not None
    assert torch.equal(few.masks(few.ids), masks[[5, 2]])
    assert split.mapped(lambda x, at: x.flip(3), "mirrored").masks is None, "a picture that is moved loses its mask"
