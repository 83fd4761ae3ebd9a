"""How a network is asked, by whoever asks it: in whole tiles, fed with streams, and left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from robustsuite.maths.randomness import Rng, untouched
from robustsuite.serve.protocols import Stochastic

TILE = 16
"""Batches are padded to a multiple of this. BLAS and convolution kernels treat the last, odd rows differently in the
last bits; with whole tiles an image's logits and gradient are the same bits whatever stands beside it (CPU). Measured:
8 rows are enough for AVX2 kernels, AVX-512 takes 16 (on an AMD EPYC 4 were enough for six nets with either: it is the
machine that says, and a net is asked no questions of ours to find out); layers with more than about a thousand outputs
are split by size all the same."""


class Asked(NamedTuple):
    """The last question of a network that draws nothing: pictures (M, C, H, W) for these rows, and what was answered.

    slope (M, K), grad: of a question about gradients, d loss / d logits and what came of it; None of others.
    """

    rows: Tensor
    x: Tensor
    logits: Tensor
    slope: Tensor | None = None
    grad: Tensor | None = None


def answer(net: nn.Module, x: Tensor, rng: Rng | None = None) -> Tensor:
    """Logits (N, K) of pictures (N, C, H, W), computed in whole tiles; `rng` feeds nets that draw noise."""
    if not len(x):  # a net may not take an empty batch; its width is learnt from one blank picture
        return answer(net, x.new_zeros(1, *x.shape[1:]), None)[:0]
    missing = -len(x) % TILE
    padded = torch.cat([x, *_company(x, missing)]) if missing else x
    if rng is None:
        logits: Tensor = net(padded)
    else:
        with fed(net, Rng(torch.cat([rng.keys, rng.keys[-1:].expand(missing)]) if missing else rng.keys)):
            logits = net(padded)
    return logits[: len(x)] if missing else logits


def _company(x: Tensor, missing: int) -> list[Tensor]:
    """So many pictures, in parts: x mirrored, then moved on by a row at a time, so that none stands there twice."""
    turned, rows, rounds = x.detach().flip(3), x.shape[2], -(-missing // len(x))
    twice = torch.cat([turned, turned], 2) if rounds > 1 else turned
    parts = [twice[:, :, i % rows : i % rows + rows] for i in range(rounds)]
    parts = [part.roll(-(i // rows), 3) if i >= rows else part for i, part in enumerate(parts)]
    return [*parts[:-1], parts[-1][: missing - (rounds - 1) * len(x)]]


def feed(net: nn.Module, rng: Rng | None) -> None:
    """Hand the streams of the coming batch to every module that draws noise; None: they draw the same for any."""
    for module in drawing(net):
        module.rng = rng


@contextmanager
def fed(net: nn.Module, rng: Rng) -> Iterator[None]:
    """Feed one question, and leave no streams behind: what comes next must not answer by what was asked before."""
    feed(net, rng)
    try:
        yield
    finally:
        feed(net, None)


def drawing(net: nn.Module) -> list[Stochastic]:
    """The modules that draw noise."""
    # every question asks this of every module: net.modules() and isinstance take ten times as long
    found, modules = [], {id(net): net}
    queue = list(modules.values())
    for module in queue:
        if "rng" in module.__dict__ or hasattr(type(module), "rng"):
            found.append(module)
        fresh = [m for m in module._modules.values() if m is not None and id(m) not in modules]
        modules.update((id(m), m) for m in fresh)
        queue.extend(fresh)
    return cast("list[Stochastic]", found)


class Metered(nn.Module):
    """Bills each image asked of it, forward and backward; gives the very bits of the bare network: nothing is padded.

    eval() and train() stop here: a peer that calls them must not switch off what a defense does at test time.
    """

    def __init__(self, net: nn.Module, bill: Callable[[int, int], None], streams: Rng) -> None:
        super().__init__()
        self.net, self.bill, self.streams, self.calls = net, bill, streams, 0
        self.training = net.training

    def train(self, mode: bool = True) -> Metered:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.bill(len(x), 0)
        self.calls += 1
        places = torch.arange(len(x), device=self.streams.keys.device)
        with fed(self.net, Rng(self.streams.keys[:1].expand(len(x))).fold(places).fold(self.calls)):
            logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(lambda grad: self.bill(0, len(grad)))
        return logits


@contextmanager
def preserved(net: nn.Module) -> Iterator[list[str]]:
    """Leave the network and the global random states as they were, whatever happens inside.

    Yields a list that is filled, in the end, with the names of parameters and buffers whose values had changed.

    Restores: training flags, parameters' requires_grad and grad, hooks, values of parameters and buffers
    if they changed, and the random states of python, numpy and torch.
    """
    modules = [(m, m.training, {h: dict(getattr(m, h)) for h in _HOOKS if hasattr(m, h)}) for m in net.modules()]
    params = [(p, p.requires_grad, p.grad) for p in net.parameters()]
    names = {id(tensor): name for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    tensors = _kinds([*net.parameters(), *net.buffers()])
    values, changed = [_joined(kind) for kind in tensors], list[str]()
    try:
        with untouched():
            yield changed
    finally:
        for module, training, hooks in modules:
            module.training = training
            for name, saved in hooks.items():
                current = getattr(module, name)
                current.clear()
                current.update(saved)
        for p, requires_grad, grad in params:
            p.requires_grad_(requires_grad)
            p.grad = grad
        with torch.no_grad():
            for kind, value in zip(tensors, values, strict=True):
                pairs = list(zip(kind, value.split([t.numel() for t in kind]), strict=True))
                if value.device.type == "cpu":  # nothing to launch: a second copy would cost more than many looks
                    same = all(torch.equal(tensor.reshape(-1), part) for tensor, part in pairs)
                else:
                    same = torch.equal(_joined(kind), value)
                for tensor, part in () if same else pairs:
                    before = part.view_as(tensor)
                    if not bool(((tensor == before) | (tensor != tensor) & (before != before)).all()):  # NaN is NaN
                        changed.append(names[id(tensor)])
                    tensor.copy_(before)


def _kinds(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors, those of one type and device together."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(kinds.values())


def _joined(tensors: list[Tensor]) -> Tensor:
    """All their values in one row, a copy: one launch however many layers there are."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
