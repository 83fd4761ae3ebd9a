"""Neural Cleanse: a class that a small trigger reaches from everywhere is backdoored (Wang et al., 2019, IEEE S&P).

For every class the smallest mask and pattern that send clean pictures there are sought, all classes in one batch; a
class whose mask is far smaller than the others' (median absolute deviation) is unlearnt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.methods.backdoors.detection import halves
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, fitted

UP, DOWN, PATIENCE = 1.5, 1.5**1.5, 5
"""How the price of a mask rises after PATIENCE steps of success, and falls after as many of failure."""


def reversed_triggers(
    net: nn.Module, clean: Split, classes: int, *, steps: int, batch: int, seed: int, device: str, success: float = 0.99
) -> tuple[Tensor, Tensor]:
    """Masks (K, 1, H, W) and patterns (K, C, H, W) in [0, 1] of least area that reach each class from clean pictures.

    Adam (0.1; 0.5, 0.9) on cross-entropy + price * |mask|_1, the price of each class moving by itself; of all steps
    that reached the class on `success` of a batch the smallest mask is kept.
    """
    shape = clean.images(torch.arange(1)).shape[1:]
    order = torch.Generator().manual_seed(seed)
    raw = [(0.1 * torch.randn(classes, c, *shape[1:], generator=order)).to(device) for c in (1, shape[0])]
    raw = [r.requires_grad_() for r in raw]
    optimiser = torch.optim.Adam(raw, lr=0.1, betas=(0.5, 0.9))
    price = torch.full((classes,), 1e-3, device=device)
    up, down = torch.zeros(classes, device=device), torch.zeros(classes, device=device)
    best = torch.full((classes,), torch.inf, device=device)
    kept = [torch.ones(classes, 1, *shape[1:], device=device), torch.zeros(classes, *shape, device=device)]
    targets = torch.arange(classes, device=device).repeat_interleave(batch)
    for _ in range(steps):
        x = clean.images(torch.randint(len(clean), (batch,), generator=order)).to(device)
        mask, pattern = (torch.tanh(r) / 2 + 0.5 for r in raw)
        stamped = x[None] + mask[:, None] * (pattern[:, None] - x[None])
        with torch.enable_grad():
            logits = net(stamped.flatten(0, 1))
            loss = functional.cross_entropy(logits, targets, reduction="none").view(classes, batch).mean(1)
            area = mask.flatten(1).sum(1)
            optimiser.zero_grad()
            (loss + price * area).sum().backward()
        optimiser.step()
        with torch.no_grad():
            reached = (logits.argmax(1) == targets).view(classes, batch).float().mean(1) >= success
            better = reached & (area < best)
            best = torch.where(better, area, best)
            where = better.view(-1, 1, 1, 1)
            kept = [torch.where(where, new.detach(), old) for new, old in zip((mask, pattern), kept, strict=True)]
            up, down = torch.where(reached, up + 1, 0), torch.where(reached, 0, down + 1)
            price = torch.where(up >= PATIENCE, price * UP, torch.where(down >= PATIENCE, price / DOWN, price))
            up, down = torch.where(up >= PATIENCE, 0, up), torch.where(down >= PATIENCE, 0, down)
    return kept[0], kept[1]


def outliers(areas: Tensor, limit: float) -> Tensor:
    """Classes (K,) whose mask lies more than `limit` median absolute deviations (x 1.4826) below the median."""
    middle = areas.median()
    deviation = 1.4826 * (areas - middle).abs().median()
    return (areas < middle) & ((middle - areas) > limit * deviation.clamp_min(1e-12))


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
    suspects = outliers(areas, limit).nonzero().flatten()
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
