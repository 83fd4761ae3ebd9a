"""An attack played in a fresh process that holds no network, no weights and no judge: only a line to its oracle.

Whatever an attack can do with what stands in its own process, here it cannot. The oracle with its limits and counts,
the pictures it is really asked about and the network's gradients stay on this side; the attack's loss is computed
there. The other side is not trusted: see `wire`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import wraps
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from robustsuite import errors
from robustsuite.config.registry import AttackCard
from robustsuite.config.transforms import Allowed
from robustsuite.integrity.wire import TOLD, Frame, Garbled, received, sent
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle

PATIENCE = 900.0
"""Seconds that one attack may take apart; then its process is ended."""


class NotReplayed(Exception):
    """The attack cannot be played apart, which says nothing against it."""


class Strayed(Exception):
    """The attack did not come back from its process: it ended, or spoke out of turn."""


class Overdue(Strayed):
    """It took too long, and was ended."""


class Found(NamedTuple):
    """As the scenario's own: pictures, columns, and what they are rendered with."""

    x_adv: Tensor
    columns: dict[str, Tensor]
    theta: Tensor | None = None


class _GaveUp(Exception):
    """The attack's own loss raised."""


class _Answered(torch.autograd.Function):
    """A loss (N,) and its slope (N, K) that were worked out elsewhere."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grads[0][:, None], None, None


class Line:
    """A module run in a process of its own at the end of a line: started when first asked, closed at the end."""

    def __init__(self, module: str, patience: float = PATIENCE) -> None:
        self.module, self.patience = module, patience
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """End the process, and whatever it started."""
        self._kill()
        if self._process is not None:
            self._process.wait()
        if self._line is not None:
            self._line.close()
        self._process = self._line = None

    @contextmanager
    def asked(self, about: str) -> Iterator[Connection]:
        """The line, for one question; the process is ended where that takes too long, or does not come back.

        Raises Overdue or Strayed, with what the question was about.
        """
        line, late = self._begun(), threading.Event()

        def ends() -> None:
            late.set()
            self._kill()

        clock = threading.Timer(self.patience, ends)
        clock.daemon = True
        clock.start()
        try:
            yield line
        except (Garbled, EOFError, OSError) as error:
            self.end()
            if late.is_set():
                raise Overdue(f"{about} did not end within {self.patience:g} s") from error
            raise Strayed(f"{about} broke off, or spoke out of turn") from error
        finally:
            clock.cancel()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _begun(self) -> Connection:
        """The line to the process, which is started where none is."""
        if self._line is not None:
            return self._line
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )  # fmt: skip
        self._line = Connection(ours.detach())
        return self._line


class Apart(Line):
    """A process for attacks, started again where one was ended."""

    def __init__(self, patience: float = PATIENCE) -> None:
        super().__init__("robustsuite.integrity.stub", patience)

    def card(self, card: AttackCard) -> AttackCard:
        """The same attack, played there. It raises NotReplayed or Strayed besides what it raises here."""

        @wraps(card.function)
        def attack(model: Oracle, x: Tensor, y: Tensor, budget: Allowed, *, rng: Rng, **given: Any) -> Found:
            return self._play(card, model, x, y, budget, rng, given)

        return replace(card, function=attack)

    def _play(
        self, card: AttackCard, model: Oracle, x: Tensor, y: Tensor, budget: Allowed, rng: Rng, given: dict[str, Any]
    ) -> Found:
        aims, targets = "targets" in given, given.pop("targets", None)
        facts = {
            "attack": card.origin, "given": given, "aims": aims, "norm": budget.norm, "eps": budget.eps,
            "device": str(x.device), "width": model.width, "eot": model.eot, "threat": model.threat, "look": model.look,
            "confidence_margin": model.confidence_margin,
        }  # fmt: skip
        try:
            json.dumps(given)
        except (TypeError, ValueError) as error:
            raise NotReplayed(f"parameters that are no plain values ({error})") from error
        with self.asked(card.name) as line:
            sent(line, "play", x, y, rng.keys, *([] if targets is None else [targets]), **facts)
            return _found(self._until(line, model, x, ("found", "raised", "missing")), x)

    def _until(self, line: Connection, model: Oracle, x: Tensor, words: tuple[str, ...]) -> Frame:
        """Answer questions until one of these words is said."""
        while (frame := received(line, x.device)).word not in words:
            try:
                self._answer(line, model, x, frame)
            except _GaveUp:
                continue
            except (*TOLD, IndexError) as error:
                sent(line, "error", kind=type(error).__name__, said=str(error))
        return frame

    def _answer(self, line: Connection, model: Oracle, x: Tensor, frame: Frame) -> None:
        """Ask the oracle what the other side asks."""
        word, facts, tensors = frame
        if word == "counts":
            counts = model.counts
            sent(line, word, counts.forwards, counts.backwards, extra=[counts.extra_forwards, counts.extra_backwards])
        elif word == "bill":
            model.bill(*(facts[k] if type(facts.get(k)) is int else -1 for k in ("forwards", "backwards")))
            sent(line, word)
        elif word == "network":
            model.network()
            raise errors.AccessRefused("expected an attack that asks of outputs alone, got one that asks for weights")
        else:
            if not tensors or tensors[0].dtype != torch.int64 or tensors[0].ndim != 1:
                raise Garbled(f"{word!r} without rows"[:80])
            view = model[tensors[0]]
            if word == "left":
                sent(line, word, view.left())
                return
            if len(tensors) != 2 or tensors[1].dtype != x.dtype or tensors[1].shape[1:] != x.shape[1:]:
                raise ValueError(f"expected {x.dtype} pictures of shape {tuple(x.shape[1:])}, got others")
            if word in ("scores", "labels"):
                sent(line, word, view(tensors[1]) if word == "scores" else view.labels(tensors[1]))
            elif word == "gradient":
                sent(line, word, *view.gradient(tensors[1], lambda logits: self._loss(line, model, x, logits)))
            else:
                raise Garbled(f"{word!r}"[:80])

    def _loss(self, line: Connection, model: Oracle, x: Tensor, logits: Tensor) -> Tensor:
        sent(line, "logits", logits)
        frame = self._until(line, model, x, ("slope", "gave up"))
        if frame.word == "gave up":
            raise _GaveUp
        shapes = [(one.dtype, one.shape) for one in frame.tensors]
        if shapes != [(logits.dtype, logits.shape[:1]), (logits.dtype, logits.shape)]:
            raise Garbled("a slope of another shape")
        return _Answered.apply(logits, *frame.tensors)  # type: ignore[no-any-return]


def _found(frame: Frame, x: Tensor) -> Found:
    """What came back; raises what the attack raised."""
    said = str(frame.facts.get("said"))
    if frame.word == "missing":
        raise NotReplayed(said)
    if frame.word == "raised":
        kinds: dict[Any, Callable[[str], Exception]] = {kind.__name__: kind for kind in TOLD}
        raise kinds.get(str(frame.facts.get("kind")), RuntimeError)(said)
    names = frame.facts.get("names")
    theta = frame.tensors[1:2] if frame.facts.get("rendered") is True else ()
    if not isinstance(names, list) or len(names) + 1 + len(theta) != len(frame.tensors):
        raise Garbled("other columns than it names")
    columns = frame.tensors[1 + len(theta) :]
    if any(one.shape != (len(x),) for one in columns):
        raise Garbled("columns of another length")
    return Found(frame.tensors[0], dict(zip(map(str, names), columns, strict=True)), *theta)
