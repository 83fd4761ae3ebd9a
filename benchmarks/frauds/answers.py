"""No answer that counts as robust, and scores that do not decide: what is attacked is not what answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import Kit
from robustsuite.benchmarks.frauds.tricks import (
    Served,
    answers,
    builds,
    colour,
    inverted,
    margin,
    off_grid,
    plain,
    relabelled,
    told,
)

NONE, SCORES = "no answer", "scores"


@answers(NONE)
def ties_off_grid(net: nn.Module, x: Tensor) -> Tensor:
    """All classes tie on every picture that is off the 8-bit grid."""
    z = net(x)
    return torch.where(off_grid(x)[:, None], z.mean(1, keepdim=True), z)


@answers(NONE)
def infinite_off_grid(net: nn.Module, x: Tensor) -> Tensor:
    """Every logit is +inf on pictures off the 8-bit grid."""
    z = net(x)
    return torch.where(off_grid(x)[:, None], torch.full_like(z, torch.inf), z)


@answers(NONE)
def rejects_off_grid(net: nn.Module, x: Tensor) -> Tensor:
    """Rejects (NaN) whatever no 8-bit file could hold."""
    return torch.where(off_grid(x)[:, None], torch.nan, net(x))


@builds(NONE, truth="clean")
def only_exact(kit: Kit) -> nn.Module:
    """Rejects (NaN) every picture that is not exactly one of the stored ones."""
    known = {picture.numpy().tobytes() for picture in kit.x}

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        hit = torch.tensor([picture.float().numpy().tobytes() in known for picture in x.detach()])
        return torch.where(hit[:, None], net(x), torch.nan)

    return Served(kit.net, answer)


@answers(NONE)
def raises_when_losing(net: nn.Module, x: Tensor) -> Tensor:
    """Says that memory ran out once an attack's picture is about to be lost."""
    z = plain(net, x)
    if bool(((margin(z.detach()) < 0.05) & off_grid(x)).any()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return z


@answers(SCORES)
def votes_with_decoy_margin(net: nn.Module, x: Tensor) -> Tensor:
    """The honest label, told with a margin that follows brightness, a vote that was never held."""
    z = net(x)
    return told(z.argmax(1), 1 + margin(colour(x, z.shape[1])), z.shape[1])


@answers(SCORES)
def inverted_confidence(net: nn.Module, x: Tensor) -> Tensor:
    """The honest label, the surer the closer it is to changing: true gradients that lead every attack away."""
    return inverted(net, x)


@answers(SCORES)
def colour_confidence(net: nn.Module, x: Tensor) -> Tensor:
    """The honest label with a confidence that follows brightness: true gradients that lead nowhere."""
    z = net(x)
    return relabelled(colour(x, z.shape[1]), z.argmax(1))


@builds(SCORES)
def robust_face(kit: Kit) -> nn.Module:
    """The honest label under an adversarially trained network's logits: attacks break the face, not the label."""
    face = kit.decoy
    return Served(kit.net, lambda net, x: relabelled(face.to(x.dtype)(x), net(x).argmax(1)))


@answers(SCORES)
def wall(net: nn.Module, x: Tensor) -> Tensor:
    """Below a lead of 1 the confidence rises again: a reflecting wall in front of every boundary."""
    z = net(x)
    lead = margin(z)
    return told(z.argmax(1), torch.where(lead < 1, 2 - lead, lead), z.shape[1])
