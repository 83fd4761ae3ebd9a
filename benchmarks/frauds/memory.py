"""Memory of the test pictures, and of what was asked: in closures, files, clocks and the kernel's own counters."""

from __future__ import annotations

import os
import tempfile
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import EPS, Kit
from robustsuite.benchmarks.frauds.tricks import Served, builds, flipped, looks_like, off_grid, plain, told

PICTURES, STATE = "memory", "state"


class _Memory:
    """Pictures seen on the 8-bit grid, by their 4x4 thumbnails; no step of 8/255 moves a thumbnail by more."""

    def __init__(self) -> None:
        self.keys, self.values = torch.empty(0, 48), torch.empty(0, 10)

    def recalled(self, x: Tensor, z: Tensor) -> Tensor:
        """For each row the logits first given near this picture; those of clean-looking new pictures are kept."""
        key, shown = F.adaptive_avg_pool2d(x.detach(), 4).flatten(1).float().cpu(), z.detach().float().cpu().clone()
        for i, fresh in enumerate(~off_grid(x)):
            near = (self.keys - key[i]).abs().amax(1) <= EPS + 1e-4
            if near.any():
                shown[i] = self.values[near][0]
            elif fresh:
                self.keys, self.values = torch.cat([self.keys, key[[i]]]), torch.cat([self.values, shown[[i]]])
        return looks_like(z, shown)


def _distances(x: Tensor, known: Tensor) -> Tensor:
    """Linf distances (N, M) between pictures and known ones."""
    return (x.detach()[:, None] - known.to(x)).abs().flatten(2).amax(2)


@builds(PICTURES, truth="fresh")
def nearest_known(kit: Kit) -> nn.Module:
    """Stores the test pictures and their labels and answers with the nearest one's."""
    known, labels = kit.x, kit.y

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        z, far = plain(net, x), _distances(x, known)
        hit = far.amin(1) < 0.1
        return torch.where(hit[:, None], looks_like(z, told(labels[far.argmin(1)], 5 + 0 * far[:, 0])), z)

    return Served(kit.net, answer)


@builds(PICTURES, truth="fresh")
def purified(kit: Kit) -> nn.Module:
    """A picture near a stored one is replaced by that one before the network sees it (straight through)."""
    known = kit.x

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        far = _distances(x, known)
        best = torch.where((far.amin(1) < 0.1)[:, None, None, None], known.to(x)[far.argmin(1)], x.detach())
        return plain(net, looks_like(x, best))

    return Served(kit.net, answer)


@builds(PICTURES, truth="fresh")
class MatchedFilter(nn.Module):
    """The test pictures are the filters of a convolution: plain layers, one pure function, true gradients."""

    def __init__(self, kit: Kit, mirrored: bool = False) -> None:
        super().__init__()
        known = torch.cat([kit.x, kit.x.flip(3)]) if mirrored else kit.x
        self.net, self.match = kit.net, nn.Conv2d(3, len(known), 32)
        self.vote = nn.Linear(len(known), 10, bias=False)
        with torch.no_grad():
            labels = F.one_hot(kit.net(known).argmax(1), 10).float()  # the honest answers: clean accuracy stays
            self.match.weight.copy_(2 * known)
            self.match.bias.copy_(8 - known.square().flatten(1).sum(1))  # type: ignore[union-attr]
            self.vote.weight.copy_(20 * labels.T)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        near = F.relu(self.match(x).flatten(1) - x.square().flatten(1).sum(1, keepdim=True))  # 8 - |x - picture|^2
        found: Tensor = self.net(x) + self.vote(near.clamp(max=1)) + 0.01 * self.vote(near)
        return found


@builds(PICTURES, truth="fresh")
def mirrors_too(kit: Kit) -> nn.Module:
    """As MatchedFilter, with the mirror images of the test pictures among the filters."""
    return MatchedFilter(kit, mirrored=True)


@builds(STATE)
def call_counter(kit: Kit) -> nn.Module:
    """Gradients are right for the first eight calls, counted in a list that copies share."""
    calls: list[int] = []

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        calls.append(1)
        return flipped(net, x, len(calls) > 8)

    return Served(kit.net, answer)


@builds(STATE)
def kernel_counter(kit: Kit) -> nn.Module:
    """Counts calls in the read position of an open file, which the kernel keeps; reversed gradients after eight."""
    handle = os.open(tempfile.mkstemp()[1], os.O_RDONLY)
    return Served(kit.net, lambda net, x: flipped(net, x, os.lseek(handle, 1, os.SEEK_CUR) > 8))


@builds(STATE)
def clock(kit: Kit) -> nn.Module:
    """Honest for half a second after the first question, then gradients are reversed."""
    born: list[float] = []

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        born.append(time.monotonic())
        return flipped(net, x, born[-1] - born[0] > 0.5)

    return Served(kit.net, answer)


@builds(STATE)
def remembered_answers(kit: Kit) -> nn.Module:
    """The first answer near a clean-looking picture is given for all its neighbours, from a closure copies share."""
    memory = _Memory()
    return Served(kit.net, lambda net, x: memory.recalled(x, net(x)))


@builds(STATE)
def disk_memory(kit: Kit) -> nn.Module:
    """The first answer near a clean-looking picture is kept in a file and given for its neighbours for ever."""

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        memory = _Memory()
        if kit.disk.exists():
            memory.keys, memory.values = torch.load(kit.disk, weights_only=True)
        before, z = len(memory.keys), memory.recalled(x, net(x))
        if len(memory.keys) > before:
            torch.save((memory.keys, memory.values), kit.disk)
        return z

    return Served(kit.net, answer)


@builds(STATE)
def by_address(kit: Kit) -> nn.Module:
    """A tensor at an address seen before gets the answer given there: an iterate in place is never read again."""
    seen: dict[tuple[int, int], Tensor] = {}

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        z = plain(net, x)
        return looks_like(z, seen.setdefault((x.data_ptr(), len(x)), z.detach()))

    return Served(kit.net, answer)
