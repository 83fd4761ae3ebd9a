"""What a scenario is handed to play one cell: what the threat's access grants, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from robustsuite.config.registry import AttackCard, Cost, identity
from robustsuite.config.threats import Access, Threat
from robustsuite.errors import AccessRefused
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.fedsgd import Learnt
from robustsuite.scenarios.cell import COMMON, Cell
from robustsuite.scenarios.record import Clean
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Reading, Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Training
from robustsuite.serve.oracle import TILE
from robustsuite.serve.stages import Applied
from robustsuite.serve.subset import restricted
from robustsuite.serve.system import Session, System
from robustsuite.serve.training import EPOCHS

WIDTH = 256
"""Images in flight at the most; halved, for the rest of the run, whenever the device is out of memory."""

CPU_VALUES = 1 << 20
"""Pixel values in flight on a CPU: more only costs memory traffic there (256 pictures at 32 px, 8 at 224 px)."""

LEARNT = Learnt()
"""What short federated trainings reached, each run once in a process."""


def fitting(cell: Cell) -> int:
    """Images in flight for a cell's pictures and device."""
    if not cell.lifecycle.device.startswith("cpu"):
        return WIDTH
    return max(TILE, min(WIDTH, CPU_VALUES // math.prod(cell.lifecycle.model.space.shape)))


class Context:
    """A cell or a part of it, ready to be played. rng: a stream an example; width: how many images to keep in flight.

    rows: which of the cell's examples, all of them for None. attack: the function with the user's parameters; common:
    those that every attack has (draws averaged in a gradient).
    """

    def __init__(
        self, cell: Cell, system: System, width: int, unattacked: Callable[[], Clean | None] = lambda: None,
        rows: range | None = None,
    ) -> None:  # fmt: skip
        self._cell, self._system, self._unattacked, self.width = cell, system, unattacked, width
        self.rows = range(len(cell.split)) if rows is None else rows
        self.subjects = cell.subjects.part(self.rows)
        self.rng = Rng.of(cell.lifecycle.seed, cell.name, self.subjects.examples.ids).to(cell.lifecycle.device)
        given = dict(cell.given)
        own = cell.attack.parameters if cell.attack else {}
        self.common: dict[str, Any] = {k: given.pop(k) for k in COMMON if k in given and k not in own}
        self._given = given

    @property
    def everyone(self) -> Split:
        """All examples of the cell, whichever part of it is played."""
        return self._cell.split

    @cached_property
    def _cut(self) -> tuple[System, Split]:
        head = self._cell.reading.head
        whole = self._system, self.subjects.examples
        return whole if head is None or self._cell.threat is None else restricted(*whole, head)

    @property
    def split(self) -> Split:
        """The examples as pictures and labels; within the head, where an attacked shift set has one."""
        return self._cut[1]

    def served(self) -> System:
        """The system as it answers; limits and counts are the oracle's that is put before it."""
        return self._cut[0]

    def network(self) -> nn.Module:
        """The network that is served, before the stage that serves it: what a checkpoint holds."""
        return self._cycle().trained()

    def session(self) -> Session:
        """A system that adapts, in a copy of its own, with nothing asked of it yet."""
        return Session.of(self.served())

    @property
    def threat(self) -> Threat:
        """The adversary. Raises ValueError in a cell that has none."""
        if self._cell.threat is None:
            raise ValueError("expected a cell with an adversary, got one without")
        return self._cell.threat

    @property
    def card(self) -> AttackCard:
        """The attack's card. Raises ValueError in a cell that has none."""
        if self._cell.attack is None:
            raise ValueError("expected a cell with an attack, got one without")
        return self._cell.attack

    @property
    def attack(self) -> Callable[..., Any]:
        """The attack, its parameters bound."""
        return partial(self.card.function, **self._given)

    @property
    def reading(self) -> Reading:
        """How the pictures are put to the model."""
        return self._cell.reading

    @property
    def control(self) -> bool:
        """Whether these are the clean pictures themselves."""
        return self._cell.shift == "clean"

    def unattacked(self) -> Clean | None:
        """What the system answers before it is attacked or shifted; None where that is not known yet."""
        return self._unattacked()

    def aux(self) -> Aux:
        """The adversary's own pictures and nets. Needs AUX_DATA."""
        self._need(Access.AUX_DATA)
        return self._cycle().adversary()

    def own_training(self) -> Training:
        """What the adversary trains with, of whatever kind: its seed, and the data's train split. Needs AUX_DATA."""
        self._need(Access.AUX_DATA)
        return self._cycle().own_training()

    def apart(self) -> Training:
        """What a control of the judge's is trained with: the pictures of an adversary with AUX_DATA, at its seed."""
        return self._cycle().control_training()

    def learnt_from(self) -> tuple[Split, Split]:
        """The data's own train and val split, for networks that the judge trains anew."""
        return self._cycle().data.split("train"), self._cycle().data.split("val")

    def retrained(self, train: Split, val: Split) -> nn.Module:
        """The model's own recipe at the run's seed on other pictures, undefended; kept as every training is."""
        return self._cycle().on(train, val).trained()

    @property
    def pretrained(self) -> bool:
        """Whether the model came with its weights, so that nobody here knows what trained them."""
        return self._cycle().model.pretrained

    @property
    def cost(self) -> Cost:
        """What the cell takes, at the most."""
        return self._cell.cost()

    @property
    def identity(self) -> str:
        """What tells the attack with its parameters from any other, as text."""
        return identity(self.card, self._given | self.common)

    def _cycle(self) -> Lifecycle:
        return self._cell.lifecycle

    @property
    def poisoned(self) -> Poisoned:
        """The training set as the adversary left it. Needs TRAIN_SET."""
        self._need(Access.TRAIN_SET)
        return self._cycle().poisoned

    def members(self) -> Tensor:
        """Which examples (N,) the served network was trained on. Raises ValueError where no membership is drawn."""
        drawn = self._cycle().members
        if drawn is None:
            raise ValueError("expected a lifecycle with a draw of members, got one without")
        return drawn.inside(self.subjects.examples.ids)

    def shadows(self, models: int) -> list[Lifecycle]:
        """Lifecycles of the adversary's own, alike but for the half of the pool and the seed. Needs AUX_DATA."""
        self._need(Access.AUX_DATA)
        return [self._cycle().shadow(models, k) for k in range(models)]

    def epochs(self) -> list[float]:
        """The val accuracies that a watched training kept."""
        kept = self._cycle().findings.get(EPOCHS)
        return [value for _, value in kept["table"]["rows"]] if kept else []

    def shared(self, trained: bool) -> nn.Module:
        """The network that clients of a federated training compute on. Needs UPDATE."""
        self._need(Access.UPDATE)
        return self._cycle().shared(trained)

    def share(self) -> list[Applied]:
        """The defenses that change an update on its way. Needs UPDATE."""
        self._need(Access.UPDATE)
        return self._cycle().at("share")

    def learnt(self) -> float | None:
        """What a short federated training under the share-stage defenses reaches, where it can be measured."""
        return LEARNT(self._cycle(), self._cell.split)

    @property
    def seed(self) -> int:
        """The run's seed: for draws that cells of several attacks share, where `rng` is this attack's own."""
        return self._cycle().seed

    @property
    def device(self) -> str:
        """Where to compute."""
        return self._cycle().device

    def _need(self, kind: Access) -> None:
        if kind not in self.threat.access:
            raise AccessRefused(
                f"expected a scenario that asks for {self.threat.access.words()} (granted by {self.threat.name!r}), "
                f"got one that asks for {kind.words()}; grant it in the threat's access"
            )
