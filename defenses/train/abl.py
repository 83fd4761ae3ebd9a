"""ABL: what is learnt fastest is set aside while training, and unlearnt at its end.

Li, Lyu, Koren, Lyu, Li, Ma, NeurIPS 2021, "Anti-Backdoor Learning" (arXiv:2110.11571).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from robustsuite.methods.backdoors.clean_steps import ascent
from robustsuite.methods.backdoors.isolation import easiest
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import accuracy

SIZE = 64
"""Examples of a step of the ascent."""


@stages.train(
    paper="Li et al., 2021, arXiv:2110.11571",
    differs=(
        "between isolating and unlearning the model's own recipe trains on the other examples; the authors fine-tune "
        "the isolating network",
        "batch norm's statistics stay while unlearning, and what costs clean accuracy is undone",
        "the ascent's steps are counted, so that few isolated examples are no fewer of them; it ends once all of these "
        "are wrong, and its rate is ten times the authors': at theirs a network that is sure of its poisons stays so",
    ),
)
def abl(
    fit: Fit, *, share: float = 0.01, gamma: float = 0.5, isolation_epochs: int = 20, isolation_lr: float = 0.1,
    steps: int = 160, lr: float = 5e-3, tolerance: float = 0.1,
) -> Fit:  # fmt: skip
    """Isolate the examples of least loss, train on the others, then ascend the loss of the isolated ones.

    share: isolated. gamma: the loss that the isolating training is held at. isolation_epochs, isolation_lr: of it.
    steps, lr: of the ascent, at most, on batches of 64. tolerance: val accuracy that it may cost. Raises BadValue.
    """

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        rows = easiest(net, training, share, gamma=gamma, epochs=isolation_epochs, lr=isolation_lr)
        others = torch.ones(len(training.train), dtype=torch.bool)
        others[rows] = False
        trained = fit(net, replace(training, train=training.train.at(others.nonzero().flatten())))
        return unlearnt(trained, training.train.at(rows), training, steps=steps, lr=lr, tolerance=tolerance)

    return tuned


def unlearnt(
    net: nn.Module, isolated: Split, training: Training, *, steps: int, lr: float, tolerance: float
) -> nn.Module:
    """A copy that has gone up the loss of the isolated until all are wrong, or val accuracy fell by `tolerance`."""
    net = copy.deepcopy(net).to(training.device).requires_grad_(True)
    floor, best = accuracy(net, training.val) - tolerance, copy.deepcopy(net.state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    epoch = max(1, len(isolated) // SIZE)  # in steps
    how = {"epochs": -(-steps // epoch), "size": SIZE, "seed": training.seed}
    for _ in ascent(net, isolated, optimiser, device=training.device, **how):
        if (left := accuracy(net, isolated)) == 1:
            continue  # nothing is unlearnt yet
        if not accuracy(net, training.val) >= floor:
            break
        best = copy.deepcopy(net.state_dict())
        if left == 0:
            break
    net.load_state_dict(best)
    return net.eval().requires_grad_(False)
