"""NAD: a fine-tuned teacher shows the network where to look (Li et al., ICLR 2021, arXiv:2101.05930)."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.methods.backdoors.detection import halves
from robustsuite.methods.maps import attention, feature_maps
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.training import Rate, Recipe, descend, fitted, full_batches, seeded

LAYERS = 3
"""The deepest picture sizes whose attention is distilled, as the authors' three groups of blocks."""


@stages.harden(
    paper="Li et al., 2021, arXiv:2101.05930",
    splits=("val",),
    differs=(
        "clean pictures are one half of val's, never augmented",
        "attention is of the last features of each of the three deepest picture sizes, with one weight; the authors "
        "name layers of two architectures and weigh each",
    ),
)
def nad(
    net: nn.Module, training: Training, *, beta: float = 1000.0, lr: float = 0.1, epochs: int = 20,
    teacher_epochs: int = 10,
) -> nn.Module:  # fmt: skip
    """The network learns clean pictures and, layer by layer, the attention of its own fine-tuned copy.

    beta: weight of each layer's distance. lr: for the first tenth of the epochs, a tenth of it then. teacher_epochs: of
    the copy's fine-tuning. Raises BadValue.
    """
    if not (beta >= 0 and lr > 0 and min(epochs, teacher_epochs) > 0):
        raise BadValue(f"expected beta >= 0 and positive numbers for nad, got {beta=}, {lr=}, {epochs=}, "
                       f"{teacher_epochs=}; see robustsuite show nad")  # fmt: skip
    clean, rest = halves(training)
    device = training.device
    own = Training(clean, rest, training.seed, device)
    teacher = fitted(net, own, Recipe(teacher_epochs, dropping(lr, teacher_epochs), batch=64, weight_decay=1e-4))
    student = copy.deepcopy(net).to(device).train().requires_grad_(True)
    optimiser = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    rate = dropping(lr, epochs)
    with seeded(training.seed, device), torch.enable_grad():
        for epoch, x, y in full_batches(clean, device, epochs=epochs, size=64, seed=training.seed):
            logits, seen = feature_maps(student, partial(student, x))
            with torch.no_grad():
                shown = feature_maps(teacher, partial(teacher, x))[1]
            loss = functional.cross_entropy(logits, y) + beta * apart(seen, shown)
            descend(loss, optimiser, rate(epoch))
    return student.eval().requires_grad_(False)


def dropping(lr: float, epochs: int) -> Rate:
    """lr in the first tenth of the epochs, a tenth of it in the others."""
    return lambda epoch: lr if epoch < epochs / 10 else lr / 10


def apart(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Mean squared distances of attention maps, summed over the deepest LAYERS; 0 for the same network."""
    pairs = list(zip(student, teacher, strict=True))[-LAYERS:]
    return torch.stack([functional.mse_loss(attention(a), attention(b)) for a, b in pairs]).sum()
