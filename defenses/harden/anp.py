"""ANP: neurons whose small perturbation makes clean pictures wrong carry the backdoor, and are cut.

Wu and Wang, NeurIPS 2021, "Adversarial Neuron Pruning Purifies Backdoored Deep Models" (arXiv:2110.14430).
"""

from __future__ import annotations

from torch import nn

from robustsuite.errors import BadValue
from robustsuite.methods.backdoors.detection import halves
from robustsuite.methods.backdoors.neurons import masks, pruned
from robustsuite.serve import stages
from robustsuite.serve.models import Training


@stages.harden(
    paper="Wu and Wang, 2021, arXiv:2110.14430",
    splits=("val",),
    differs=(
        "clean pictures are the val split's, never augmented: one half for the masks, the other to choose the "
        "threshold by; the authors' code prints every threshold and chooses none",
        "the perturbation is projected onto [-eps, eps] as the paper says; the authors' code leaves it up to 2 eps",
        "in a network without batch norm, outputs of convolutions and hidden linear layers are the neurons",
    ),
)
def anp(
    net: nn.Module, training: Training, *, eps: float = 0.4, alpha: float = 0.2, lr: float = 0.2, steps: int = 2000,
    tolerance: float = 0.1,
) -> nn.Module:  # fmt: skip
    """A mask of neurons learnt on clean pictures under adversarial perturbations; neurons of small masks are cut.

    eps: of the relative perturbation of weights and biases. alpha: share of the loss without it. lr, steps: of the
    masks. tolerance: val accuracy that may be lost. How many neurons are cut is kept as a finding.
    Raises BadValue.
    """
    if not (eps >= 0 and 0 <= alpha <= 1 and lr > 0 and steps > 0 and tolerance >= 0):
        raise BadValue(f"expected eps and tolerance >= 0, alpha in [0, 1], lr and steps > 0 for anp, got {eps=}, "
                       f"{alpha=}, {lr=}, {steps=}, {tolerance=}; see robustsuite show anp")  # fmt: skip
    clean, rest = halves(training)
    net = net.to(training.device).eval()
    found = masks(net, clean, eps=eps, alpha=alpha, lr=lr, steps=steps, seed=training.seed, device=training.device)
    repaired, gone = pruned(net, found, rest, tolerance)
    note = f"{gone} of {sum(len(mask) for mask in found.values())} neurons cut"
    table = {"columns": ["layer", "neurons", "smallest mask"],
             "rows": [[name, len(mask), round(float(mask.min()), 4)] for name, mask in found.items()]}  # fmt: skip
    training.keep("anp", {"title": "Neurons that ANP masked", "note": note, "table": table})
    return repaired
