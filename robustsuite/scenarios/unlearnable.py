"""Unlearnable data: the adversary changes a training set so that nothing trained on it is of use on clean pictures.

(Huang et al., 2021, arXiv:2101.04898.) The lower the clean test accuracy, the stronger the poison; the best epoch
counts beside the last, since an early stop may already undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from robustsuite.adversary import Poisoned
from robustsuite.data import Split
from robustsuite.randomness import Rng
from robustsuite.registry import carded
from robustsuite.scenarios import evasion
from robustsuite.scenarios.record import Record
from robustsuite.system import System
from robustsuite.threats import PoisonRate


class Attack(Protocol):
    """(train set, rate) -> the poisoned set, labels as they were; `aux: Aux` besides where it needs AUX_DATA."""

    def __call__(self, train: Split, rate: PoisonRate, *, rng: Rng) -> Poisoned: ...


A = TypeVar("A", bound=Callable[..., Poisoned])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an unlearnable-data attack. needs: Access.TRAIN_SET and, for nets of its own, AUX_DATA."""
    return carded("attack", "unlearnable", **facts)


def play(
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
