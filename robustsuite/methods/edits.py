"""Pictures with another watermark, ground or texture: edits that break a shortcut, made from the pictures alone.

After the augmentations of "A Whac-A-Mole dilemma" (Li et al., 2023, arXiv:2212.04825): characters at random over a
picture, the ground of another picture around its object, and another picture's style. Theirs need fonts, a saliency
network and a style network; these need none, and are coarser.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.errors import UnknownName

Edit = Callable[[Tensor, torch.Generator], Tensor]
"""(pictures (N, C, H, W) in [0, 1], generator on their device) -> edited pictures in [0, 1]."""

STROKES, WIDE = 7, 0.07
"""A watermark's strokes, and half their width in half pictures."""


def watermarked(x: Tensor, generator: torch.Generator) -> Tensor:
    """White strokes across each picture, up and down as in writing, at a height and opacity (0.1 to 0.9) of its own."""
    n, _, height, width = x.shape
    u = 2 * torch.rand(n, STROKES + 2, 2, generator=generator, device=x.device) - 1
    k = torch.arange(STROKES + 1, device=x.device)
    across, up = 1.7 * k / STROKES - 0.85 + 0.1 * u[:, 1:, 0], 0.25 * (1 - 2 * (k % 2)) + 0.2 * u[:, 1:, 1]
    corners = torch.stack([across, up * u[:, :1, 0].sign() + 0.4 * u[:, :1, 1]], -1)
    rows, columns = (2 * (torch.arange(k, device=x.device) + 0.5) / k - 1 for k in (height, width))
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    start, along = corners[:, :-1, None, None], (corners[:, 1:] - corners[:, :-1])[:, :, None, None]
    beyond = place - start
    t = (beyond * along).sum(-1) / along.square().sum(-1).clamp_min(1e-9)
    distance = (beyond - t.clamp(0, 1)[..., None] * along).norm(dim=-1).amin(1, keepdim=True)
    opacity = 0.1 + 0.8 * torch.rand(n, 1, 1, 1, generator=generator, device=x.device)
    ink = opacity * ((WIDE - distance) * height / 2 + 0.5).clamp(0, 1)
    marked: Tensor = x * (1 - ink) + ink
    return marked


def regrounded(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture's middle, an ellipse of 0.5 ... 0.9 of it with a soft edge, in another picture's surroundings."""
    n, _, height, width = x.shape
    rows, columns = (2 * (torch.arange(k, device=x.device) + 0.5) / k - 1 for k in (height, width))
    far = (rows[:, None].square() + columns.square()).sqrt()
    reach = 0.5 + 0.4 * torch.rand(n, 1, 1, 1, generator=generator, device=x.device)
    middle = ((reach - far) * height / 4 + 0.5).clamp(0, 1)
    return middle * x + (1 - middle) * x[torch.randperm(n, generator=generator, device=x.device)]


def retextured(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture's coarse half, means over 5 x 5 pixels, with the fine half of another picture."""
    coarse = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
    fine = (x - coarse)[torch.randperm(len(x), generator=generator, device=x.device)]
    return (coarse + fine).clamp(0, 1)


EDITS: dict[str, Edit] = {"watermark": watermarked, "background": regrounded, "texture": retextured}


def edits(names: str) -> list[Edit]:
    """The edits of 'watermark+background'; none for ''. Raises UnknownName."""
    found = [name for name in names.split("+") if name]
    for name in found:
        if name not in EDITS:
            raise UnknownName("edit", name, EDITS)
    return [EDITS[name] for name in found]
