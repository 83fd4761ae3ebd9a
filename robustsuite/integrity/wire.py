"""What goes between the suite and an attack that is played in a process of its own: plain values and tensors as bytes.

Nothing that arrives is unpickled or evaluated; a frame that is not what it says it is raises `Garbled`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustsuite.errors import AccessRefused, BadValue, QueriesSpent, Unsupported
from robustsuite.maths.numerics import as_bytes

LARGEST = 1 << 31
"""Bytes of a frame."""

MOST = 64
"""Tensors in one."""

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.float16, torch.bfloat16,
                                                     torch.int64, torch.int32, torch.uint8, torch.bool)}  # fmt: skip

TOLD = (AccessRefused, QueriesSpent, Unsupported, BadValue, ValueError)
"""Errors that are themselves on the other side of the line; any other is a RuntimeError there."""


class Garbled(Exception):
    """A frame that does not read."""


class Frame(NamedTuple):
    """word: what is asked or answered; facts: plain values beside it."""

    word: str
    facts: dict[str, Any]
    tensors: tuple[Tensor, ...]


def sent(line: Connection, word: str, *tensors: Tensor, **facts: Any) -> None:
    """Send a frame; raises TypeError for facts that are no plain values."""
    shapes = [[str(tensor.dtype).removeprefix("torch."), *tensor.shape] for tensor in tensors]
    head = json.dumps([word, facts, shapes]).encode()
    line.send_bytes(b"".join([struct.pack("<I", len(head)), head, *map(as_bytes, tensors)]))


def received(line: Connection, device: torch.device | str = "cpu") -> Frame:
    """The next frame, its tensors on this device. Raises Garbled, EOFError or OSError."""
    raw = bytearray(line.recv_bytes(LARGEST))
    try:
        (length,) = struct.unpack_from("<I", raw)
        head = raw[4 : 4 + length]
        if head.count(b"[") + head.count(b"{") > 2 * MOST:  # the parser recurses, as deep as a process lets it
            raise Garbled("more brackets than a frame has")
        word, facts, shapes = json.loads(head)
        if not isinstance(word, str) or not isinstance(facts, dict) or len(shapes) > MOST:
            raise Garbled("no frame")
        return Frame(word, facts, tuple(one.to(device) for one in _tensors(raw, 4 + length, shapes)))
    except (ValueError, TypeError, KeyError, struct.error, RecursionError) as error:
        raise Garbled(str(error)) from error


def _tensors(raw: bytearray, at: int, shapes: Sequence[Any]) -> list[Tensor]:
    found = []
    for name, *shape in shapes:
        if not all(type(size) is int and size >= 0 for size in shape):
            raise Garbled(f"a shape {shape!r}"[:80])
        dtype, count = DTYPES[name], math.prod(shape)
        size = count * dtype.itemsize
        if at + size > len(raw):
            raise Garbled("fewer bytes than it says")
        found.append(torch.frombuffer(raw[at : at + size], dtype=dtype).view(shape) if count else
                     torch.empty(shape, dtype=dtype))  # fmt: skip
        at += size
    return found
