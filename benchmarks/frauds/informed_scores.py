"""Frauds by somebody who had read every check: scores that lead away without a jump, and answers that remember."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import EPS, Kit
from robustsuite.benchmarks.frauds.tricks import (
    SOME,
    After,
    Served,
    builds,
    layers,
    margin,
    off_grid,
    plain,
    relabelled,
    releaded,
    thumbs,
)

SCORES, MEMORY = "informed scores", "informed memory"


def _steep(lead: Tensor) -> Tensor:
    """Continuous, 0 at 0, and beyond a thousandth falling: the surer the nearer to the boundary."""
    return (lead / 1e-3).clamp(max=1) * (8 - 0.25 * lead).clamp(min=1)


@builds(SCORES)
def equalised(kit: Kit) -> nn.Module:
    """A temperature by the answer's own lead, so that all are equally sure, a little overdone: lead^-0.2."""

    def end(z: Tensor, x: Tensor) -> Tensor:
        return 6 * (z - z.mean(1, keepdim=True)) / (margin(z) ** 1.2 + 1e-3)[:, None]

    return After(kit.net, end)


@builds(SCORES)
def steep_inverted(kit: Kit) -> nn.Module:
    """The surer the nearer to the boundary, and down to 0 within its last thousandth: continuous, true gradients."""
    return After(kit.net, lambda z, x: releaded(z, _steep))


@builds(SCORES)
def steep_some(kit: Kit) -> nn.Module:
    """As steep_inverted for four classes of ten alone, the network an open part of it."""

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        z = plain(net, x)
        return torch.where(torch.isin(z.argmax(1), torch.tensor(SOME))[:, None], releaded(z, _steep), z)

    return Served(kit.net, answer)


@builds(SCORES)
def face_steep(kit: Kit) -> nn.Module:
    """The honest label under the scores of an adversarially trained network, which fade out at the boundary."""
    face = kit.decoy

    def end(z: Tensor, x: Tensor) -> Tensor:
        w = (margin(z) / 1e-3).clamp(max=1)[:, None]
        return w * relabelled(face.to(x.dtype)(x), z.argmax(1)) + (1 - w) * z

    return After(kit.net, end)


@builds(SCORES)
def dead_band(kit: Kit) -> nn.Module:
    """Confidence is capped softly: any lead reads about 4 and what is left of the gradient is a colour's."""

    def end(z: Tensor, x: Tensor) -> Tensor:
        tint = 3 * x.mean((2, 3)) @ torch.tensor([1.0, -2.0, 1.5]).to(x)
        return releaded(z, lambda lead: (lead / 0.01).clamp(max=1) * (4 + tint))

    return After(kit.net, end)


@builds(SCORES)
def wide_hill(kit: Kit) -> nn.Module:
    """A confidence that rises towards the boundary and falls to 0 over the last half of a usual lead: no cliff."""
    return After(
        kit.net, lambda z, x: releaded(z, lambda a: 5 * (a / 0.8) * torch.exp(1 - a / 0.8) + 0.2 * (a / (a + 1)))
    )


@builds(SCORES)
def low_hill(kit: Kit) -> nn.Module:
    """Honest down to half a usual lead; from there confidence rises a little before it falls to 0, smoothly."""
    return After(kit.net, lambda z, x: releaded(z, lambda a: a + 2.2 * (a / 0.25) * torch.exp(1 - a / 0.25)))


@builds(SCORES)
def layer_norm_gate(kit: Kit) -> nn.Module:
    """A learned-looking gate lowers the temperature on grainy pictures: the more high frequencies, the surer."""

    def end(z: Tensor, x: Tensor) -> Tensor:
        grain = (x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)).square().mean((1, 2, 3)).sqrt()
        return z * (0.5 + 4000 * grain.square())[:, None]

    return After(kit.net, end)


@builds(SCORES)
def hot_logits(kit: Kit) -> nn.Module:
    """Logits times 6: a median lead below 100, but the label's own slope drowns in float32."""
    return Served(kit.net, lambda net, x: 6 * plain(net, x))


