"""Networks of prototypes: radii against geometry, against a search, and against what training is to reach."""

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import L2, Linf
from robustsuite.defenses.certifiers.prototypes import prototypes
from robustsuite.defenses.train.prototype_network import Prototypes, prototype_network
from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.prototypes import Parts, agreement, margin, similarities
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is


class Shown(nn.Module):
    """A network of these parts."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.held = parts

    def parts(self) -> Parts:
        return self.held


def random_parts(seed: int, *, negative: bool = True, d: int = 6, k: int = 7, classes: int = 3, each: int = 2) -> Parts:
    net = Prototypes(d, classes, k, each, negative, 0.7, seed).double().requires_grad_(False)
    spread = torch.rand(k, d, generator=torch.Generator().manual_seed(seed)).double()
    net.components.copy_(spread)
    net.reasons.mul_(3.0)
    return net.parts()


def two(sigma: float = 0.5) -> tuple[Parts, Tensor, Tensor]:
    """Two components, each argued for by its own class: the boundary is the plane between them."""
    w = torch.tensor([[0.2, 0.3, 0.5], [0.8, 0.4, 0.1]]).double()
    eye = torch.eye(2).double()
    return Parts(w, eye, torch.zeros_like(eye), torch.tensor(sigma).double(), 1), w[0], w[1]


@pytest.mark.parametrize("sigma", [0.1, 3.0])
def test_of_two_prototypes_the_radius_is_exact_between_them(sigma: float) -> None:
    parts, w, v = two(sigma)
    share = torch.tensor([0.0, 0.1, 0.3, 0.49]).double()
    x = (w + share[:, None] * (v - w)).view(-1, 1, 1, 3)
    distance = (0.5 - share) * (v - w).norm()
    found = prototypes(Shown(parts), x, torch.zeros(4), L2(0.5))
    assert found.prediction.tolist() == [0] * 4
    assert torch.allclose(found.radius, distance, atol=1e-9)


def test_of_two_prototypes_it_never_passes_the_boundary_and_is_half_the_difference_of_distances() -> None:
    parts, w, v = two()
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)).double()
    to_w, to_v = ((x - p).norm(dim=1) for p in (w, v))
    boundary = (to_v.square() - to_w.square()).abs() / (2 * (v - w).norm())
    radius = prototypes(Shown(parts), x.view(-1, 1, 1, 3), torch.zeros(200), L2(0.5)).radius
    assert torch.allclose(radius, (to_v - to_w).abs() / 2, atol=1e-9)
    assert bool((radius <= boundary + 1e-9).all())


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_search_moves_the_answer_inside_the_radius(seed: int, negative: bool) -> None:
    parts = random_parts(seed, negative=negative)
    x = torch.rand(40, 1, 1, 6, generator=torch.Generator().manual_seed(9)).double()
    found = prototypes(Shown(parts), x, torch.zeros(40), L2(0.5))
    assert bool((found.radius > 0.003).any())
    own = torch.arange(6) // 2 == found.prediction[:, None]
    best = torch.full((40,), torch.inf).double()
    x_adv = x.clone()
    for _ in range(60):  # ascend the gap inside the ball, from where it was
        leaf = x_adv.requires_grad_()
        p = agreement(parts, similarities(parts, leaf))
        gap = p.masked_fill(~own, -1.0).amax(1) - p.masked_fill(own, -1.0).amax(1)
        best = torch.minimum(best, gap.detach())
        (g,) = torch.autograd.grad(gap.sum(), leaf)
        step = x_adv.detach() - 0.2 * found.radius.view(-1, 1, 1, 1) * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        moved = (step - x).flatten(1)
        length = moved.norm(dim=1, keepdim=True).clamp_min(1e-12)
        x_adv = (x.flatten(1) + moved * (found.radius[:, None] / length).clamp(max=1)).view_as(x)
    assert float(best.min()) >= -1e-9


def test_the_margin_is_negative_where_another_class_says_more_and_where_it_is_the_root_of_the_bound() -> None:
    parts = random_parts(5)
    x = torch.rand(30, 1, 1, 6, generator=torch.Generator().manual_seed(2)).double()
    s = similarities(parts, x)
    p = agreement(parts, s)
    says = torch.stack([p[:, 2 * c : 2 * c + 2].amax(1) for c in range(3)], 1)
    for c in range(3):
        found = margin(parts, s, torch.full((30,), c))
        others = says[:, [i for i in range(3) if i != c]].amax(1)
        assert torch.equal(found > 0, says[:, c] > others)


def test_training_proves_what_it_is_asked_to() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(128) % 2
    x = 0.5 + 0.2 * (2.0 * y - 1).view(-1, 1, 1, 1) + 0.02 * torch.randn(128, 1, 4, 4, generator=g)
    split = Split.of(x.clamp(0, 1), y)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    fit = prototype_network(as_it_is, components=4, margin=0.5, sigma=5.0, epochs=60, lr=0.05)
    trained = fit(net, Training(split, split, seed=0))
    rows = torch.arange(128)
    found = prototypes(trained, split.images(rows), y, L2(0.5))
    assert torch.equal(found.prediction, trained(split.images(rows)).argmax(1))
    assert float((found.prediction == y).float().mean()) == 1.0
    assert float(found.radius.median()) > 0.4
    fresh = fit.shape(net, Training(split, split, seed=0)).state_dict()
    assert {k: v.shape for k, v in fresh.items()} == {k: v.shape for k, v in trained.state_dict().items()}


def test_errors() -> None:
    parts, *_ = two()
    x = torch.zeros(1, 1, 1, 3)
    with pytest.raises(Unsupported, match="prototype_network"):
        prototypes(nn.Flatten(), x, torch.zeros(1), L2(0.5))
    with pytest.raises(Unsupported, match="l2"):
        prototypes(Shown(parts), x, torch.zeros(1), Linf(0.1))
    with pytest.raises(BadValue, match="components"):
        prototype_network(as_it_is, components=0)
