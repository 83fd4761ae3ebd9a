"""Which pictures of a cell are kept: those that broke, up to a number, or all that were attacked, or none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustsuite.maths.projections import levels
from robustsuite.records.pictures import MOST_VALUES, Kept, both

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context

MOST = 16
"""Broken pictures of a cell that are kept unless all are: drawn, so that they are of no one class, and the same ones
however the cell is divided."""


def kept(context: Context, attacked: Tensor, broken: Tensor, pictures: Callable[[Tensor], Tensor]) -> Kept | None:
    """What the threat says shall be kept of these examples; None where that is nothing.

    attacked, broken: which (N,) the adversary changed, and which of them got what it wanted. pictures: positions (M,)
    -> (M, C, H, W) as they were put to the system.
    """
    wanted = context.threat.keep
    if wanted == "none" or math.prod(context.served().space.shape) > MOST_VALUES:
        return None
    rows = (attacked if wanted == "all" else broken & attacked).nonzero().flatten()
    rows = rows if wanted == "all" else rows[_few(context, rows)]
    if not len(rows):
        return None
    clean = context.split.images(rows)
    clean = levels(clean) if context.served().grid else clean
    adversarial = pictures(rows).detach().cpu().float()
    whole = adversarial.flatten(1).isfinite().all(1)  # what is not is no picture, and broke nothing
    found = Kept(context.split.ids[rows].numpy(), clean.cpu().numpy(), adversarial.numpy())
    return found if bool(whole.all()) else found.at(whole.nonzero().flatten().numpy())


def of_all(context: Context, parts: Iterable[Kept]) -> Iterator[Kept]:
    """What is kept of a cell whose parts kept these; context: of the whole cell."""
    if context.threat.keep == "all" or not len(context.split):  # a cell about no example says itself what it keeps
        yield from parts
        return
    found = both(parts)
    if found is None:
        return
    place = {int(example): i for i, example in enumerate(context.split.ids)}
    rows = torch.tensor([place[int(example)] for example in found.ids])
    yield found.at(_few(context, rows).numpy())


def _few(context: Context, rows: Tensor) -> Tensor:
    """Which of the examples at `rows` (M,), by their place in it, are among the first by lot."""
    drawn = context.rng[rows].fold("kept").uniform()
    return drawn.flatten().argsort()[:MOST].sort().values.cpu()
