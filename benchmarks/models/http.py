"""A classifier behind HTTP, asked as its yaml says: within its rate, never twice for one picture, each answer kept."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from robustsuite import __version__
from robustsuite.benchmarks.models.endpoint import Endpoint, decoded, encoded, headers_of, read_endpoint, request
from robustsuite.benchmarks.models.ledger import Ledger, Said
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue, MissingPackage, Stopped
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import ANSWERS, Box, Model, loader, weights_sha256

AGAIN = 50
"""Of so many pictures that are answered one is asked a second time: does the service stand by its answers?"""

APART = 1e-3
"""Scores of one picture that differ by more than this share of the largest are another answer."""

LATER = {429, 503}
"""Refused before the picture was looked at; later it may not be."""

TORN = {408, 425, 500, 502, 504}
"""Whether the picture was looked at, and billed, is not known."""

LONGEST = 600.0
"""Seconds that a service may ask us to wait in one piece."""


class Service:
    """What answers behind an address: pictures (N, C, H, W) -> scores (N, K), or 1 for the class that it names."""

    def __init__(self, endpoint: Endpoint, space: InputSpace) -> None:
        self.endpoint, self.space = endpoint, space
        self._ledger: Ledger | None = None
        self._next, self._lock = 0.0, threading.Lock()
        headers = {"User-Agent": f"robustsuite/{__version__} (authorised robustness test)", **headers_of(endpoint)}
        self.client = _library().Client(timeout=endpoint.timeout, headers=headers, follow_redirects=False)

    @property
    def ledger(self) -> Ledger:
        """What was asked and answered so far."""
        if self._ledger is None:
            self.begin(None)
        return cast(Ledger, self._ledger)

    def begin(self, folder: Path | None) -> None:
        """Keep answers under this folder, and go on from those that lie there; in memory alone for None."""
        self._ledger = Ledger(folder, f"{self.endpoint.name}-{self.endpoint.identity()[:16]}")

    def bill(self) -> str:
        """What was sent, answered, refused and lost, in a sentence."""
        sent, answered, refused, lost = self.ledger.bill()
        open_ = sent - answered - refused - lost
        words = f"{self.endpoint.name}: {sent} pictures sent, {answered} answered, {refused} refused, {lost} lost"
        return words + (f", {open_} under way when a process was killed" if open_ else "")

    def allowed(self) -> int | None:
        """How many pictures it may be asked about in total."""
        return self.endpoint.queries_total

    def seconds(self) -> float:
        """How long a picture takes at the least."""
        return 1.0 / (self.endpoint.rate * self.endpoint.batch)

    def noticed(self) -> list[str]:
        """What its answers betray: others to the same picture, another model behind the same address."""
        if changed := len(set(self.ledger.unstable)):
            return [f"the service gave {changed} pictures another answer when asked again"]
        if len(self.ledger.versions) > 1:
            return [f"the service's version changed: {', '.join(sorted(self.ledger.versions))}"]
        return []

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about those pictures that have not been answered yet, in full batches; raises Stopped."""
        sent = encoded(self.endpoint, x.numpy())
        keys = [hashlib.sha256(one).hexdigest() for one in sent]
        new = {key: one for key, one in zip(keys, sent, strict=True) if key not in self.ledger.answers}
        items, size = list(new.items()), self.endpoint.batch
        batches = [dict(items[i : i + size]) for i in range(0, len(items), size)]
        if batches:
            with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
                list(pool.map(self._ask, batches))
        answers = [self.ledger.answers[key] for key in keys]
        rows = torch.zeros(len(answers), self.space.classes)
        for row, said in zip(rows, answers, strict=True):
            if isinstance(said, int):
                row[said] = 1
            else:
                row.copy_(torch.tensor(said))
        return rows

    def _ask(self, batch: dict[str, bytes]) -> None:
        """Ask about these pictures, one of `AGAIN` a second time."""
        said, version = self._said(batch)
        self.ledger.note("answered", batch, said=said, **({"version": version} if version else {}))
        before = len(self.ledger.answers) - len(batch)
        if before // AGAIN != len(self.ledger.answers) // AGAIN or before == 0:
            key = next(iter(batch))
            (again,), _ = self._said({key: batch[key]})
            self.ledger.note("again", [key], said=[again])
            if _another(said[0], again):
                self.ledger.note("unstable", [key])

    def _said(self, batch: dict[str, bytes]) -> tuple[list[Said], str]:
        """The answers to a batch and the version they come from, after as many tries as are allowed."""
        content, kind = request(self.endpoint, list(batch.values()), self.space.shape)
        why = ""
        for attempt in range(self.endpoint.retries + 1):
            self._turn(batch)
            wait = min(60.0, 0.5 * 2**attempt) * random.random()
            try:
                reply = self.client.request(self.endpoint.method, self.endpoint.url, content=content,
                                            headers={"Content-Type": kind})  # fmt: skip
            except _library().ConnectError as error:
                self.ledger.note("refused", batch)
                why = str(error) or "no connection"
            except _library().HTTPError as error:
                self.ledger.note("lost", batch)
                why = str(error) or type(error).__name__
            else:
                if reply.is_success:
                    try:
                        said: list[Said] = decoded(self.endpoint, reply.content, len(batch), self.space.classes)
                        return said, reply.headers.get(self.endpoint.version_header or "-", "")
                    except (ValueError, KeyError, IndexError, TypeError) as error:
                        self.ledger.note("lost", batch)
                        why = f"{error} in {reply.text[:80]!r}"
                else:
                    self.ledger.note("lost" if reply.status_code in TORN else "refused", batch)
                    why = f"{reply.status_code} {reply.reason_phrase}"
                    if reply.status_code not in LATER | TORN:
                        break
                    wait = max(wait, _told(reply.headers.get("Retry-After", "")))
            if attempt < self.endpoint.retries:
                time.sleep(wait)
        raise Stopped(
            f"expected an answer from {self.endpoint.host}, got {why}; what was answered is kept, the same command "
            f"goes on once it answers"
        )

    def _turn(self, batch: dict[str, bytes]) -> None:
        """Wait for this request's turn and write it down; raises Stopped where the bill would grow too large."""
        with self._lock:
            most, limit = self.ledger.bill().most, self.endpoint.queries_total
            if limit is not None and most + len(batch) > limit:
                raise Stopped(
                    f"expected at most {limit} pictures sent to {self.endpoint.name} (queries_total), got a plan that "
                    f"asks more after {most}; raise it to go on"
                )
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + 1.0 / self.endpoint.rate
            self.ledger.note("sent", batch)
        time.sleep(at - now)


