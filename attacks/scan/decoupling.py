"""BTI-DBF: a trigger sought in feature space, beside what the clean task rests on (Xu et al., 2024, ICLR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.features import head_of
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect


class Generator(nn.Module):
    """x + what two scales of convolutions draw for it, in [0, 1]; as it begins, nearly x itself."""

    def __init__(self, channels: int, width: int, seed: int) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(channels, width, 3, 2, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.up = nn.Conv2d(width + channels, channels, 3, 1, 1)
        order = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=order) / max(1, p[0].numel()) ** 0.5)
            self.up.weight.mul_(0.1)  # at the identity itself nothing would say where to go

    def forward(self, x: Tensor) -> Tensor:
        z = functional.relu(self.mid(functional.relu(self.down(x))))
        z = functional.interpolate(z, x.shape[2:])
        out: Tensor = x + torch.tanh(self.up(torch.cat([z, x], 1)))
        return out


@scan.attack(
    needs=Access.WEIGHTS | Access.GRADIENTS | Access.AUX_DATA,
    paper="Xu et al., 2024, Towards reliable and efficient backdoor trigger inversion, ICLR (BTI-DBF)",
    cost=lambda classes, pictures, steps, batch, width, bound: Cost(2 * steps * batch, 2 * steps * batch),
    learns=True,
    differs=(
        "the generator begins as the identity by its last layer's zeros, in place of a training towards it",
        "the network stays in eval mode while the mask is sought: in the authors' code batch norm's statistics move",
        "the generator is two scales of convolutions, not a U-Net",
    ),
    **SCAN,
)
def decoupling(
    suspect: Suspect, *, rng: Rng, pictures: int = 500, steps: int = 100, batch: int = 64, width: int = 16,
    bound: float = 0.1,
) -> Finding:  # fmt: skip
    """A mask of the features that the clean task rests on, then pictures that keep those and lose the others.

    pictures: clean ones, the first so many. steps: of the mask, and of the generator on batches of `batch`; width: its
    filters. bound: the mean squared change of a picture that is free. A class's score is by how much its share of
    answers grows on generated pictures. Raises BadValue.
    """
    if min(pictures, steps, batch, width) < 1 or not bound >= 0:
        given = f"{pictures=}, {steps=}, {batch=}, {width=}, {bound=}"
        raise BadValue(f"expected pictures, steps, batch, width >= 1 and bound >= 0, got {given}; mend it")
    x, y = suspect.clean(pictures)
    layer, inputs = head_of(suspect.net, suspect.space.shape)
    order = torch.Generator().manual_seed(int(rng.integers(2**31 - 1, 1)[0]))
    with torch.no_grad():
        clean, before = inputs(x), suspect.net(x).argmax(1)
    mask = _mask(layer, clean, y, steps)
    generator = Generator(x.shape[1], width, int(rng.fold("drawn").integers(2**31 - 1, 1)[0])).to(x.device)
    optimiser = torch.optim.Adam(generator.parameters(), lr=1e-2)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=order).to(x.device)
        with torch.enable_grad():
            made = generator(x[rows])
            moved = (inputs(_inside(made)) - clean[rows]) / clean.std().clamp_min(1e-6)
            kept, lost = (mask * moved).square().mean(), ((1 - mask) * moved).square().mean()
            far = (made - x[rows]).square().mean()
            loss = torch.where(far > bound, far / bound, 0) + 0.01 * kept - lost
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    with torch.no_grad():
        after = suspect.net(_inside(generator(x))).argmax(1)
    classes = suspect.space.classes
    grown = (torch.bincount(a.cpu(), minlength=classes).double() / len(x) for a in (after, before))
    scores = next(grown) - next(grown)
    return Finding(scores, float(scores.max()), lambda x: _inside(generator(x)).detach())


def _inside(x: Tensor) -> Tensor:
    """The picture in [0, 1], its gradient as if it had been there."""
    return x + (x.clamp(0, 1) - x).detach()


def _mask(layer: nn.Linear, features: Tensor, y: Tensor, steps: int) -> Tensor:
    """Which features (D,) in [0, 1] the clean task rests on: answered right with them, wrong with the others alone."""
    raw = torch.zeros(features.shape[1], device=features.device, requires_grad=True)
    optimiser = torch.optim.Adam([raw], lr=0.1)
    for _ in range(steps):
        with torch.enable_grad():
            mask = raw.sigmoid()
            right = functional.cross_entropy(layer(mask * features), y)
            wrong = functional.cross_entropy(layer((1 - mask) * features), y)
            optimiser.zero_grad()
            (right - wrong).backward()
        optimiser.step()
    return raw.detach().sigmoid()
