"""One random stream an example: the same numbers whatever batch, order or shard the example stands in.

A counter-based generator (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") with the
SplitMix64 mixer (Steele et al., 2014) as its function: number i of a stream is mix(key + (i + 1) * gamma).
Nothing is drawn from a state, so a verdict cannot depend on what else was drawn before it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_C1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_C2 = 0x94D049BB133111EB - (1 << 64)
_WORD = (1 << 64) - 1
_SHIFTS = np.array([30, 27, 31, 41], np.uint64)
_FACTORS = np.array([_C1, _C2]).view(np.uint64)


BLOCK = 1 << 15
"""So many numbers are drawn at a time on a CPU: what is done to them finds them in its cache."""


def _stirred(z: Tensor) -> Tensor:
    """The first two rounds of SplitMix64's finaliser, written over z (int64, nobody else's).

    A CPU's in numpy, which multiplies 64 bits in half the time and shifts them without a sign; elsewhere the masks make
    torch's arithmetic shift a logical one. Both give the same bits.
    """
    if z.device.type == "cpu":
        words = z.numpy().view(np.uint64)
        moved = np.right_shift(words, _SHIFTS[0], out=np.empty_like(words))
        np.multiply(np.bitwise_xor(words, moved, out=words), _FACTORS[0], out=words)
        np.right_shift(words, _SHIFTS[1], out=moved)
        np.multiply(np.bitwise_xor(words, moved, out=words), _FACTORS[1], out=words)
        return z
    moved = (z >> 30).bitwise_and_((1 << 34) - 1)
    torch.bitwise_right_shift(z.bitwise_xor_(moved).mul_(_C1), 27, out=moved).bitwise_and_((1 << 37) - 1)
    return z.bitwise_xor_(moved).mul_(_C2)


def _top(z: Tensor) -> Tensor:
    """The 23 highest bits as a number, written over z."""
    if z.device.type == "cpu":
        words = z.numpy().view(np.uint64)
        np.right_shift(words, _SHIFTS[3], out=words)
        return z
    return torch.bitwise_right_shift(z, 41, out=z).bitwise_and_(0x7FFFFF)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, written over z (int64, nobody else's)."""
    z = _stirred(z)
    if z.device.type == "cpu":
        words = z.numpy().view(np.uint64)
        np.bitwise_xor(words, np.right_shift(words, _SHIFTS[2], out=np.empty_like(words)), out=words)
        return z
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


def _mixed(z: int) -> int:
    """`_mix` of a python int, as a signed 64-bit one."""
    z &= _WORD
    z = (z ^ (z >> 30)) * _C1 & _WORD
    z = (z ^ (z >> 27)) * _C2 & _WORD
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


@functools.lru_cache(4096)
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
        return cls(_mix((ids.to(torch.int64) * _GAMMA).add_(digest(f"{seed}/{name}"))))

    def fold(self, tag: int | str | Tensor) -> Rng:
        """Child streams: one for each tag (an int, a text, or one int an example (N,))."""
        number = digest(tag) if isinstance(tag, str) else tag
        if isinstance(number, Tensor):
            return Rng(_mix(self.keys ^ _mix((number.to(self.keys) * _C1).add_(_GAMMA))))
        return Rng(_mix(self.keys ^ _mixed(number * _C1 + _GAMMA)))  # the host's own arithmetic: nothing is copied

    def to(self, device: torch.device | str) -> Rng:
        """The same streams, drawn on this device: where the examples are that they belong to."""
        return Rng(self.keys.to(device))

    def __getitem__(self, rows: Tensor | slice) -> Rng:
        """The streams of these rows."""
        return Rng(self.keys[rows])

    def __len__(self) -> int:
        return len(self.keys)

    def _words(self, numbers: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, key + i gamma) of the numbers i = 1 ... of the streams; a CPU's in blocks, a GPU's in one."""
        cached = self.keys.device.type == "cpu"
        size = BLOCK if cached else max(1, numbers)
        for first in range(0, numbers, size):
            columns = slice(first, min(first + size, numbers))
            counter = torch.arange(columns.start + 1, columns.stop + 1, device=self.keys.device).mul_(_GAMMA)
            height = max(1, size // len(counter) if cached else len(self))
            for row in range(0, len(self), height):
                rows = slice(row, row + height)
                yield rows, columns, self.keys[rows, None] + counter

    def _spread(self, shape: tuple[int, ...], scale: float, shift: float, finish: Callable[[Tensor], object]) -> Tensor:
        """(N, *shape) float32: scale times a number between 0 and 1, from the 23 highest bits, plus shift, finished."""
        numbers = math.prod(shape)
        out = torch.empty(len(self), numbers, device=self.keys.device)
        for rows, columns, words in self._words(numbers):
            part = out[rows, columns]
            part.copy_(_top(_stirred(words))).add_(0.5).mul_(scale * 2.0**-23)  # the last round moves no bit up here
            finish(part.add_(shift) if shift else part)
        return out.view(len(self), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N, *shape) float32, uniform in the open interval (low, high), from 23 bits."""
        return self._spread(shape, high - low, low, lambda part: part)

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float32, standard normal by the inverse distribution function (tails to 5.3)."""
        return self._spread(shape, 2.0, -1.0, lambda part: part.erfinv_().mul_(math.sqrt(2)))

    def integers(self, high: int, *shape: int) -> Tensor:
        """(N, *shape) int64, uniform in 0 ... high - 1."""
        numbers = math.prod(shape)
        out = torch.empty(len(self), numbers, dtype=torch.int64, device=self.keys.device)
        for rows, columns, words in self._words(numbers):
            out[rows, columns] = (_mix(words) >> 1).bitwise_and_((1 << 62) - 1).remainder_(high)
        return out.view(len(self), *shape)

    def generators(self, device: torch.device | str = "cpu") -> list[torch.Generator]:
        """A torch.Generator an example, for bulk draws (smoothing asks for millions of normals)."""
        return [torch.Generator(device).manual_seed(key & ((1 << 63) - 1)) for key in self.keys.tolist()]


def seed_of(rng: Rng) -> int:
    """One seed of 31 bits from an attack's streams."""
    return int(rng.keys[:1].sum()) & 0x7FFFFFFF