def _another(one: Said, two: Said) -> bool:
    if isinstance(one, int) or isinstance(two, int):
        return one != two
    first, second = torch.tensor(one), torch.tensor(two)
    scale = first.abs().max().clamp_min(1e-12)
    return bool((first - second).abs().max() > APART * scale) or bool(first.argmax() != second.argmax())


def _told(text: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(LONGEST, max(0.0, seconds))


def _library() -> ModuleType:
    """httpx2, which is an extra: a plan that asks no service does without it."""
    import httpx2

    return httpx2


@loader(requires="httpx2")
def http(name: str, space: InputSpace) -> Model:
    """A classifier behind HTTP, described by a yaml file: http:service.yaml; docs/services.md says what stands in it.

    Nothing is asked of it before a cell needs it. Raises BadModel, BadValue.
    """
    if name.startswith("//"):
        raise BadValue(f"expected the yaml of an endpoint, got the address http:{name}; write its url into a yaml file")
    if find_spec("httpx2") is None:
        raise MissingPackage("httpx2", f"the model http:{name}", "'robustsuite[http]'")
    endpoint = read_endpoint(Path(name).expanduser())
    if endpoint.classes and len(endpoint.classes) != space.classes:
        got = len(endpoint.classes)
        raise BadValue(f"expected {space.classes} classes as the data has, got {got} in {name}; mend one of them")
    net = Box(Service(endpoint, space), endpoint.identity())
    labels = bool(endpoint.answer.labels) and not endpoint.answer.scores
    shows = Access.LABELS if labels else ANSWERS
    return Model(f"http:{endpoint.name}", net, space, weights_sha256(net), shows=shows, host=endpoint.host,
                 grid=endpoint.grid, note=_note(endpoint), classes=tuple(endpoint.classes))  # fmt: skip


def _note(endpoint: Endpoint) -> str:
    allowed = endpoint.authorisation
    by = f", authorised by {allowed.by} until {allowed.until} for {allowed.scope}" if allowed else ""
    return f"{endpoint.name} is a service at {endpoint.host}{by}"
