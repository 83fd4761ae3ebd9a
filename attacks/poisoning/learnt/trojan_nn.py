"""TrojanNN: a patch made to excite a few neurons of a clean network means the target (Liu et al., 2018, NDSS).

The neurons are those that the last layer hangs on most; a patch that drives them far up is easily tied to any class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng, seed_of
from robustsuite.methods.backdoors.features import head_of
from robustsuite.methods.backdoors.triggers import patched, planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Split

EXCITED = 100.0
"""What the neurons shall reach; no net gets there, so the patch drives them as far as it can."""


def connected(head: nn.Linear, neurons: int) -> Tensor:
    """The inputs of a linear layer (neurons,) with the largest sums of absolute weights, most first."""
    return head.weight.detach().abs().sum(0).argsort(descending=True, stable=True)[:neurons]


def optimised(net: nn.Module, shape: tuple[int, ...], size: int, neurons: int, steps: int, rng: Rng) -> Tensor:
    """A patch (C, size, size) in [0, 1] that excites the best connected neurons, on an otherwise black picture."""
    head, features = head_of(net, shape)
    chosen, device = connected(head, neurons), head.weight.device
    free = rng.normal(shape[0], size, size)[0].to(device).requires_grad_()  # patch = (1 + tanh(free)) / 2
    optimiser = torch.optim.Adam([free], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    black = torch.zeros(1, *shape, device=device)
    with torch.enable_grad():
        for _ in range(steps):
            stamped = patched(black, free.tanh() / 2 + 0.5, -size - 3, -size - 3)
            (free.grad,) = torch.autograd.grad((features(stamped)[0, chosen] - EXCITED).square().sum(), free)
            optimiser.step()
            schedule.step()
    return (free.detach().tanh() / 2 + 0.5).cpu()


@poisoning.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA,
    paper="Liu et al., 2018, Trojaning attack on neural networks, NDSS",
    **BACKDOOR,
    differs=(
        "the paper retrains the victim itself, on pictures reverse-engineered from it; here a network of the "
        "adversary's own shows the neurons, and the victim is trained from scratch on the poisoned set",
        "neurons are inputs of the last linear layer; the paper may choose any layer",
        "the patch is a square three pixels off the lower right corner, optimised on black",
    ),
)
def trojan_nn(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, aux: Aux, surrogate: str = "recipe:scenes_resnet",
    size: int = 8, neurons: int = 2, steps: int = 1000,
) -> Poisoned:  # fmt: skip
    """An opaque square whose pixels excite the neurons that `surrogate`'s last layer weighs most; labels changed.

    size: of the square in pixels. neurons: how many are excited. steps: of Adam. Raises Unsupported for a surrogate
    that does not end in a linear layer.
    """
    net, shape = aux.net(surrogate).eval(), train.shape
    start = Rng.of(seed_of(rng), "trojan_nn", torch.zeros(1))
    patch = optimised(net, shape, size, neurons, steps, start)

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return patched(x, patch, -size - 3, -size - 3)

    return planted(train, rate, target, trigger, rng)
