"""Whether a network's gradients tell the truth: missing, frozen, vanishing, or pointing where the answers do not go.

Sources: Athalye et al., 2018, arXiv:1802.00420 (shattered, vanishing gradients); Croce & Hein, 2020, arXiv:2003.01690
(scaled logits starve the cross entropy); Pintor et al., 2022, arXiv:2106.09947 (indicators of attack failure).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from robustsuite.integrity.checks import BENT, BROKEN, TEMPERED, TURNED, Flag
from robustsuite.maths.losses import cross_entropy, margin
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import answer, preserved

STEP = 1e-3
"""h of the central differences, in pixel values."""

WAVES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
"""Low frequencies (rows, columns) of the directions that gradients are compared along."""

COMPARED, STARTED = 8, 16
"""Pictures whose gradients are compared with differences, and whose losses are compared."""

ELSEWHERE = 0.6
"""Median relative error along a step of an attack, or a pattern of all frequencies: more kinks are crossed there."""

FLAT = 0.1
"""Share of pictures around which an honest network may be flat."""

ROUGH = 100
"""Points around a picture at which its margin is compared."""

STARVED = 1e-30
"""A cross entropy gradient below this share of the margin's has vanished: float32 ends at 1e-38."""


def gradients(net: nn.Module, x: Tensor, logits: Tensor, *, moves: bool) -> Iterator[Flag]:
    """Flags about d answers / d pixels at pictures x (N, C, H, W) with these logits (N, K).

    moves: whether nearby pictures have nearby answers, without which finite differences mean nothing.
    """
    top = logits.topk(2, 1).indices
    bounded = x[:COMPARED].clone()
    bounded[:, :, ::4, ::4] = (bounded[:, :, ::4, ::4] > 0.5).to(x.dtype)  # pixels at the bounds for certain
    leaf = torch.cat([x, bounded])
    try:
        grad = _of_the_lead(net, leaf)
    except RuntimeError as error:
        yield Flag("zero_gradients", f"no gradient reaches the pixels: {str(error).splitlines()[0][:120]}")
        return
    if grad is None:
        yield Flag("zero_gradients", "no gradient reaches the pixels")
        return
    if (flag := _health(net, grad, leaf, top)) is not None:
        yield flag
        return
    yield from _scale(net, x[:STARTED], logits[:STARTED], grad[: len(x)][:STARTED])
    lively = (grad[: len(x)] != 0).flatten(1).any(1).nonzero().flatten()
    if moves and (flag := _truth(net, x[lively], top[lively])) is not None:
        yield flag
    few = lively[:STARTED]
    if moves and len(few) and (flag := _turning(net, x[few], top[few], grad[few])) is not None:
        yield flag


def _turning(net: nn.Module, x: Tensor, top: Tensor, grad: Tensor) -> Flag | None:
    """True gradients of a ripple as fine as a level: they turn before an attack's step ends."""
    streams = Rng.of(0, "turning", torch.arange(len(x))).to(str(x.device))
    near = streams.uniform(*x.shape[1:], low=-1 / 255, high=1 / 255)
    there = _of_the_lead(net, (x + near).clamp(0, 1), top)
    if there is None:
        return None
    cosine = float(cosine_similarity(grad.flatten(1), there.flatten(1)).nan_to_num(nan=1.0).median())
    if cosine >= TURNED:
        return None
    words = f"gradients within 1/255 of each other have a median cosine of {cosine:.2f}"
    return Flag("rough_landscape", f"{words}: an attack's step outruns them; average them over points near by")


def _margin(logits: Tensor, top: Tensor) -> Tensor:
    """A difference of two logits (N,): no softmax that could saturate, no max that could switch."""
    pair = logits.gather(1, top)
    return pair[:, 0] - pair[:, 1]


def _of_the_lead(net: nn.Module, x: Tensor, top: Tensor | None = None) -> Tensor | None:
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = net(leaf).nan_to_num(nan=0.0)
        margins = _margin(logits, logits.topk(2, 1).indices if top is None else top)
        (grad,) = torch.autograd.grad(margins.sum(), leaf, allow_unused=True)
    return grad


def _health(net: nn.Module, grad: Tensor, leaf: Tensor, top: Tensor) -> Flag | None:
    """Pictures, or saturated pixels, whose gradient is exactly zero though their answers move."""
    if not bool(torch.isfinite(grad).all()):
        return Flag("zero_gradients", "the gradient has NaN or infinite entries")
    silent = (grad == 0).flatten(1).all(1)
    few = silent[: len(top)].nonzero().flatten()
    # a dead ReLU unit makes an honest network flat around a picture; then its answers do not move either
    if len(few) and (len(few) > FLAT * len(top) or _moves(net, leaf[few], top[few])):
        return Flag("zero_gradients", f"{len(few)} of {len(top)} pictures have a gradient of all zeros")
    grad, all_of = grad[~silent], leaf[~silent]
    grad, leaf = grad[:, :, ::4, ::4], all_of[:, :, ::4, ::4]  # the same places: strides leave some pixels unseen
    saturated, frozen = (leaf == 0) | (leaf == 1), grad == 0
    inner = float(frozen[~saturated].double().mean()) if bool((~saturated).any()) else 0.0
    if bool((saturated & frozen).any()):  # what a network ignores at the bounds it ignores inside, too
        inside = _of_the_lead(net, 0.1 + 0.8 * all_of)
        frozen &= inside is not None and inside[:, :, ::4, ::4] != 0
    outer = float(frozen[saturated].double().mean())
    if outer > 0.05 and outer > 3 * inner:
        words = f"zero on {outer:.0%} of saturated and {inner:.0%} of other pixels: a clamp inside?"
        return Flag("zero_gradients", words)
    return None


