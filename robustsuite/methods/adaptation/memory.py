"""RoTTA's memory: pictures of all classes alike, the young and the sure ones (Yuan et al., 2023, arXiv:2303.13899)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Item:
    """A remembered picture (C, H, W): the class it was taken for, the entropy of that answer, questions since."""

    x: Tensor = field(repr=False)
    label: int
    entropy: float
    age: int = 0


@dataclass
class Memory:
    """At most `size` pictures, size / classes of a class; timeliness and uncertainty weigh what is thrown out."""

    size: int
    classes: int
    timeliness: float = 1.0
    uncertainty: float = 1.0
    items: list[Item] = field(default_factory=list, repr=False)

    def worth(self, item: Item) -> float:
        """How readily an item is thrown out: old and unsure ones first."""
        old = self.timeliness / (1 + math.exp(-item.age / self.size))
        return old + self.uncertainty * item.entropy / math.log(self.classes)

    def counts(self) -> list[int]:
        """Items of each class."""
        found = [0] * self.classes
        for item in self.items:
            found[item.label] += 1
        return found

    def add(self, new: Item) -> None:
        """Take it in where there is room; else in place of the worst of its class, or of the largest classes."""
        counts = self.counts()
        if counts[new.label] >= self.size / self.classes:
            self._instead(new, [new.label])
        elif len(self.items) < self.size:
            self.items.append(new)
        else:
            self._instead(new, [k for k, n in enumerate(counts) if n == max(counts)])
        for item in self.items:
            item.age += 1

    def _instead(self, new: Item, classes: list[int]) -> None:
        among = [item for item in self.items if item.label in classes]
        worst = max(reversed(among), key=self.worth)  # of equals the latest
        if self.worth(worst) > self.worth(new):
            self.items = [item for item in self.items if item is not worst]
            self.items.append(new)

    def pictures(self) -> tuple[Tensor, Tensor]:
        """All of them (M, C, H, W), class by class, and their ages (M,) in sizes of the memory."""
        ordered = sorted(self.items, key=lambda item: item.label)
        ages = torch.tensor([item.age for item in ordered], device=ordered[0].x.device) / self.size
        return torch.stack([item.x for item in ordered]), ages
