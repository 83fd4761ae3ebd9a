"""The other end of `apart`: a fresh process that plays attacks on an oracle of which it holds nothing but a line.

`python -m robustsuite.integrity.stub <file descriptor>` plays what it is told to until the line is closed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from robustsuite import errors
from robustsuite.config.sets import parse_set
from robustsuite.integrity.wire import TOLD, Frame, received, sent
from robustsuite.maths.losses import Loss
from robustsuite.maths.numerics import float32, threads
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Ask, Asking, Counts, Oracle


class _Line:
    """The line, and the device on which the attack computes."""

    def __init__(self, line: Connection, device: str) -> None:
        self.line, self.device = line, device

    def ask(self, word: str, *tensors: Tensor, **facts: Any) -> Frame:
        """One question and its answer; raises what the oracle raised."""
        sent(self.line, word, *tensors, **facts)
        return self.heard()

    def heard(self) -> Frame:
        """The next answer."""
        frame = received(self.line, self.device)
        if frame.word == "error":
            kinds = {kind.__name__: kind for kind in TOLD}
            raise kinds.get(frame.facts["kind"], RuntimeError)(frame.facts["said"])
        return frame

    def one(self, word: str, *tensors: Tensor) -> Tensor:
        """The answer that is a single tensor."""
        return self.ask(word, *tensors).tensors[0]

    def gradient(self, rows: Tensor, x: Tensor, loss: Loss) -> Ask:
        """The loss is computed here, its slope sent over for each draw: the network's part is worked out there."""
        frame = self.ask("gradient", rows, x)
        while frame.word == "logits":
            try:
                with torch.enable_grad():
                    shown = frame.tensors[0].requires_grad_()
                    value = loss(shown)
                    (slope,) = torch.autograd.grad(value.sum(), shown)
            except BaseException:
                sent(self.line, "gave up")
                raise
            frame = self.ask("slope", value, slope)
        return Ask(*frame.tensors)

    def counts(self) -> Counts:
        """A copy of what was asked so far."""
        frame = self.ask("counts")
        (forwards, backwards), extra = frame.tensors, frame.facts["extra"]
        return Counts(forwards, backwards, *extra)

    def forbidden(self) -> Any:
        """The network, which never comes over."""
        return self.ask("network").tensors

    def bill(self, forwards: int, backwards: int) -> None:
        """What the attack adds to its bill."""
        self.ask("bill", forwards=forwards, backwards=backwards)


def _oracle(line: _Line, facts: dict[str, Any], n: int) -> Oracle:
    asking = Asking(
        partial(line.one, "scores"), partial(line.one, "labels"), line.gradient, partial(line.one, "left"),
        line.forbidden, line.forbidden, line.counts, line.bill,
    )  # fmt: skip
    rows = torch.arange(n, device=line.device)
    return Oracle(asking, rows, *(facts[k] for k in ("width", "eot", "confidence_margin", "threat", "look")))


def _function(origin: str) -> Callable[..., Any]:
    module, _, name = origin.partition(":")
    found = attrgetter(name)(importlib.import_module(module))
    if not callable(found):
        raise ImportError(f"{origin} is no function")
    return found  # type: ignore[no-any-return]


@float32()
@threads()
def _play(line: _Line, frame: Frame) -> None:
    """Play one attack, and send what it found or raised."""
    facts = frame.facts
    try:
        x, y, keys, *targets = (one.to(line.device) for one in frame.tensors)
        attack = _function(facts["attack"])
    except Exception as error:  # anybody's module; or a device that this process cannot have
        sent(line.line, "missing", said=errors.cause(error))
        return
    given = facts["given"] | ({"targets": targets[0] if targets else None} if facts["aims"] else {})
    try:
        found = attack(
            _oracle(line, facts, len(x)), x, y, parse_set(facts["norm"], facts["eps"]), rng=Rng(keys), **given
        )
        x_adv, columns = (found.x_adv, found.columns) if hasattr(found, "columns") else (found, {})
        theta = [] if (one := getattr(found, "theta", None)) is None else [one]
        names = [str(name) for name in columns]
        sent(line.line, "found", x_adv, *theta, *columns.values(), names=names, rendered=bool(theta))
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:  # anybody's attack
        kind = next((told.__name__ for told in TOLD if isinstance(error, told)), "RuntimeError")
        sent(line.line, "raised", kind=kind, said=str(error) if kind != "RuntimeError" else errors.cause(error))


def main(descriptor: int) -> None:
    """Play what is asked for until the line is closed."""
    line = Connection(descriptor)
    while True:
        try:
            frame = received(line)
        except EOFError:
            return
        _play(_Line(line, frame.facts["device"]), frame)


if __name__ == "__main__":
    main(int(sys.argv[1]))
