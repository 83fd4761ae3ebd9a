"""A head cut to the classes a shift set has, before the argmax: what a net says of any other class cannot be right.

(Hendrycks et al., 2021, "The many faces of robustness", arXiv:2006.16241, score ImageNet-R and -A in this way.) A set
of coarser categories is answered by the one whose classes are the most probable on average (Geirhos et al., 2019).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robustsuite.errors import BadData
from robustsuite.serve.data import Split
from robustsuite.serve.system import System


class Subset(nn.Module):
    """A network whose logits (N, classes) are cut to some classes (K,), in their order."""

    classes: Tensor

    def __init__(self, net: nn.Module, classes: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("classes", classes.clone())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits.index_select(1, self.classes)


class Categories(nn.Module):
    """A network whose logits (N, classes) become the logs of the mean probabilities of categories (G, classes)."""

    members: Tensor

    def __init__(self, net: nn.Module, members: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("members", members.clone())

    def forward(self, x: Tensor) -> Tensor:
        each = self.net(x).log_softmax(1)[:, None].masked_fill(~self.members, -torch.inf)
        return each.logsumexp(2) - self.members.sum(1).log()  # type: ignore[no-any-return]


def restricted(system: System, split: Split, classes: Tensor) -> tuple[System, Split]:
    """The system with its head cut to `classes` (K,), and the split with labels that count within them.

    classes (G, classes) bool: categories, which the split's labels are of. Raises BadData for a label that the head has
    no place for.
    """
    y, coarse = split.y, classes.ndim == 2
    if not coarse:
        place = torch.full((system.space.classes,), -1)
        place[classes] = torch.arange(len(classes))
        y = place[y]
    if bool((y < 0).any()):
        raise BadData(f"expected labels within the head's classes, got {int(split.y[y < 0][0])}; mend the set")

    def cut(net: nn.Module) -> nn.Module:
        made = Categories(net, classes) if coarse else Subset(net, classes)
        return made.to(system.device).eval()

    stand_in = None if system.surrogate is None else cut(system.surrogate)
    space = replace(system.space, classes=len(classes))
    return replace(system, net=cut(system.net), surrogate=stand_in, space=space), replace(split, y=y)
