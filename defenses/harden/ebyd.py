"""EBYD: first unlearn the clean task, so that the backdoor stands exposed; then cut what does not bring the task back.

Li, Huang, Zhang, Ma, Jiang, 2024, "Expose Before You Defend" (arXiv:2410.19427). Exposure is clean unlearning (CUL),
ascent on the loss of clean pictures; removal is by masks that recover the task in the exposed network.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustsuite.methods.backdoors.clean_steps import ascent
from robustsuite.methods.backdoors.detection import halves
from robustsuite.methods.backdoors.neurons import masks, pruned
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training
from robustsuite.serve.training import accuracy


@stages.harden(
    paper="Li et al., 2024, arXiv:2410.19427",
    splits=("val",),
    differs=(
        "clean pictures are the val split's: one half to unlearn and recover, the other to stop and to prune by",
        "unlearning stops below twice chance, at a rate that reaches it in small networks too; the authors' code takes "
        "20 epochs of rate 1e-5 whatever comes of it",
        "batch norm's statistics stay; the authors' code updates them in the first epoch alone",
        "of the ways of removal the one by recovered masks; the exposed class is told and does not decide, which "
        "is what a scan by `exposure` is for",
    ),
)
def ebyd(
    net: nn.Module, training: Training, *, lr: float = 1e-4, epochs: int = 100, mask_lr: float = 0.2,
    steps: int = 500, tolerance: float = 0.1,
) -> nn.Module:  # fmt: skip
    """Clean unlearning exposes the backdoor; neurons whose masks stay small while the task is recovered are cut.

    lr, epochs: of the unlearning, by Adam, at most. mask_lr, steps: of the recovery. tolerance: val accuracy that may
    be lost. What the exposed network answers on clean pictures is kept as a finding: the class that it has most of is
    the backdoor's target, where there is one.
    """
    clean, rest = halves(training)
    device = training.device
    net = net.to(device).eval()
    exposed = unlearnt(net, clean, rest, lr=lr, epochs=epochs, seed=training.seed, device=device)
    shares = answers(exposed, rest, device)
    found = masks(exposed, clean, eps=0.0, alpha=1.0, lr=mask_lr, steps=steps, seed=training.seed, device=device)
    repaired, gone = pruned(net, found, rest, tolerance)
    forgot = accuracy(exposed, rest) < 2 / len(shares)
    note = f"most of it is class {int(shares.argmax())}" if forgot else "the clean task could not be unlearnt"
    note += f"; {gone} of {sum(len(m) for m in found.values())} neurons cut"
    bars = {"names": [f"class {c}" for c in range(len(shares))], "values": shares.tolist(),
            "axis": "share of clean pictures answered so by the exposed network"}  # fmt: skip
    training.keep("ebyd", {"title": "What clean unlearning exposed", "note": note, "bars": bars})
    return repaired


def unlearnt(net: nn.Module, clean: Split, rest: Split, *, lr: float, epochs: int, seed: int, device: str) -> nn.Module:
    """A copy that has forgotten the task: ascent until the accuracy on `rest` is below twice chance."""
    exposed = copy.deepcopy(net).to(device).requires_grad_(True)
    chance = 1 / len(answers(net, rest, device))
    optimiser = torch.optim.Adam(exposed.parameters(), lr=lr, weight_decay=5e-4)
    for _ in ascent(exposed, clean, optimiser, epochs=epochs, size=128, seed=seed, device=device):
        if accuracy(exposed, rest) < 2 * chance:
            break
    return exposed.requires_grad_(False)


def answers(net: nn.Module, split: Split, device: str) -> Tensor:
    """The share (K,) of a split's pictures that is answered with each class, on the CPU."""
    with torch.no_grad():
        logits = torch.cat([net(x.to(device)).cpu() for _, x, _ in split.batches(512)])
    return logits.argmax(1).bincount(minlength=logits.shape[1]) / len(logits)
