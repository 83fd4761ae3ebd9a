"""Adversarial fine-tuning: a few epochs of PGD adversarial training on a network trained already.

Jeddi, Shafiee, Wong (2020, arXiv 2012.13628): Madry's loss (Madry et al., 2018, arXiv 1706.06083), the cross-entropy
on adversarial examples alone, with a learning rate that starts slowly and decays fast. Over ten epochs e = 0 ... 9

    lr(e) = b (e + 1) for e <= 4,  5 b 2^-(e - 4) after.

schedule="epsilon" ramps the budget instead, linearly to eps over the first half, under a half cosine of the rate
(Ngnawé et al., 2025, arXiv 2509.23325).

Batch norm: adversarial examples are crafted in eval mode (running statistics, which crafting leaves alone); the step
that trains on them is in train mode, so the statistics become those of adversarial batches.
"""

from __future__ import annotations

import math

from torch import nn

from robustsuite.config.threats import parse_number
from robustsuite.errors import UnknownName
from robustsuite.methods.crafting import checked, pgd_examples
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Rate, Recipe, fitted, half_cosine

SCHEDULES = ("ssfd", "epsilon")


@stages.train(
    paper="Jeddi, Shafiee, Wong, 2020, arXiv:2012.13628",
    differs=(
        "base rate, weight decay and PGD's parameters are the common ones: the authors published no code",
        "adversarial examples are crafted with batch norm in eval mode",
    ),
)
def adversarial_finetuning(
    fit: Fit,
    *,
    eps: float | str = 8 / 255,
    steps: int = 7,
    rel_step: float = 0.25,
    epochs: int = 10,
    lr: float = 0.01,
    norm: str = "linf",
    schedule: str = "ssfd",
    augment: bool = True,
) -> Fit:
    """Fine-tune what the recipe returns on PGD examples, slow start and fast decay.

    eps in [0, 1] pixels (8/255 may be a text), norm linf or l2, steps of rel_step * eps. lr: the base rate b; the
    peak is 5 b. epochs: 10 as published, any other number stretches the schedule. augment: random flips and crops,
    to be turned off for digits. Raises BadValue, UnknownName. Source: arXiv 2012.13628.
    """
    radius = parse_number(eps)
    checked(norm, steps, rel_step, lr)
    if schedule not in SCHEDULES:
        raise UnknownName("schedule", schedule, SCHEDULES)
    rate = slow_start_fast_decay(lr, epochs) if schedule == "ssfd" else half_cosine(lr, epochs)
    ramp = epochs / 2 if schedule == "epsilon" else 0.0
    recipe = Recipe(epochs, rate, flip=augment, crop=4 if augment else 0)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        return fitted(fit(net, training), training, recipe, perturb=pgd_examples(norm, radius, steps, rel_step, ramp))

    return tuned


def slow_start_fast_decay(b: float, epochs: int) -> Rate:
    """The published schedule, stretched from ten epochs to `epochs`; constant inside each tenth."""

    def rate(epoch: float) -> float:
        e = min(9, math.floor(10 * epoch / epochs + 1e-9))
        return b * (e + 1) if e <= 4 else float(5 * b * 2.0 ** -(e - 4))

    return rate
