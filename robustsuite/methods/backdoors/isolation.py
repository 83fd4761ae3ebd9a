"""Which training examples are learnt fastest: poisons, where a trigger is easier than the task (Li et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.serve.models import Training
from robustsuite.serve.training import finite, full_batches, seeded, untrained


def easiest(
    net: nn.Module, training: Training, share: float, *, gamma: float, epochs: int, lr: float, batch: int = 64
) -> Tensor:
    """Positions (M,) of the share of the train set with the least loss after a training that holds loss at gamma.

    Local gradient ascent: a batch's loss l counts as sign(l - gamma) l, so that what falls below gamma is pushed up
    again, and only what is easiest gets far below (Li et al., 2021, arXiv:2110.11571). From fresh weights
    of the architecture of `net`, SGD with Nesterov's momentum of 0.9. Raises BadValue.
    """
    if not 0 < share < 1 or epochs < 1:
        raise BadValue(f"expected a share between 0 and 1 and epochs >= 1, got {share!r} and {epochs!r}; write 0.01")
    device = training.device
    net = untrained(net, training.seed).to(device).train().requires_grad_(True)
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    seen: list[Tensor] = []
    with seeded(training.seed, device), torch.enable_grad():
        for _, x, y in full_batches(training.train, device, epochs=epochs, size=batch, seed=training.seed):
            loss = functional.cross_entropy(net(x), y)
            optimiser.zero_grad(set_to_none=True)
            ((loss - gamma).sign() * loss).backward()
            optimiser.step()
            seen.append(loss.detach())
    finite(seen, epochs - 1)
    losses = example_losses(net.eval(), training)
    return losses.argsort(stable=True)[: max(1, int(share * len(losses)))].sort().values


def example_losses(net: nn.Module, training: Training) -> Tensor:
    """Cross-entropy (N,) of each training example, on the CPU."""
    with torch.no_grad():
        parts = [functional.cross_entropy(net(x.to(training.device)), y.to(training.device), reduction="none").cpu()
                 for _, x, y in training.train.batches(512)]  # fmt: skip
    return torch.cat(parts)
