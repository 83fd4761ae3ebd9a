"""Played in a process without the network, an honest attack ends in the same bits, and one that cheats is named."""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.goals import Untargeted
from robustsuite.config.registry import AttackCard, card_of
from robustsuite.config.sets import parse_set
from robustsuite.config.threats import Access, Linf, Threat, parse_access
from robustsuite.engine.audit import audit
from robustsuite.engine.execute import execute
from robustsuite.engine.plan import Decision
from robustsuite.engine.store import Store
from robustsuite.errors import QueriesSpent
from robustsuite.integrity.apart import Apart, NotReplayed, Overdue, Strayed
from robustsuite.integrity.wire import DTYPES, LARGEST, Garbled, received, sent
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import Dataset, InputSpace, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, weights_sha256
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.system import System
from tests.frauds import honest
from tests.test_conformance import EPS, NET, OURS, QUICK, X, Y, goal
from tests.test_oracle import Noisy

HERE = os.getpid()
"""Of the process that this file was imported in: an attack's own, once it is played apart."""

PLAYED = [c for c in OURS if not c.needs & (Access.WEIGHTS | Access.AUX_DATA)]


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with Apart() as process:
        yield process


def columns(card: AttackCard, net: nn.Module = NET, system: System | None = None, **limits: Any) -> dict[str, Tensor]:
    """What is recorded of an attack with exactly the access that its card asks for."""
    split = Split.of(X, Y)
    access = parse_access([str(kind.name).lower() for kind in card.needs])
    norm = card.norms[0] if card.norms else "linf"
    aim = Untargeted() if "untargeted" in card.goals else goal(card)
    threat = Threat("t", "evasion", access, parse_set(norm, EPS[norm] / 4), goal=aim, **limits)
    system = system or System(net, InputSpace(3, 6, 6, 5))
    attack = partial(card.function, **QUICK.get(card.name, {}))
    return evasion.judged(system, attack, split, threat, Rng.of(0, "apart", split.ids), width=5, card=card).columns


@pytest.mark.parametrize("card", PLAYED, ids=lambda c: c.name)
def test_honest_attacks_end_in_the_same_bits(card: AttackCard, apart: Apart) -> None:
    here, there = columns(card), columns(apart.card(card))
    assert set(here) == set(there)
    for name, column in here.items():
        assert torch.equal(column.nan_to_num(7.0), there[name].nan_to_num(7.0)), name


class Drawing(nn.Module):
    """The network with noise on its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.noise = NET, Noisy()
        self.rng: Rng | None = None

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        assert self.rng is not None
        return logits + 0.01 * self.rng.normal(5)


def test_noise_draws_recentring_and_limits_stay_on_this_side(apart: Apart) -> None:
    noisy = System(Drawing().eval(), InputSpace(3, 6, 6, 5), stochastic=True, surrogate=NET, eot=2)
    card = card_of("attack", "pgd")
    here, there = (columns(one, system=noisy) for one in (card, apart.card(card)))
    assert {"robust_direct", "robust_surrogate", "robust_continued"} <= set(there)
    assert all(torch.equal(here[name], there[name]) for name in here)
    square = card_of("attack", "square")
    here, there = (columns(one, queries=7) for one in (square, apart.card(square)))
    assert int(there["queries"].max()) == 7
    assert all(torch.equal(here[name], there[name]) for name in here)


def made(function: Any, needs: Access = Access.SCORES | Access.GRADIENTS, name: str = "") -> AttackCard:
    return AttackCard("attack", name or function.__name__, function, "evasion", needs=needs)


def greedy(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    """Asks for more than it may, then goes on with what it has."""
    try:
        while True:
            model(x)
    except QueriesSpent:
        return x + 0.0


def nested(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    """Asks while its loss is computed, of which it gives up one."""

    def gives_up(logits: Tensor) -> Tensor:
        raise KeyError("mine")

    with suppress(KeyError):
        model.gradient(x, gives_up)
    grad = model.gradient(x, lambda z: z.sum(1) + 0 * model(x).sum(1)).grad
    return budget.project(x, x + budget.eps * grad.sign())


def hangs(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    if os.getpid() == HERE and os.environ.get("APART") == "1":
        time.sleep(60)
    return x


def dies(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    os._exit(1)


def digs(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    """Climbs the network's own gradient, which it was not granted and does not pay."""
    nets = [one for one in gc.get_objects() if issubclass(type(one), nn.Module) and getattr(one, "prey", False)]
    if not nets:
        return x
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(nets[0](leaf), y), leaf)
    return budget.project(x, x + budget.eps * grad.sign())


def test_what_the_oracle_refuses_is_refused_over_there(apart: Apart) -> None:
    here, there = (columns(one, queries=3) for one in (made(greedy), apart.card(made(greedy))))
    assert there["queries"].tolist() == here["queries"].tolist() == [3] * len(X)
    assert torch.equal(columns(apart.card(made(nested)))["robust"], columns(made(nested))["robust"])


