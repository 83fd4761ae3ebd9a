"""One network at several points of its training: weights stacked, and swapped in when one of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Snapshots(nn.Module):
    """An architecture and S sets of its weights and statistics; asked as a whole it answers the mean of their logits.

    states: what `state_dict` of `net` held at each. The net's own weights are of no matter.
    """

    def __init__(self, net: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self._asked = (net,)  # in a tuple, so that its weights are none of this module's
        self.names = tuple(states[0])
        for name in self.names:
            self.register_buffer(_held(name), torch.stack([state[name].detach() for state in states]))

    def __len__(self) -> int:
        return len(self.get_buffer(_held(self.names[0])))

    def members(self) -> list[Callable[[Tensor], Tensor]]:
        """Each of them as a function: pictures (N, C, H, W) -> logits (N, K)."""
        net = self._asked[0].eval()

        def member(i: int) -> Callable[[Tensor], Tensor]:
            state = {name: self.get_buffer(_held(name))[i] for name in self.names}
            return lambda x: functional_call(net, state, (x,), strict=True)

        return [member(i) for i in range(len(self))]

    def predictors(self, x: Tensor) -> Tensor:
        """Logits of each (B, S, K)."""
        return torch.stack([ask(x) for ask in self.members()], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Their mean (B, K)."""
        return self.predictors(x).mean(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Snapshots:
        self._asked[0]._apply(fn, recurse)  # what stands in no `state_dict` goes along
        return super()._apply(fn, recurse)


def _held(name: str) -> str:
    """A buffer's name has no dots."""
    return f"at_{name.replace('.', '/')}"
