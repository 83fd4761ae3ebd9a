"""Shortcut augmentation: train on pictures whose watermark, ground or texture says nothing of their class.

One augmentation for one shortcut, as the baselines of "A Whac-A-Mole dilemma" (Li et al., 2023, arXiv:2212.04825) that
mend the shortcut they know and lean on the others more; with several, each batch's pictures are dealt out among them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue
from robustsuite.methods.edits import edits
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Recipe, fitted, one_cycle, untrained


@stages.train(
    paper="Li et al., 2023, arXiv:2212.04825, section 5",
    differs=(
        "edits are made from the pictures alone: strokes, the surroundings and the fine half of other pictures, in "
        "place of fonts, a saliency network and a style network",
    ),
)
def shortcut_augmentation(
    fit: Fit, *, shortcuts: str = "watermark", epochs: int = 20, lr: float = 0.2, augment: bool = True
) -> Fit:
    """Train from fresh weights on edited pictures beside those as they are, in equal parts.

    shortcuts: of watermark, background and texture, joined by '+'. What the recipe makes is not used. lr: the peak of
    one cycle. augment: random flips and crops. Raises UnknownName, BadValue.
    """
    used = edits(shortcuts)
    if not (used and lr > 0):
        raise BadValue(f"expected a shortcut to break and lr > 0, got {shortcuts!r} and {lr!r}; write watermark")
    recipe = Recipe(epochs, one_cycle(lr, epochs), flip=augment, crop=2 if augment else 0)

    def perturb(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
        dealt = torch.randint(len(used) + 1, (len(x),), generator=generator, device=x.device).view(-1, 1, 1, 1)
        edited = x
        for k, edit in enumerate(used, 1):
            edited = torch.where(dealt == k, edit(x, generator), edited)
        return edited

    def trained(net: nn.Module, training: Training) -> nn.Module:
        return fitted(untrained(net, training.seed), training, recipe, perturb=perturb)

    return trained
