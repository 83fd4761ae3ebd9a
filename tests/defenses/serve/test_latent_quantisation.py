"""The latent quantisation filter: flat for who attacks it directly, and broken through its surrogate."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.defenses.serve.latent_quantisation import Coder, hard, latent_quantisation, loss, soft, through
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Training, ready
from robustsuite.serve.system import System
from robustsuite.serve.training import Batch


def halves() -> tuple[nn.Module, Split]:
    """Pictures that are lit on the left or on the right, and a network that weighs the two."""
    g = torch.Generator().manual_seed(0)
    y, lit = torch.arange(256) % 2, torch.zeros(2, 1, 8, 8)
    lit[0, :, :, :4], lit[1, :, :, 4:] = 1, 1
    x = 0.2 + 0.5 * lit[y] * torch.rand(256, 1, 1, 1, generator=g) + 0.05 * torch.randn(256, 1, 8, 8, generator=g)
    net = ready(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    towards = (lit[0] - lit[1]).flatten()
    net[1].weight.copy_(torch.stack([towards, -towards]))
    net[1].bias.zero_()
    return net, Split.of(x.clamp(0, 1), y)


def coder(side: int = 7) -> Coder:
    return Coder(torch.zeros(1, 3, side, side), latent=5, width=2, hidden=8, seed=0)


def test_the_codes_agree_and_the_hard_one_is_flat() -> None:
    z = torch.tensor([-3.0, -0.11, -0.09, 0.0, 0.05, 0.2]).requires_grad_()
    assert hard(z).tolist() == [-1, -1, 1, 1, 1, -1]
    assert torch.equal(soft(z).sign(), hard(z))
    (flat,) = torch.autograd.grad(hard(z).sum(), z)
    (steep,) = torch.autograd.grad(soft(z).sum(), z)
    assert not flat.any()
    assert torch.equal(steep.sign(), -z.sign().detach())


@pytest.mark.parametrize("side", [7, 8])
def test_what_is_drawn_has_the_pictures_shape_and_range(side: int) -> None:
    c = coder(side)
    drawn = c.drawn(hard(c.encode(torch.rand(2, 3, side, side))[0]), c.served)
    assert drawn.shape == (2, 3, side, side)
    assert 0 <= float(drawn.detach().min()) <= float(drawn.detach().max()) <= 1


def test_the_loss_of_an_encoder_that_sees_nothing_is_what_the_formula_says() -> None:
    c, x = coder(), torch.rand(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    for layer in (c.mu, c.log_var, c.served[-2], c.smooth[-2]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    # mu = log s^2 = 0: no divergence, no slope; both decoders draw grey, 0 on [-1, 1].
    expected = 10 * (0.1**2 + 2 * float((2 * x - 1).square().mean()))
    batch = Batch(x, torch.zeros(4), torch.arange(4), torch.Generator(), 0.0)
    assert float(loss(c, batch).detach()) == pytest.approx(expected, rel=1e-4)


def test_directly_it_looks_robust_and_through_its_surrogate_it_falls() -> None:
    net, split = halves()
    sizes = {"latent": 16, "width": 4, "hidden": 32}
    served = ready(latent_quantisation(net, Training(split, split, 0), epochs=30, lr=3e-3, **sizes))
    stand_in, test = ready(through(net, served)), split.first(64)
    x = test.images(torch.arange(64))
    assert torch.equal(served(x), stand_in(x))

    def slope(asked: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(asked(leaf)[:, 0].sum(), leaf)
        return g.abs().amax()

    assert slope(served) == 0 < slope(stand_in)
    card = card_of("attack", "pgd")
    record = evasion.judged(
        System(served, InputSpace(1, 8, 8, 2), surrogate=stand_in, hides=Access.GRADIENTS),
        partial(card.function, steps=20), test, Threat("t", "evasion", Access.WHITE_BOX, Linf(0.3)),
        Rng.of(0, "t", test.ids), width=64, card=card,
    )  # fmt: skip
    share = {name: float(column.float().mean()) for name, column in record.columns.items()}
    assert share["clean_ok"] > 0.7
    assert share["robust_direct"] == share["clean_ok"]
    assert share["robust_surrogate"] < share["clean_ok"] / 2
    assert share["robust"] <= share["robust_surrogate"]
    assert "transfer_beats_direct" in [flag.name for flag in record.flags]


def test_errors() -> None:
    net, split = halves()
    with pytest.raises(BadValue, match="latent"):
        latent_quantisation(net, Training(split, split, 0), latent=0)
