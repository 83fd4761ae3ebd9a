"""One random stream an example: the same numbers whatever batch, order or shard the example stands in.

A counter-based generator (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") with the
SplitMix64 mixer (Steele et al., 2014) as its function: number i of a stream is mix(key + (i + 1) * gamma).
Nothing is drawn from a state, so a verdict cannot depend on what else was drawn before it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_C1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_C2 = 0x94D049BB133111EB - (1 << 64)
_WORD = (1 << 64) - 1


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; the masks make torch's arithmetic shift a logical one."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _C1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _C2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _mixed(z: int) -> int:
    """`_mix` of a python int, as a signed 64-bit one."""
    z &= _WORD
    z = (z ^ (z >> 30)) * _C1 & _WORD
    z = (z ^ (z >> 27)) * _C2 & _WORD
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


def digest(text: str) -> int:
    """A signed 64-bit number from a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


@contextmanager
def untouched() -> Iterator[None]:
    """Leave the global random states of python, numpy and torch as they were, whatever happens inside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@dataclass(frozen=True)
class Rng:
    """A key an example, (N,) int64. Functional: the same call gives the same numbers; `fold` for new ones."""

    keys: Tensor

    @classmethod
    def of(cls, seed: int, name: str, ids: Tensor) -> Rng:
        """Streams for the examples `ids` (N,) of the run `seed` in the cell `name`."""
        return cls(_mix(ids.to(torch.int64) * _GAMMA + digest(f"{seed}/{name}")))

    def fold(self, tag: int | str | Tensor) -> Rng:
        """Child streams: one for each tag (an int, a text, or one int an example (N,))."""
        number = digest(tag) if isinstance(tag, str) else tag
        if isinstance(number, Tensor):
            return Rng(_mix(self.keys ^ _mix(number.to(self.keys) * _C1 + _GAMMA)))
        return Rng(_mix(self.keys ^ _mixed(number * _C1 + _GAMMA)))  # the host's own arithmetic: nothing is copied

    def to(self, device: torch.device | str) -> Rng:
        """The same streams, drawn on this device: where the examples are that they belong to."""
        return Rng(self.keys.to(device))

    def __getitem__(self, rows: Tensor | slice) -> Rng:
        """The streams of these rows."""
        return Rng(self.keys[rows])

    def __len__(self) -> int:
        return len(self.keys)

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        counter = torch.arange(1, math.prod(shape) + 1, device=self.keys.device) * _GAMMA
        return _mix(self.keys[:, None] + counter).view(len(self.keys), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N, *shape) float32, uniform in the open interval (low, high), from 23 bits."""
        unit = (((self._bits(shape) >> 41) & 0x7FFFFF).to(torch.float32) + 0.5) * 2.0**-23
        return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float32, standard normal by the inverse distribution function (tails to 5.3)."""
        return torch.erfinv(2 * self.uniform(*shape) - 1) * math.sqrt(2)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(N, *shape) int64, uniform in 0 ... high - 1."""
        return ((self._bits(shape) >> 1) & ((1 << 62) - 1)) % high

    def generators(self, device: torch.device | str = "cpu") -> list[torch.Generator]:
        """A torch.Generator an example, for bulk draws (smoothing asks for millions of normals)."""
        return [torch.Generator(device).manual_seed(key & ((1 << 63) - 1)) for key in self.keys.tolist()]
