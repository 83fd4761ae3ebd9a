"""AccelAT: PGD adversarial training whose rate falls where validation accuracy stops rising.

Nikfam, Marchisio, Martina, Shafique (2022, arXiv 2210.06888). After epoch t let a_t be the mean of the last `window`
validation accuracies. The rate is multiplied by `factor`, and no more than that in `quiet` epochs, where

    a_t - a_(t-1) < least,

once more than `window` means are known; it never falls below `floor`. The rule first acts after epoch window + 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import nn

from robustsuite.config.threats import parse_number
from robustsuite.errors import BadData, BadValue
from robustsuite.methods.crafting import checked, pgd_examples
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Perturb, Recipe, fitted

PICTURES = 512
"""Of val at the most, crafted anew against the network after every epoch."""


@stages.train(
    paper="Nikfam et al., 2022, arXiv:2210.06888",
    differs=(
        "adversarial examples are crafted against the network as it is; the authors' code makes them once, from the "
        "network before training, and trains and validates on those",
        "validation is on the val split; the authors' code takes the test set",
        "SGD with Nesterov's momentum; the authors' code trains without momentum",
    ),
)
def accelat(
    fit: Fit,
    *,
    eps: float | str = 8 / 255,
    steps: int = 7,
    rel_step: float = 0.25,
    epochs: int = 50,
    lr: float = 1e-3,
    factor: float = 0.8,
    floor: float = 1e-6,
    window: int = 5,
    quiet: int = 5,
    least: float = 0.005,
    norm: str = "linf",
    augment: bool = True,
) -> Fit:
    """Fine-tune what the recipe returns on PGD examples, the rate steered by robust validation accuracy.

    eps in [0, 1] pixels (8/255 may be a text), norm linf or l2, steps of rel_step * eps. window, quiet: epochs. least:
    a rise of the mean accuracy, in [0, 1], that keeps the rate. augment: random flips and crops. Raises BadData,
    BadValue, UnknownName. Source: arXiv 2210.06888.
    """
    radius = parse_number(eps)
    checked(norm, steps, rel_step, lr)
    if not (0 < factor < 1 and floor >= 0 and window >= 1 and quiet >= 1):
        raise BadValue(
            f"expected 0 < factor < 1, floor >= 0, window >= 1 and quiet >= 1, got {factor!r}, {floor!r}, {window!r} "
            f"and {quiet!r}; write factor: 0.8, window: 5, quiet: 5"
        )
    perturb = pgd_examples(norm, radius, steps, rel_step)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        seen: list[float] = []
        rates = [lr]
        val = training.val.at(torch.arange(min(PICTURES, len(training.val))))

        def steer(now: nn.Module) -> None:
            seen.append(robust_accuracy(now, val, training, perturb))
            rates.append(rate_after(seen, lr, factor=factor, floor=floor, window=window, quiet=quiet, least=least))
            training.tell(f"robust val accuracy {seen[-1]:.4f}, rate {rates[-1]:.3g}")

        recipe = Recipe(epochs, lambda _: rates[-1], flip=augment, crop=4 if augment else 0)
        found = fitted(fit(net, training), training, recipe, perturb=perturb, after=steer)
        rows = [[epoch + 1, value, rate] for epoch, (value, rate) in enumerate(zip(seen, rates, strict=False))]
        columns = ["epoch", "robust val accuracy after it", "rate in it"]
        training.keep("accelat", {"title": "AccelAT, epoch by epoch", "table": {"columns": columns, "rows": rows}})
        return found

    return tuned


@torch.no_grad()
def robust_accuracy(net: nn.Module, split: Split, training: Training, perturb: Perturb) -> float:
    """Share of right answers in [0, 1] to what `perturb` makes of the split, with the same draws at each call.

    Raises BadData for an empty split.
    """
    if not len(split):
        raise BadData("expected at least one val picture to steer by, got none; give the data set a val split")
    draws = torch.Generator(training.device).manual_seed(training.seed)
    right = 0
    for _, x, y in split.batches(128):
        x, y = x.to(training.device), y.to(training.device)
        with torch.enable_grad():
            x_adv = perturb(net, x, y, draws, 0.0)
        right += int((net.eval()(x_adv).argmax(1) == y).sum())
    return right / len(split)


def rate_after(
    seen: Sequence[float], lr: float, *, factor: float, floor: float, window: int, quiet: int, least: float
) -> float:
    """The rate after these validation accuracies, the oldest first."""
    means = [fmean(seen[max(0, i + 1 - window) : i + 1]) for i in range(len(seen))]
    since = quiet
    for i in range(len(seen)):
        since += 1
        if i > window and since > quiet and means[i] - means[i - 1] < least:
            lr, since = lr * factor, 1
    return max(lr, floor)
