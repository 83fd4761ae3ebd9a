"""MM-BD: a backdoor's target is answered with a larger margin than any class is honestly (Wang et al., 2024, IEEE S&P).

Needs no picture: from random ones the margin of each class is driven up, and the largest is held against the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.margins import corrected, uncorrected
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect


@scan.attack(
    needs=Access.GRADIENTS,
    paper="Wang et al., 2024, MM-BD: Post-training Detection of Backdoor Attacks, IEEE S&P, arXiv:2205.06900",
    cost=lambda classes, steps, inits, step: Cost(steps * inits * classes, steps * inits * classes),
    learns=True,
    differs=(
        "steps along the gradient's sign, of falling size, in place of SGD at one rate: they need no scale of logits",
        "margins stand over their median, and the p-value is corrected by playing the procedure on gamma draws",
    ),
    **SCAN,
)
def mm_bd(suspect: Suspect, *, rng: Rng, steps: int = 60, inits: int = 10, step: float = 0.1) -> Finding:
    """The largest margin of each class over all others that any picture of [0, 1] reaches, from `inits` random ones.

    step: the first one's length in each pixel; it falls to 0. A class's score is the log of its margin over the
    median one.
    """
    classes, targets = suspect.space.classes, torch.arange(suspect.space.classes, device=suspect.device)
    x = rng.uniform(inits, *suspect.space.shape).flatten(0, 1)
    targets = targets.repeat_interleave(inits)
    best = torch.full((len(x),), -torch.inf, device=suspect.device)
    for i in range(steps + 1):
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            margins = _margins(suspect.net(leaf), targets)
            (g,) = torch.autograd.grad(margins.sum(), leaf)
        best = torch.maximum(best, margins.detach())
        x = (x + step * (1 - i / steps) * g.sign()).clamp(0, 1)
    found = best.view(classes, inits).max(1).values.double().cpu()
    if not bool((found > 0).all()):
        lost = int((found <= 0).sum())
        return Finding(torch.full((classes,), torch.nan), torch.nan, why=f"{lost} classes are never answered")
    p, raw = float(corrected(found.numpy())), float(uncorrected(found.numpy()))
    scores = (found / found.quantile(0.5)).log()
    return Finding(scores, float(scores.max()), figures={"p_corrected": p, "p_published": raw})


def _margins(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit over the largest other (N,)."""
    own = logits.gather(1, targets[:, None]).squeeze(1)
    return own - logits.scatter(1, targets[:, None], -torch.inf).amax(1)