def test_an_attack_that_hangs_or_dies_is_ended_and_the_next_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APART", "1")
    with Apart(patience=15) as process:
        with pytest.raises(Overdue, match="within 15 s"):
            columns(process.card(made(hangs)))
        with pytest.raises(Strayed, match="broke off"):
            columns(process.card(made(dies)))
        assert torch.equal(columns(process.card(made(greedy)), queries=2)["queries"], torch.full((len(X),), 2))


def test_what_has_no_name_is_not_replayed(apart: Apart) -> None:
    def local(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        return x

    with pytest.raises(NotReplayed):
        columns(apart.card(made(local)))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_tensor_of_any_kind_and_stride_arrives_as_it_was(dtype: torch.dtype) -> None:
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    pieces = [whole, whole.T, whole[:, 1], whole[2:3, 1], whole[::2, ::3], whole[0, 0], whole[:0], whole[:1].T[:1],
              whole[0].expand(3, 6), whole.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)]  # fmt: skip
    sent(ours, "word", *pieces)
    for piece, there in zip(pieces, received(theirs).tensors, strict=True):
        assert there.dtype == dtype
        assert torch.equal(there, piece)


def test_a_frame_that_is_none_is_told_from_one() -> None:
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    sent(ours, "word", torch.tensor([1.5, float("nan")]), torch.zeros(0, 3), torch.tensor(True), n=3, inf=float("inf"))
    word, facts, tensors = received(theirs)
    assert (word, facts["n"], facts["inf"]) == ("word", 3, float("inf"))
    assert [tuple(t.shape) for t in tensors] == [(2,), (0, 3), ()]
    assert tensors[2].dtype == torch.bool
    heads: list[Any] = [
        [], ["w", {}], [1, {}, []], ["w", [], []], ["w", {}, [["float32", LARGEST]]], ["w", {}, [["float32", -1]]],
        ["w", {}, [["object", 1]]], ["w", {}, [["float32", 1.5]]], ["w", {}, 3], ["w", {}, [[]]],
    ]  # fmt: skip
    raws = [struct.pack("<I", len(head := json.dumps(one).encode())) + head for one in heads]
    for raw in (b"", b"\x00", b"\xff\xff\xff\xff", struct.pack("<I", 2) + b"\x80\x04", b"[" * 100_000, *raws):
        ours.send_bytes(raw)
        with pytest.raises(Garbled):
            received(theirs)


def cell(net: nn.Module, card: AttackCard, **limits: Any) -> Cell:
    test = digits().split("test").first(40)
    data = Dataset("digits", digits().space, digits().classes, {**digits().splits, "test": test})
    cycle = Lifecycle(Model("net", net.eval(), data.space, weights_sha256(net)), data)
    threat = Threat("t", "evasion", card.needs, Linf(0.3), **limits)
    return Cell("audits", cycle, Subjects(test), threat, card)


def audited(folder: Path, one: Cell) -> dict[str, Any]:
    store = Store(folder)
    execute([(one, Decision())], store)
    audit([(one, Decision())], store)
    return dict(json.loads((store.cells / one.run_id / "audit.json").read_text()))


def test_the_audit_names_an_attack_that_reaches_beyond_its_access(tmp_path: Path) -> None:
    net = honest()
    net.prey = True
    found = audited(tmp_path, cell(net, made(digs, Access.LABELS)))
    (flag,) = [flag for flag in found["flags"] if flag["name"] == "beyond_access"]
    assert (flag["check"], flag["level"]) == ("E35", "fail")
    assert found["figures"]["E35"] > 8


def test_the_audit_leaves_an_honest_attack_in_peace_and_says_what_it_did_not_replay(tmp_path: Path) -> None:
    square = card_of("attack", "square")
    one = replace(cell(honest(), square, queries=40), given=(("steps", 40),))
    found = audited(tmp_path / "a", one)
    assert found["figures"]["E35"] == 0
    assert not [flag for flag in found["flags"] if flag["name"] == "beyond_access"]
    local = made(lambda model, x, y, budget, rng: x, Access.LABELS, name="local")
    assert audited(tmp_path / "b", cell(honest(), local))["figures"]["E35_not_replayed"] == 16


def patches(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    torch.where = torch.add  # type: ignore[assignment]
    return x


def test_a_cell_whose_attack_changed_what_judges_it_has_failed(tmp_path: Path) -> None:
    store, one = Store(tmp_path), cell(honest(), made(patches))
    execute([(one, Decision())], store)
    record = json.loads((store.cells / one.run_id / "run.json").read_text())
    assert (record["status"], record["code"]) == ("failed", "Tampered")
    assert "got changes of torch.where" in record["sentence"]
