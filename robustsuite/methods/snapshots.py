"""One network at several points of its training: weights stacked, and swapped in when one of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, fitted

Weights = dict[str, Tensor]
Stir = Callable[[nn.Module, torch.Generator, float], None]
"""(network, generator, epoch as a fraction): before each step of a training."""


class Snapshots(nn.Module):
    """An architecture and S sets of its weights and statistics; asked as a whole it answers the mean of their logits.

    states: what `state_dict` of `net` held at each. The net's own weights are of no matter.
    """

    def __init__(self, net: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self._architecture = (net,)  # in a tuple, so that its weights are none of this module's
        self.names = tuple(states[0])
        for name in self.names:
            stack = torch.stack([state[name].detach() for state in states])
            if stack.is_floating_point():
                self.register_parameter(_held(name), nn.Parameter(stack, requires_grad=False))
            else:
                self.register_buffer(_held(name), stack)

    def __len__(self) -> int:
        return len(self._stack(self.names[0]))

    def _stack(self, name: str) -> Tensor:
        found: Tensor = getattr(self, _held(name))
        return found

    def members(self) -> list[Callable[[Tensor], Tensor]]:
        """Each of them as a function: pictures (N, C, H, W) -> logits (N, K)."""
        net = self._architecture[0].eval().to(self._stack(self.names[0]).device)  # with what stands in no state

        def member(i: int) -> Callable[[Tensor], Tensor]:
            state = {name: self._stack(name)[i] for name in self.names}
            return partial(_asked, net, state)

        return [member(i) for i in range(len(self))]

    def predictors(self, x: Tensor) -> Tensor:
        """Logits of each (B, S, K)."""
        return torch.stack([ask(x) for ask in self.members()], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Their mean (B, K)."""
        return self.predictors(x).mean(1)


def _asked(net: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    logits: Tensor = functional_call(net, dict(state), (x,))
    return logits


def _held(name: str) -> str:
    """The name of a module's tensor has no dots."""
    return f"at_{name.replace('.', '/')}"


def collected(
    net: nn.Module, training: Training, recipe: Recipe, epochs: Sequence[float], stir: Stir | None = None
) -> Snapshots:  # fmt: skip
    """The weights that a training of `net` passes after these numbers of epochs, fractions and rising, up to its end.

    stir: moves the weights before a step, as it likes. Raises as `fitted` does.
    """
    states: list[Weights] = []

    def look(net: nn.Module, x: Tensor, y: Tensor, noise: torch.Generator, epoch: float) -> Tensor:
        if due := sum(after <= epoch + 1e-9 for after in epochs[len(states) :]):
            states.extend([_state(net)] * due)  # several, where there are fewer batches than snapshots
        if stir is not None:
            stir(net, noise, epoch)
        return x

    ended = fitted(net, training, recipe, perturb=look)
    return Snapshots(ended, states + [_state(ended)] * (len(epochs) - len(states)))


def shaped(net: nn.Module, n: int) -> Snapshots:
    """n snapshots of a network as it is: what trained ones are read into."""
    return Snapshots(net, [net.state_dict()] * n)


def _state(net: nn.Module) -> Weights:
    """Copies, back from channels last: weights read from a file are not in it."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in net.state_dict().items()}  # fmt: skip