def _scale(net: nn.Module, x: Tensor, logits: Tensor, grad: Tensor) -> Iterator[Flag]:
    """Logits so large that the cross entropy has no gradient left in float32, or unusual enough to ask why."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        loss = cross_entropy(net(leaf).nan_to_num(nan=0.0), logits.argmax(1))
        (starved,) = torch.autograd.grad(loss.sum(), leaf)
    gone = starved.flatten(1).abs().amax(1) <= STARVED * grad.flatten(1).abs().amax(1)
    gone &= (grad != 0).flatten(1).any(1)
    if (share := float(gone.double().mean())) > 0.05:
        yield Flag("loss_vanishes", f"cross entropy has no gradient on {share:.0%} of the pictures, the margin has one")
    first, second = logits.topk(2, 1).values.unbind(1)
    margins = float((first - second).median())
    if not TEMPERED[0] <= margins <= TEMPERED[1]:
        yield Flag("logit_scale", f"the first logit leads by {margins:.2g} in the median: scaled or tempered?")


def errors(net: nn.Module, x: Tensor, top: Tensor, waves: int, few: int) -> Tensor:
    """The gradient of the lead of top[:, 0] over top[:, 1] at x (N, C, H, W) against central differences in the box.

    Relative error (few,) of the first, along a step of an attack or in the median of so many low-frequency directions,
    whichever is larger; all are asked for gradients.
    """
    found = _errors(net, x, top, waves, few)
    return torch.maximum(found[:waves].median(0).values, found[waves])


def _errors(net: nn.Module, x: Tensor, top: Tensor, waves: int, few: int, step: float = STEP) -> Tensor:
    """Relative errors (waves + 2, few): along waves, a step of an attack, and a pattern of all frequencies."""
    inside = STEP + (1 - 2 * STEP) * x
    grad, inside, top = _of_the_lead(net, inside, top), inside[:few], top[:few]
    grad = torch.zeros_like(inside) if grad is None else grad[:few]
    streams = Rng.of(0, "pattern", torch.arange(len(inside))).to(str(x.device))
    along = [*directions(inside)[:waves], grad.sign(), streams.uniform(*x.shape[1:], low=-1.0, high=1.0).sign()]
    found = []
    for wave, measured, rounding in _differences(net, inside, top, along, step):
        said = (grad * wave).flatten(1).sum(1)
        found.append((said - measured).abs() / (torch.maximum(said.abs(), measured.abs()) + rounding))
    return torch.stack(found)


def _truth(net: nn.Module, x: Tensor, top: Tensor) -> Flag | None:
    """The gradient against central differences along low-frequency directions, inside the box."""
    if not len(x):
        return None
    found = _errors(net, x, top, len(WAVES), COMPARED)
    if float(found.median()) > BENT or float(found[len(WAVES) :].median(1).values.max()) > ELSEWHERE:
        # kinks of a ReLU network lie within the step; nearer there are fewer of them
        found = torch.minimum(found, _errors(net, x, top, len(WAVES), COMPARED, STEP / 4))
    error, *other = float(found[: len(WAVES)].median()), *found[len(WAVES) :].median(1).values.tolist()
    if max(other) > ELSEWHERE:
        error = max(error, *other)
    if error <= BENT:
        return None
    words = f"gradients differ from finite differences by {error:.0%} in the median (step {STEP:g})"
    return Flag("gradient_mismatch", words, "fail" if error > BROKEN else "warn")


def _differences(
    net: nn.Module, x: Tensor, top: Tensor, along: list[Tensor], step: float = STEP
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each direction, the margin's central difference (N,) along it, and what of it float32 may have made up."""
    for wave in along:
        with torch.no_grad():
            ahead, behind = (net(x + sign * step * wave).nan_to_num(nan=0.0) for sign in (1, -1))
        measured = (_margin(ahead, top) - _margin(behind, top)) / (2 * step)
        yield wave, measured, 1e-6 * ahead.abs().amax(1) / step


def _moves(net: nn.Module, x: Tensor, top: Tensor) -> bool:
    """Whether any of these answers changes along any direction by more than rounding."""
    inside = STEP + (1 - 2 * STEP) * x
    found = _differences(net, inside, top, directions(x))
    return any(bool((measured.abs() > rounding).any()) for _, measured, rounding in found)


def directions(x: Tensor) -> list[Tensor]:
    """Cosine waves (1, 1, H, W) of the lowest frequencies, largest entry 1."""
    rows, columns = (torch.arange(side, device=x.device, dtype=x.dtype) + 0.5 for side in x.shape[2:])
    waves = [
        (math.pi * i * rows / len(rows)).cos()[:, None] * (math.pi * j * columns / len(columns)).cos() for i, j in WAVES
    ]
    return [(wave / wave.abs().max())[None, None] for wave in waves]


def roughness(net: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> float:
    """By how much the margin changes within 1/255, as a share of itself and at most 1, on average.

    Source: Pintor et al., 2022, arXiv:2106.09947. x (N, C, H, W), y (N,).
    """
    changes = []
    with preserved(net), torch.no_grad():
        margins = margin(answer(net, x), y)
        for draw in range(ROUGH):
            noise = rng.fold(draw).uniform(*x.shape[1:], low=-1 / 255, high=1 / 255)
            changes.append(((margin(answer(net, x + noise), y) - margins).abs() / margins.abs()).clamp(max=1))
    return float(torch.stack(changes).nan_to_num(nan=1.0).mean())
