"""How often each of our attacks makes host and device wait for each other, and what it launches besides the network.

    python -m tests.device.waits            # the table of docs/gpu.md

Counted on the pretended device, on a small network that stands under most of the attack, a question being one batch put
to it: waits and launches in a row are an attack's own, from its first line to its last, divided by its questions.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustsuite.config.registry import Card
from robustsuite.config.sets import parse_set
from robustsuite.config.threats import parse_access
from robustsuite.maths.randomness import Rng
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle, preserved
from tests.device.pretended import Pretended
from tests.test_conformance import NET, OURS, OWNED, X, Y, handed

LONG = {"steps": 24, "iterations": 24, "queries": 120, "draws": 24, "searches": 1}
BRIEF = {"sift_mcts": {"queries": 30}}
"""What counts the same after fewer questions, where each takes long on the pretended device."""

EPS = {"linf": 0.02, "l2": 0.08, "l1": 0.2, "l0": 1, "patch": 0.03, "spatial": 3}
"""Small: most pictures stand, as where an attack takes its time."""


class Row(NamedTuple):
    """One attack in one norm: batches it asked, waits and launches of its own for each, and where it waits."""

    name: str
    questions: int
    waits: float
    launches: float
    places: Counter[tuple[str, str]]


def ours() -> list[tuple[Card, str]]:
    """Our evasion attacks that ask more than twice, each in its first norm."""
    return [(card, card.norms[0]) for card in OURS if set(LONG) & set(card.parameters)]


def measured(card: Card, norm: str) -> Row:
    """The attack played once on the pretended device."""
    with Pretended() as gpu:
        net = copy.deepcopy(NET).to("cuda")
        x, y = X.to("cuda"), Y.to("cuda")
        rng = Rng(Rng.of(0, "waits", torch.arange(len(x))).keys.to("cuda"))
        needs = parse_access([str(kind.name).lower() for kind in card.needs])
        model = Oracle.over(net, needs, rng.fold("oracle"), width=8)
        aux = Aux(Split.of(OWNED.pictures.images(torch.arange(12)), OWNED.pictures.y), lambda spec: net)
        long = {k: v for k, v in LONG.items() if k in card.parameters} | BRIEF.get(card.name, {})
        given: dict[str, Any] = handed(card, y, rng, 5, aux) | long
        gpu.reset()
        with preserved(net):
            found = card.function(model, x.clone(), y.clone(), parse_set(norm, EPS[norm]), rng=rng, **given)
        assert isinstance(getattr(found, "x_adv", found), Tensor)
        asked = max(gpu.questions, 1)
        waits, launches = sum(gpu.waits.values()), gpu.launches["own"]
        return Row(f"{card.name} ({norm})", gpu.questions, waits / asked, launches / asked, gpu.waits.copy())


def table() -> str:
    """The rows in markdown."""
    lines = ["| attack | batches asked | waits a batch | launches of its own a batch |", "|---|---|---|---|"]
    for card, norm in ours():
        row = measured(card, norm)
        lines.append(f"| {row.name} | {row.questions} | {row.waits:.2f} | {row.launches:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
