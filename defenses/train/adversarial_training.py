"""Adversarial training from scratch: the cross-entropy on PGD examples alone (Madry et al., 2018, arXiv:1706.06083).

Every batch is moved to where PGD from a random start finds the highest loss, and the network learns on that. Batch norm
is in eval mode while examples are crafted and in train mode for the step, as in adversarial_finetuning.
"""

from __future__ import annotations

from torch import nn

from robustsuite.config.threats import parse_number
from robustsuite.methods.crafting import checked, pgd_examples
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Recipe, fitted, one_cycle, untrained


@stages.train(
    paper="Madry et al., 2018, arXiv:1706.06083",
    differs=(
        "the rate goes up and down once instead of in steps, over 60 epochs",
        "adversarial examples are crafted with batch norm in eval mode",
    ),
)
def adversarial_training(
    fit: Fit, *, eps: float | str = 8 / 255, steps: int = 7, rel_step: float = 0.25, norm: str = "linf",
    epochs: int = 60, lr: float = 0.1, augment: bool = True,
) -> Fit:  # fmt: skip
    """Train from fresh weights on PGD examples; what the recipe makes is not used.

    eps in [0, 1] pixels (8/255 may be a text), norm linf or l2, steps of rel_step * eps. lr: the peak of one cycle.
    augment: random flips and crops, to be turned off for digits. Raises BadValue, UnknownName.
    """
    checked(norm, steps, rel_step, lr)
    recipe = Recipe(epochs, one_cycle(lr, epochs), flip=augment, crop=4 if augment else 0)
    perturb = pgd_examples(norm, parse_number(eps), steps, rel_step)

    def trained(net: nn.Module, training: Training) -> nn.Module:
        return fitted(untrained(net, training.seed), training, recipe, perturb=perturb)

    return trained
