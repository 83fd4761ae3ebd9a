"""A filter before the network: a picture is answered as an autoencoder with a binary code draws it.

Kyatham et al. (2020, arXiv 1903.09940, LQ-VAE). The encoder gives mu and log s^2 of a code z (latent);
in training z = mu + tau / 2 s n, n ~ N(0, I). Two decoders draw from

    q = sign(tau^2 - z^2)  (the one that is served),    q_s = softsign(500 (tau^2 - z^2))  (it teaches the encoder),

and with pixels in [-1, 1], KL being that of N(mu, s^2) from N(0, I), a code's mean,

    L = KL + 10 ||x_s - x||^2 + 10 (||d sum mu / dx|| - 0.1)^2 + 10 ||x_q - x||^2.

The sign passes no gradient, so what attacks it directly sees a flat network. Its surrogate answers alike and hands the
gradient on through q_s (straight through: Athalye et al., 2018, arXiv 1802.00420, BPDA).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.training import Batch, Recipe, fitted

TAU, STEEP, SLOPE, WEIGHT = 0.1, 500.0, 0.1, 10.0


class Coder(nn.Module):
    """Pictures (N, C, H, W) in [0, 1] <-> codes (N, latent)."""

    def __init__(self, picture: Tensor, latent: int, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        _, c, self.height, self.width = picture.shape
        self.rows, self.columns = -(-self.height // 4), -(-self.width // 4)
        flat = 2 * width * self.rows * self.columns
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            twice = 2 * width
            for before, out, stride in ((c, width, 1), (width, width, 2), (width, twice, 2), (twice, twice, 1)):
                layers += [nn.Conv2d(before, out, 3, stride, 1), nn.LeakyReLU(0.2)]
            self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, hidden), nn.LeakyReLU(0.2))
            self.mu, self.log_var = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
            self.served, self.smooth = (self._decoder(latent, c, width, hidden, flat) for _ in range(2))

    def _decoder(self, latent: int, c: int, width: int, hidden: int, flat: int) -> nn.Sequential:
        body: list[nn.Module] = []
        for before, out in ((latent, hidden), (hidden, flat)):
            body += [nn.Linear(before, out), nn.LeakyReLU(0.2)]
        body.append(nn.Unflatten(1, (2 * width, self.rows, self.columns)))
        for before, out, stride in ((2 * width, 2 * width, 1), (2 * width, 2 * width, 2), (2 * width, width, 2)):
            body += [nn.ConvTranspose2d(before, out, 3, stride, 1, stride - 1), nn.LeakyReLU(0.2)]
        return nn.Sequential(*body, nn.ConvTranspose2d(width, c, 3, 1, 1), nn.Tanh())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log s^2 (N, latent) of pictures (N, C, H, W) in [0, 1]."""
        entered = self.encoder(2 * x - 1)
        return self.mu(entered), self.log_var(entered)

    def drawn(self, code: Tensor, decoder: nn.Module) -> Tensor:
        """Pictures (N, C, H, W) in [0, 1] of codes (N, latent)."""
        picture: Tensor = decoder(code)[:, :, : self.height, : self.width]
        return (picture + 1) / 2


class Filtered(nn.Module):
    """The network, asked about what the coder draws. through: hand the gradient on through the smooth code."""

    def __init__(self, net: nn.Module, coder: Coder, through: bool = False) -> None:
        super().__init__()
        self.net, self.coder, self.through = net, coder, through

    def forward(self, x: Tensor) -> Tensor:
        mu, _ = self.coder.encode(x)
        code = hard(mu)
        if self.through:
            smooth = soft(mu)
            code = code + (smooth - smooth.detach())
        return self.net(self.coder.drawn(code, self.coder.served))  # type: ignore[no-any-return]


def hard(z: Tensor) -> Tensor:
    """q: 1 within tau of 0, -1 outside."""
    return torch.sign(TAU**2 - z.square())


def soft(z: Tensor) -> Tensor:
    """q_s, the same with a slope."""
    return functional.softsign(STEEP * (TAU**2 - z.square()))


def through(base: nn.Module, served: Filtered) -> nn.Module:
    """The stand-in that attacks go through: the same answers, and a gradient."""
    return Filtered(base, served.coder, through=True)


def untaught(net: nn.Module, training: Training, *, latent: int, width: int, hidden: int, **_: object) -> Filtered:
    """The filter before it has learnt."""
    return Filtered(net, Coder(training.train.images(torch.arange(1)), latent, width, hidden, training.seed))


@stages.serve(
    paper="Kyatham et al., 2020, arXiv:1903.09940",
    hides=Access.GRADIENTS,
    learns=True,
    splits=("train",),
    shape=untaught,
    surrogate=through,
    differs=(
        "what is served encodes by mu, without noise",
        "fewer filters by default, and Adam with one rate; the authors' code has 64 and 128 filters, 1024 hidden units "
        "and RMSprop",
        "the surrogate answers by the hard code; the authors' attack, one FGSM step, answers by the smooth one",
    ),
)
def latent_quantisation(
    net: nn.Module, training: Training, *, latent: int = 64, width: int = 16, hidden: int = 256, epochs: int = 20,
    lr: float = 1e-3,
) -> nn.Module:  # fmt: skip
    """Serve the network on pictures that pass a binary code.

    latent: values of the code; width: filters of the first layers; hidden: units before the code. Raises BadValue.
    Source: arXiv 1903.09940.
    """
    if min(latent, width, hidden, epochs) < 1 or lr <= 0:
        raise BadValue(
            f"expected positive numbers for latent_quantisation, got {latent=}, {width=}, {hidden=}, {epochs=}, {lr=}"
        )
    filtered = untaught(net, training, latent=latent, width=width, hidden=hidden)
    recipe = Recipe(epochs, lambda _: lr, batch=64, optimiser="adamw", weight_decay=0.0)
    unwatched = replace(training, watch=False)  # a coder has no accuracy
    filtered.coder = fitted(filtered.coder, unwatched, recipe, objective=loss)  # type: ignore[assignment]
    return filtered


def loss(coder: nn.Module, batch: Batch) -> Tensor:
    """L of a batch, on pixels in [-1, 1]."""
    assert isinstance(coder, Coder)
    x, leaf = batch.x, batch.x.detach().requires_grad_()
    mu, log_var = (part.float() for part in coder.encode(leaf))
    (slope,) = torch.autograd.grad(mu.sum(), leaf, create_graph=True)
    noise = torch.randn(mu.shape, generator=batch.noise, device=mu.device)
    z = mu + TAU / 2 * (log_var / 2).exp() * noise
    kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).mean()
    # The pictures here are in [0, 1]: twice the slope of the coder on [-1, 1], a quarter of the squared distance.
    length = (slope / 2).flatten(1).square().sum(1).clamp_min(1e-12).sqrt()
    drawn = ((coder.drawn(soft(z), coder.smooth), x), (coder.drawn(hard(z), coder.served), x))
    apart = sum((4 * functional.mse_loss(mine.float(), its) for mine, its in drawn), start=x.new_zeros(()))
    return kl + WEIGHT * (apart + (length - SLOPE).square().mean())
