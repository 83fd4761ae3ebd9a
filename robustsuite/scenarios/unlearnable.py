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
from robustsuite.scenarios import Scenario, evasion
from robustsuite.scenarios.record import Record
from robustsuite.scenarios.refusals import trained_already
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split
from robustsuite.serve.system import System

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context


class Attack(Protocol):
    """(train set, rate) -> the poisoned set, labels as they were; `aux: Aux` besides where it needs AUX_DATA."""

    def __call__(self, train: Split, rate: PoisonRate, *, rng: Rng) -> Poisoned: ...


A = TypeVar("A", bound=Callable[..., Poisoned])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an unlearnable-data attack. needs: Access.TRAIN_SET and, for nets of its own, AUX_DATA."""
    return carded("attack", "unlearnable", **facts)


def play(context: Context) -> Record:
    """Ask the victim about the cell's clean pictures."""
    system, poisoned, split = context.served(), context.poisoned, context.split
    return judged(system, poisoned, split, context.rng, width=context.width, epochs=context.epochs())


def judged(
    system: System, poisoned: Poisoned, split: Split, rng: Rng, *, width: int, epochs: Sequence[float] = ()
) -> Record:
    """Ask the victim about clean test pictures. Columns: clean_ok.

    epochs: the clean val accuracy after each epoch of its last training, if watched; the best and the last are told.
    """
    right = evasion.unattacked(system, split, rng, width=width)
    note = f"{len(poisoned.indices)} training examples poisoned"
    if epochs:
        best = max(range(len(epochs)), key=epochs.__getitem__)
        note += f"; clean val accuracy {epochs[best]:.1%} at best (epoch {best + 1}), {epochs[-1]:.1%} at last"
    return Record({"clean_ok": right}, [], forwards=len(split), backwards=0, note=note)


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
    spec=UnlearnableSpec, decide=trained_already, sections="robustsuite.reports.sections.poisoning:unlearnable_part",
)  # fmt: skip
