"""One cell that an audit plays again, and what of a difference is chance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustsuite.config.registry import AttackCard
from robustsuite.config.transforms import Allowed
from robustsuite.engine.afresh import Afresh
from robustsuite.engine.runner import play
from robustsuite.integrity.apart import Apart
from robustsuite.integrity.checks import AUDITED, surprising
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.record import Record
from robustsuite.serve.system import System


@dataclass(frozen=True)
class Case:
    """One cell with its verdicts (N,) and queries (N,); `searched` is shared by the cells of one system."""

    cell: Cell
    system: System
    robust: Tensor
    queries: Tensor
    width: int
    searched: dict[tuple[str, int], bool]
    apart: Apart
    afresh: Afresh | None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def standing(self) -> Tensor:
        """Positions of the standing images, AUDITED at the most."""
        return self.robust.nonzero().flatten()[:AUDITED]

    def beyond_chance(self, fell: Tensor) -> int:
        """How many of the standing images (M,) that fell are more than the attack itself breaks in another play.

        A random system's answers are others each time, and what stands was chosen by the first ones: of it, some falls
        to the same attack. Where the difference may be chance it is 0.
        """
        fell = fell.cpu()
        if not self.system.stochastic or not bool(fell.any()):
            return int(fell.sum())
        more, fewer = int((fell & ~self._anew).sum()), int((~fell & self._anew).sum())
        return more - fewer if surprising(more, fewer) else 0

    @cached_property
    def _anew(self) -> Tensor:
        """Which standing images (M,) fall when the same attack is played with other draws."""
        return ~self.again(self.standing, streams="anew").columns["robust"]

    def again(
        self, rows: Tensor, *, system: System | None = None, width: int | None = None, ball: Allowed | None = None,
        attack: AttackCard | None = None, streams: str = "", **given: Any,
    ) -> Record:  # fmt: skip
        """The columns (M,) and pictures of the same attack on these images, with what is named changed."""
        threat = self.cell.threat
        if threat is not None and streams:  # which are keyed by the threat's name
            threat = replace(threat, name=f"{threat.name}/{streams}")
        if threat is not None and ball is not None:
            threat = replace(threat, budget=ball)
        changed = tuple(sorted({**dict(self.cell.given), **given}.items()))
        few = self.cell.subjects.on(self.cell.split.at(rows))
        cell = replace(self.cell, subjects=few, threat=threat, attack=attack or self.cell.attack, given=changed)
        return play(cell, system or self.system, width=width or self.width)

    def pictures(self, rows: Tensor, name: str) -> tuple[Tensor, Tensor, Rng]:
        """These images (M, C, H, W) with their labels (M,) and streams of this name, on the system's device."""
        split, device = self.cell.split.at(rows), self.system.device
        streams = Rng.of(self.cell.lifecycle.seed, name, split.ids)
        return split.images(torch.arange(len(split))).to(device), split.y.to(device), streams.to(device)
