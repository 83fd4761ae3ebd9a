"""Unlearnable data: the adversary changes a training set so that nothing trained on it is of use on clean pictures.

(Huang et al., 2021, arXiv:2101.04898.) The lower the clean test accuracy, the stronger the poison; the best epoch
counts beside the last, since an early stop may already undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from robustsuite.config.keys import Spec
from robustsuite.config.registry import carded
from robustsuite.config.threats import PoisonRate, Threat, parse_access, parse_number
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.record import Record, unattacked
from robustsuite.scenarios.refusals import trained_already
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context


class Attack(Protocol):
    """(train set, rate) -> the poisoned set; `aux: Aux` besides where it needs AUX_DATA."""

    def __call__(self, train: Split, rate: PoisonRate, *, rng: Rng) -> Poisoned: ...


A = TypeVar("A", bound=Callable[..., Poisoned])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an unlearnable-data attack. needs: Access.TRAIN_SET and, for nets of its own, AUX_DATA."""
    return carded("attack", "unlearnable", **facts)


def play(context: Context) -> Record:
    """Ask the victim about the part's clean pictures. Columns: clean_ok."""
    clean = unattacked(context.served(), context.split, context.rng, width=context.width)
    columns = {"clean_ok": clean.ok, "prediction": clean.prediction}
    return Record(columns, [], forwards=len(clean.ok), backwards=0)


def conclude(context: Context, record: Record) -> Record:
    """How many examples were poisoned, and how the training went."""
    return record._replace(note=told(context.poisoned, context.epochs()))


def told(poisoned: Poisoned, epochs: Sequence[float]) -> str:
    """epochs: the clean val accuracy after each epoch of the last training, if watched; the best and the last count."""
    note = f"{len(poisoned.indices)} training examples poisoned"
    if epochs:
        best = max(range(len(epochs)), key=epochs.__getitem__)
        note += f"; clean val accuracy {epochs[best]:.1%} at best (epoch {best + 1}), {epochs[-1]:.1%} at last"
    return note


class UnlearnableSpec(Spec):
    """The budget is a poison rate."""

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        rate = PoisonRate(parse_number(self.only(name, ["poison_rate"])["poison_rate"], "poison_rate"))
        return Threat(name, self.scenario, parse_access(self.access), poison=rate)


scenario = Scenario(
    "unlearnable", "A training set is changed so that nothing trained on it is of use on clean pictures.", play,
    columns=(Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy", compared=True),)),),
    headline="clean_accuracy", paper="Huang et al., 2021, arXiv:2101.04898",
    spec=UnlearnableSpec, decide=trained_already, together=lambda cell: 1, conclude=conclude,
    sections="robustsuite.reports.sections.poisoning:unlearnable_part",
)  # fmt: skip
