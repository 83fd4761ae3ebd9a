"""A system that adapts while it answers: declared, it is judged by its answers in their order; undeclared, INVALID."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.decision import Decision
from robustsuite.config.registry import DefenseCard, card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine.execute import execute
from robustsuite.engine.plan import decide
from robustsuite.engine.store import Store
from robustsuite.errors import UsageError
from robustsuite.integrity import checks
from robustsuite.records.schema import Stream
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import Dataset, InputSpace, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, weights_sha256
from robustsuite.serve.stages import Applied
from tests.stored import rows

SPACE = InputSpace(3, 8, 8, 4)


class Reestimated(nn.Module):
    """Batch norm with the statistics of the batch at hand, and a count of what it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("asked", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        return self.net(x) + 1e-3 * self.asked * torch.eye(4)[0]


def reestimate(net: nn.Module) -> nn.Module:
    """Statistics of the batch (Schneider et al., 2020, arXiv:2006.16971)."""
    return Reestimated(net)


def split(n: int = 50) -> Split:
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Split.of(x, torch.arange(n) % 4)


def cell(stream: Stream | None, *, adapts: str = "stream", order: Tensor | None = None, **facts: object) -> Cell:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    pictures = split() if order is None else split().at(order)
    data = Dataset("toy", SPACE, tuple("abcd"), {"test": pictures})
    defense = Applied(DefenseCard("defense", "reestimate", reestimate, "serve", adapts=adapts))
    cycle = Lifecycle(Model("toy", net, SPACE, weights_sha256(net)), data, (defense,))
    return Cell("s", cycle, Subjects(pictures, stream=stream), shift="clean", **facts)  # type: ignore[arg-type]


def played(folder: Path, one: Cell, width: int = 16) -> pd.DataFrame:
    execute([(one, Decision())], Store(folder), width=width)
    return pd.read_parquet(folder / "cells" / one.run_id / "examples.parquet").drop(columns="run_id")


def test_the_same_stream_gives_the_same_row_and_another_another(tmp_path: Path) -> None:
    stream = Stream(order="listed", batch=10)
    first = played(tmp_path / "a", cell(stream))
    assert first.equals(played(tmp_path / "b", cell(stream), width=3)), "how many are in flight is no part of it"
    (row,) = rows(tmp_path / "a")
    assert row["status"] == "done"
    assert "order and batch size are part of this system: listed, 10 at a time" in row["sentence"]
    assert not {flag["check"] for flag in row["flags"]} & {"E13", "E14"}
    other = cell(Stream(order="listed", batch=25))
    assert other.run_id != cell(stream).run_id
    assert not np.allclose(first["confidence"], played(tmp_path / "c", other)["confidence"])


def test_each_session_begins_anew_and_leaves_the_system_as_it_was(tmp_path: Path) -> None:
    one = cell(Stream(order="listed", batch=10))
    twice = cell(Stream(order="listed", batch=10), order=torch.arange(50))
    execute([(one, Decision()), (twice, Decision())], Store(tmp_path))
    tables = [pd.read_parquet(tmp_path / "cells" / c.run_id / "examples.parquet") for c in (one, twice)]
    assert np.array_equal(tables[0]["confidence"], tables[1]["confidence"])


def test_undeclared_it_is_invalid(tmp_path: Path) -> None:
    one = cell(None, adapts="")
    execute([(one, Decision())], Store(tmp_path))
    (row,) = rows(tmp_path)
    assert {flag["check"] for flag in row["flags"]} & {"E13", "E14"}
    assert checks.grade(row["flags"]) == "INVALID"


def test_an_adversary_of_no_order_is_unmeasured() -> None:
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(0.1))
    found = decide(cell(None, threat=threat, attack=card_of("attack", "fgsm")))
    assert (found.status, found.code) == ("unmeasured", "adapts")


def test_ids_of_joined_splits_are_unique_and_each_knows_its_own() -> None:
    data = Dataset("d", SPACE, tuple("abcd"), {"test": split(6), "train": split(9)})
    both = data.joined("test", "train")
    assert len(set(both.examples.ids.tolist())) == 15
    assert torch.equal(both.examples.ids[:6], split(6).ids)
    assert both.among("train").tolist() == [False] * 6 + [True] * 9
    assert torch.equal(both.examples.images(torch.tensor([8, 0])), split(9).images(torch.tensor([2, 0])))
    assert len(Subjects.none(SPACE).examples) == 0


@pytest.mark.parametrize("order", ["listed", "shuffled"])
def test_a_sweep_declares_its_stream(order: str) -> None:
    from robustsuite.engine.sweep import sweep_of

    base = {"name": "s", "models": ["a"], "data": ["digits"]}
    assert sweep_of({**base, "stream": {"order": order, "batch": 7}}, "t").stream == Stream(order=order, batch=7)
    with pytest.raises(UsageError, match="expected the order listed or shuffled, got 'threat'"):
        sweep_of({**base, "stream": {"order": "threat", "batch": 7}}, "t")
