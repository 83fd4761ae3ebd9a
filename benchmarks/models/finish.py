"""The last steps every loader shares: normalisation inside, the class count checked, the weights named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.config.identity import behaviour_of
from robustsuite.config.threats import Access
from robustsuite.errors import BadModel, BadValue
from robustsuite.integrity.probes import blank
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, Normalised, answering, shown, weights_sha256
from robustsuite.serve.task import TASK

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation, a number a channel."""


def finish(
    name: str, net: nn.Module, space: InputSpace, statistics: Statistics | None = None, note: str = "",
    made_by: tuple[str, ...] = (),
) -> Model:  # fmt: skip
    """A pretrained model. Raises BadModel unless one blank picture (1, C, H, W) gives (1, classes) finite logits.

    They may come among other things (`models.answering`); the hash is that of the network itself all the same.
    made_by: modules whose code decides what the network does, besides those of its layers.
    """
    if statistics is not None:
        net = Normalised(net, *statistics)
    net = net.float().eval()
    answers, logits, one = answering(net, blank(net, space, name), name, space.classes)
    TASK.checked(logits, space, name)
    shows = shown(answers, space)
    if shows == Access.WHITE_BOX:
        answers = channels_last(answers, space)
    behaviour, note = behaviour_of(net, made_by), "; ".join(filter(None, (note, one)))
    return Model(name, answers, space, weights_sha256(net), note=note, behaviour=behaviour, shows=shows)


def channels_last(net: nn.Module, space: InputSpace) -> nn.Module:
    """The network with its weights in NHWC order, faster in convolutions, where it then still says the same."""
    x = torch.linspace(0, 1, 2 * space.channels * space.height * space.width).view(2, *space.shape)
    before = _answer(net, x)
    try:
        after = _answer(net.to(memory_format=torch.channels_last), x)
    except RuntimeError:  # a .view() inside that needs contiguous activations
        after = None
    if after is None or not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(before, after, strict=True)):
        net.to(memory_format=torch.contiguous_format)
    return net


def _answer(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits: Tensor = net(leaf)
    (grad,) = torch.autograd.grad(logits.max(1).values.sum(), leaf, allow_unused=True)
    return logits.detach(), torch.zeros_like(x) if grad is None else grad


def numbers(text: str, what: str, channels: int) -> tuple[float, ...]:
    """'0.5' or '0.49,0.48,0.45' as a number a channel; raises BadValue."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise BadValue(f"expected {what} as {channels} numbers between commas, got {text!r}; for example {what}=0.5")
    return values


def statistics_of(mean: str, std: str, channels: int) -> Statistics | None:
    """Normalisation from two texts; None where both are empty. Raises BadValue where one is, or std is not positive."""
    if not mean and not std:
        return None
    if not (mean and std):
        raise BadValue(f"expected both mean and std, got mean={mean!r} and std={std!r}; give both or neither")
    pair = numbers(mean, "mean", channels), numbers(std, "std", channels)
    if min(pair[1]) <= 0:
        raise BadValue(f"expected std above 0, got {std!r}; it divides the pixels")
    return pair


def eight_bits(pictures: np.ndarray) -> np.ndarray:
    """Pictures in [0, 1] as uint8, for what takes 0 ... 255."""
    levels: np.ndarray = np.rint(pictures * 255).clip(0, 255).astype(np.uint8)
    return levels


def downloaded(error: Exception, name: str, hint: str) -> BadModel:
    """A failed download in a sentence."""
    return BadModel(f"expected to fetch the weights of {name}, got {type(error).__name__} ({in_a_line(error)}); {hint}")


def in_a_line(error: Exception) -> str:
    """The first line of what an error says, of 160 characters at the most."""
    return (str(error).strip().splitlines() or ["no message"])[0][:160]
