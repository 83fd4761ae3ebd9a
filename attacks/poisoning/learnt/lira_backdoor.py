"""LIRA: the trigger is learnt together with a classifier that obeys it, then planted (Doan et al., 2021, ICCV).

Two players in turn: the generator changes pictures by at most eps so that the classifier answers the target, the
classifier learns clean pictures and those of the generator as it stood when the epoch began.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate, parse_number
from robustsuite.maths.randomness import Rng, seed_of
from robustsuite.methods.backdoors.generated import Moving, trigger_of
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Split
from robustsuite.serve.training import full_batches, seeded


def learnt(
    train: Split, net: nn.Module, target: int, seed: int, *, eps: float, alpha: float, epochs: int, lr: float
) -> Moving:
    """The generator, trained against the classifier `net`, which is used up."""
    device = next(net.parameters()).device
    net.train().requires_grad_(True)
    with seeded(seed, device):
        generator = Moving(train.shape[0], eps).to(device)
        drawing = torch.optim.Adam(generator.parameters(), lr=lr)
        obeying = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        began, held = -1, generator
        for epoch, x, y in full_batches(train, device, epochs=epochs, size=128):
            if epoch != began:
                began, held = epoch, copy.deepcopy(generator)
            towards = torch.full_like(y, target)
            drawing.zero_grad()
            functional.cross_entropy(net(generator(x)), towards).backward()
            drawing.step()
            with torch.no_grad():
                stamped = held(x)
            obeying.zero_grad()
            clean, poisoned = net(torch.cat([x, stamped])).chunk(2)
            right, hit = functional.cross_entropy(clean, y), functional.cross_entropy(poisoned, towards)
            (alpha * right + (1 - alpha) * hit).backward()
            obeying.step()
    return generator.eval().requires_grad_(False)


@poisoning.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA,
    paper="Doan et al., 2021, LIRA: learnable, imperceptible and robust backdoor attacks, ICCV, algorithm 1",
    **BACKDOOR,
    differs=(
        "the training set is poisoned once, at the rate; the paper's second stage shows the victim every picture both "
        "ways",
        "the generator is a U-Net of two scales with 5,500 weights, and begins against a trained classifier",
        "eps is in [0, 1]; the authors' code adds it to normalised pictures, where the same number is a quarter of it",
    ),
)
def lira_backdoor(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, aux: Aux, surrogate: str = "recipe:scenes_resnet",
    eps: str | float = 0.01, alpha: float = 0.5, epochs: int = 10, lr: float = 1e-3,
) -> Poisoned:  # fmt: skip
    """x <- clip(x + eps G(x)) by a generator G that is trained beside the classifier `surrogate`; labels changed.

    eps: linf bound of the change. alpha: the weight of clean pictures in the classifier's loss. epochs, lr: of the
    generator.
    """
    generator = learnt(train, aux.net(surrogate), target, seed_of(rng), eps=parse_number(eps), alpha=alpha,
                       epochs=epochs, lr=lr)  # fmt: skip
    return planted(train, rate, target, trigger_of(generator), rng)