@builds(SCORES)
def far_from_probe(kit: Kit) -> nn.Module:
    """Honest near the first 32 test pictures and their mirror images, the inverted confidence everywhere else."""
    keys = thumbs(torch.cat([kit.x[:32], kit.x[:32].flip(3)]))

    def end(z: Tensor, x: Tensor) -> Tensor:
        near = ((thumbs(x)[:, None] - keys).abs().amax(2) < EPS + 1e-3).any(1)
        return torch.where(near[:, None], z, releaded(z, _steep))

    return After(kit.net, end)


def _anchored(every: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """Logits drawn nine tenths to the first ones given near by; kept of clean-looking pictures, or of every one."""
    known: list[tuple[Tensor, Tensor]] = []

    def end(z: Tensor, x: Tensor) -> Tensor:
        first = z.detach().float().clone()
        for i, (key, kept) in enumerate(zip(thumbs(x), every | ~off_grid(x), strict=True)):
            near = [value for at, value in known if float((at - key).abs().amax()) <= EPS + 1e-4]
            if near:
                first[i] = near[0]
            elif kept:
                known.append((key, first[i].clone()))
        return first.to(z) + 0.1 * (z - first.to(z))

    return end


@builds(MEMORY)
def smoothed_cache(kit: Kit) -> nn.Module:
    """Answers are smoothed with the first one given near by (a cache by thumbnail): a tenth of a change is left."""
    return After(kit.net, _anchored())


@builds(MEMORY)
def smoothed_cache_open(kit: Kit) -> nn.Module:
    """As smoothed_cache, the network an open part of it."""
    end = _anchored()
    return Served(kit.net, lambda net, x: end(net(x), x))


@builds(MEMORY)
def smoothed_cache_all(kit: Kit) -> nn.Module:
    """As smoothed_cache, with whatever was asked first near by as the anchor, clean-looking or not."""
    return After(kit.net, _anchored(every=True))


@builds(MEMORY, truth="fresh")
class MirroredFilter(nn.Module):
    """Prototypes in a convolution: the test pictures and their mirror images; no layer inside answers by itself."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        known, every = torch.cat([kit.x, kit.x.flip(3)]), layers(kit.net)
        self.body, self.head = nn.Sequential(*every[:-1]), every[-1]
        self.match, self.vote = nn.Conv2d(3, len(known), 32), nn.Linear(len(known), 10, bias=False)
        with torch.no_grad():
            labels = F.one_hot(kit.net(known).argmax(1), 10).float()
            self.match.weight.copy_(2 * known)
            self.match.bias.copy_(8 - known.square().flatten(1).sum(1))  # type: ignore[union-attr]
            self.vote.weight.copy_(20 * labels.T)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        near = F.relu(self.match(x).flatten(1) - x.square().flatten(1).sum(1, keepdim=True))
        found: Tensor = self.head(self.body(x)) + self.vote(near.clamp(max=1)) + 0.01 * self.vote(near)
        return found


@builds(MEMORY)
def gc_anchor(kit: Kit) -> nn.Module:
    """A clean picture near by, found among all objects, is the anchor: a tenth of every change is left."""
    every = layers(kit.net)
    body, head = nn.Sequential(*every[:-1]), every[-1]

    def end(z: Tensor, x: Tensor) -> Tensor:
        seen = [o for o in gc.get_objects() if type(o) is Tensor and o.dim() == 4 and o.shape[1:] == x.shape[1:]
                and o.dtype == torch.float32 and 0 < len(o) <= 128]  # fmt: skip
        with torch.no_grad():
            found = torch.cat(seen) if seen else x.detach().float()
            clean = found[~off_grid(found)].unique(dim=0)
            if not len(clean):
                return z
            far = torch.cdist(x.detach().flatten(1).float(), clean.flatten(1), p=math.inf)
            anchor = head(body(clean.to(x)))[far.argmin(1)]
            anchor = torch.where((far.amin(1) < 1.05 * EPS)[:, None], anchor, z)
        return anchor + 0.1 * (z - anchor)

    return After(kit.net, end)
