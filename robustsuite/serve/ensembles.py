"""Several predictors behind one network: kept apart until a rule joins them, by default their mean logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Members(nn.Module):
    """Whole networks of the same classes side by side."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def members(self) -> list[nn.Module]:
        """Each of them."""
        return list(self.nets)

    def predictors(self, x: Tensor) -> Tensor:
        """Logits of every member, (B, N, K)."""
        return torch.stack([net(x) for net in self.nets], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Their mean, (B, K)."""
        return self.predictors(x).mean(1)
