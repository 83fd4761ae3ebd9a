"""What a model's own answers betray: cheap questions asked before any attack, after section 3 of Croce & Hein.

Sources: Croce & Hein, 2020, "Reliable evaluation of adversarial robustness", arXiv:2003.01690 (randomised, softmax
outputs); Croce et al., 2022, arXiv:2202.13711 (answers that depend on the batch); Athalye et al., 2018,
arXiv:1802.00420 (gradients that vanish).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.data import InputSpace
from robustsuite.errors import BadModel
from robustsuite.oracle import preserved


def fits(net: nn.Module, space: InputSpace, name: str) -> None:
    """Ask one blank picture (1, C, H, W). Raises BadModel unless (1, classes) finite numbers come back."""
    try:
        with torch.no_grad():
            out = net(torch.full((1, *space.shape), 0.5, device=_device(net)))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        shape = "x".join(map(str, space.shape))
        raise BadModel(
            f"expected {name} to take {shape} pictures, got an error: {line}; choose data or model to fit"
        ) from error
    checked(out, space, name)


def checked(out: object, space: InputSpace, name: str) -> Tensor:
    """The logits (N, classes). Raises BadModel where they are none."""
    if not isinstance(out, Tensor) or out.ndim != 2:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise BadModel(
            f"expected logits (pictures, classes) from {name}, got {got}; return one tensor of two dimensions"
        )
    if out.shape[1] != space.classes:
        raise BadModel(
            f"expected a {space.classes}-class model for {space.classes}-class data, got {name} with {out.shape[1]} "
            f"classes; choose data or model to fit"
        )
    if not bool(torch.isfinite(out).all()):
        raise BadModel(f"expected finite logits from {name}, got NaN or infinity; check weights and normalisation")
    return out


def _device(net: nn.Module) -> torch.device:
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


class Flag(NamedTuple):
    """What was noticed, by the word reports use, and in figures."""

    name: str
    detail: str


def probe(net: nn.Module, x: Tensor, y: Tensor, space: InputSpace, *, name: str = "the model") -> list[Flag]:
    """The flags of a network on clean pictures x (N, C, H, W) with labels y (N,); 32 pictures tell enough.

    Flags: training_mode, randomised, probabilities_not_logits, batch_dependent, clean_at_chance, zero_gradients.
    Parameters and buffers are left as they were. Raises BadModel where the outputs are no logits of these classes.
    """
    x, y = x.to(_device(net)), y.to(_device(net))
    with preserved(net):
        fits(net, space, name)
        with torch.no_grad():
            logits = checked(net(x), space, name).detach()
            again = net(x).detach()
        flags = [_training(net), _randomised(logits, again), _probabilities(logits), _at_chance(logits, y)]
        if flags[1] is None:  # answers that are random anyway differ in any batch
            flags.append(_batch(net, x, logits))
        flags.append(_gradients(net, x))
    return [flag for flag in flags if flag is not None]


def _training(net: nn.Module) -> Flag | None:
    modes = [type(m).__name__ for m in net.modules() if m.training and not list(m.children())]
    return Flag("training_mode", f"{len(modes)} layers in training mode, {modes[0]} first") if modes else None


def _randomised(logits: Tensor, again: Tensor) -> Flag | None:
    apart = float((logits - again).abs().max())
    return Flag("randomised", f"two calls on the same pictures differ by {apart:.2g}") if apart > 0 else None


def _probabilities(logits: Tensor) -> Flag | None:
    sums = logits.sum(1)
    if bool((logits >= 0).all() and (logits <= 1).all() and ((sums - 1).abs() < 1e-4).all()):
        return Flag("probabilities_not_logits", "every row lies in [0, 1] and sums to 1; return what softmax is given")
    return None


def _at_chance(logits: Tensor, y: Tensor) -> Flag | None:
    """Accuracy that a guesser reaches once in twenty tries or more, as with another pixel range or class order."""
    from scipy.stats import binom

    right, n, classes = int((logits.argmax(1) == y).sum()), len(y), logits.shape[1]
    if binom.sf(right - 1, n, 1 / classes) < 0.05:
        return None
    return Flag("clean_at_chance", f"{right} of {n} right among {classes} classes; check pixel range and class order")


def _batch(net: nn.Module, x: Tensor, logits: Tensor) -> Flag | None:
    """Does an answer depend on what else is in the batch? Asked backwards, in halves, among copies, and alone."""
    half, few = max(1, len(x) // 2), min(4, len(x))
    scale = logits.abs().amax().clamp_min(1e-12)
    with torch.no_grad():
        others = {
            "reordered": net(x.flip(0)).flip(0),
            "in halves": torch.cat([net(part) for part in _chunks(x, half)]),
            "among copies": torch.cat([net(x[i : i + 1].repeat(8, 1, 1, 1))[:1] for i in range(few)]),
            "alone": torch.cat([net(x[i : i + 1]) for i in range(few)]),
        }
    for how, other in others.items():
        apart = float((other - logits[: len(other)]).abs().max() / scale)
        if not apart <= 1e-4:
            return Flag("batch_dependent", f"asked {how}, answers differ by {apart:.2g} of the largest logit")
    return None


def _chunks(x: Tensor, size: int) -> list[Tensor]:
    return [x[i : i + size] for i in range(0, len(x), size)]


def _gradients(net: nn.Module, x: Tensor) -> Flag | None:
    """Pictures, or saturated pixels, whose gradient is exactly zero."""
    bounded = x.clone()
    bounded[:, :, ::4, ::4] = (x[:, :, ::4, ::4] > 0.5).to(x.dtype)  # pixels at the bounds for certain
    leaf = torch.cat([x, bounded]).requires_grad_()
    try:
        logits = net(leaf)
        target = logits.topk(2, 1).indices  # a difference of logits: no softmax that could saturate
        margin = logits.gather(1, target[:, :1]) - logits.gather(1, target[:, 1:])
        (grad,) = torch.autograd.grad(margin.sum(), leaf, allow_unused=True)
    except RuntimeError as error:
        return Flag("zero_gradients", f"no gradient reaches the pixels: {str(error).splitlines()[0][:120]}")
    if grad is None:
        return Flag("zero_gradients", "no gradient reaches the pixels")
    if not bool(torch.isfinite(grad).all()):
        return Flag("zero_gradients", "the gradient has NaN or infinite entries")
    silent = (grad[: len(x)] == 0).flatten(1).all(1)
    if bool(silent.any()):
        return Flag("zero_gradients", f"{int(silent.sum())} of {len(x)} pictures have a gradient of all zeros")
    saturated = (leaf == 0) | (leaf == 1)
    outer = float((grad[saturated] == 0).double().mean())
    inner = float((grad[~saturated] == 0).double().mean()) if bool((~saturated).any()) else 0.0
    if outer > 0.05 and outer > 3 * inner:
        return Flag(
            "zero_gradients", f"zero on {outer:.0%} of saturated and {inner:.0%} of other pixels: a clamp inside?"
        )
    return None


def canaries() -> dict[str, str | float | bool]:
    """What this machine's framework does in the places where versions differ; stored with every result (0.1 s).

    clamp_gradient_at_bound: 1 until torch 2.13, 0 since 2.14. jit_gradients_agree: a scripted function's first and
    later calls. conv_repeats: whether a convolution gives the same bits twice. tf32_matmul, tf32_conv: flags.
    """
    edge = torch.tensor([0.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(edge.clamp(0, 1).sum(), edge)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.linspace(-1, 1, 2 * 8 * 16 * 16, device=device).view(2, 8, 16, 16)
    weight = torch.linspace(-1, 1, 8 * 8 * 9, device=device).view(8, 8, 3, 3)
    first, second = (functional.conv2d(values, weight, padding=1) for _ in range(2))
    return {
        "torch": str(torch.__version__),
        "device": device,
        "clamp_gradient_at_bound": float(slope.mean()),
        "jit_gradients_agree": _jit_agrees(),
        "conv_repeats": bool(torch.equal(first, second)),
        "tf32_matmul": bool(torch.backends.cuda.matmul.allow_tf32),
        "tf32_conv": bool(torch.backends.cudnn.allow_tf32),
        "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
    }


def _jit_agrees() -> bool:
    """The executor rewrites a graph after its first calls; at a bound, gradients have differed between them."""

    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(0.0, 1.0) * 2.0

    x = torch.tensor([0.0, 0.5, 1.0])
    with warnings.catch_warnings():  # tracing is deprecated, and still what exported models come as
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Clamped(), x)
    grads = []
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(traced(leaf).sum(), leaf)[0])
    return all(torch.equal(grads[0], g) for g in grads[1:])
