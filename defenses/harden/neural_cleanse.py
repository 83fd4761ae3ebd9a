"""Neural Cleanse: a class that a small trigger reaches from everywhere is backdoored (Wang et al., 2019, IEEE S&P).

For every class the smallest mask and pattern that send clean pictures there are sought, all classes in one batch; a
class whose mask is far smaller than the others' (median absolute deviation) is unlearnt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.methods.backdoors.detection import halves
from robustsuite.methods.backdoors.inversion import deviations_below, reversed_triggers
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, fitted


@stages.harden(
    paper="Wang et al., 2019, Neural Cleanse, IEEE S&P, sections IV and VI",
    splits=("val",),
    differs=("clean pictures are the val split's",),
)
def neural_cleanse(
    net: nn.Module, training: Training, *, steps: int = 400, batch: int = 16, limit: float = 2.0, share: float = 0.2,
    lr: float = 0.01, epochs: int = 2,
) -> nn.Module:  # fmt: skip
    """Triggers are sought for all classes at once; those of outlying classes are unlearnt by fine-tuning.

    steps, batch: of the search for triggers. limit: deviations below the median that make an outlier. share: of the
    fine-tuning pictures that carry a found trigger under their own label. lr, epochs: of that fine-tuning. The masks'
    areas are kept as a finding for the report.
    """
    clean, rest = halves(training)
    device = training.device
    net = net.to(device).eval().requires_grad_(False)
    with torch.no_grad():
        classes = net(clean.images(torch.arange(1)).to(device)).shape[1]
    masks, patterns = reversed_triggers(
        net, clean, classes, steps=steps, batch=batch, seed=training.seed, device=device
    )
    areas = masks.flatten(1).sum(1)
    suspects = (deviations_below(areas) > limit).nonzero().flatten()
    names = [f"class {c}" for c in range(classes)]
    note = f"suspects: {', '.join(names[c] for c in suspects.tolist()) or 'none'}"
    bars = {"names": names, "values": areas.tolist(), "axis": "area of the smallest mask, pixels"}
    training.keep("neural_cleanse", {"title": "Triggers found by Neural Cleanse", "note": note, "bars": bars})
    if not len(suspects):
        return net

    def unlearn(_: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
        which = suspects[torch.randint(len(suspects), (len(x),), generator=generator, device=x.device)]
        marked = x + masks[which] * (patterns[which] - x)
        chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < share
        return torch.where(chosen, marked, x)

    own = Training(clean, rest, training.seed, device)
    return fitted(net, own, Recipe(epochs, lambda e: lr * (1 - e / epochs), batch=64), perturb=unlearn)
