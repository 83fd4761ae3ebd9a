"""Label noise: the labels of so many training examples are wrong, their pictures as they were.

Symmetric: any of the other classes, each as likely. Asymmetric: the class it is likely taken for (Patrini et al., 2017,
arXiv:1609.03683); of CIFAR-10 truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from robustsuite.config.taxonomy import LABEL_NOISE
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import unlearnable
from robustsuite.serve.adversary import Poisoned, chosen, overlay
from robustsuite.serve.data import Split

KINDS = ("symmetric", "asymmetric")
CIFAR10 = "9>1 2>0 4>7 3>5 5>3"


@unlearnable.attack(
    needs=Access.TRAIN_SET,
    paper="Patrini et al., 2017, arXiv:1609.03683",
    **LABEL_NOISE,
    differs=(
        "symmetric noise never draws the label an example has; the code of ELR draws among all of ten classes, so that "
        "its 80 % is 72 % here",
    ),
)
def label_noise(train: Split, rate: PoisonRate, *, rng: Rng, kind: str = "symmetric", pairs: str = CIFAR10) -> Poisoned:
    """Wrong labels for the rate's share of all examples, or of each class that `pairs` says another for.

    kind: symmetric or asymmetric. pairs: of the asymmetric kind, 'from>to' with class numbers, each `from` once; CIFAR-
    10's are the default. Raises UnknownName, BadValue.
    """
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    classes = int(train.y.max()) + 1
    if classes < 2:
        raise BadValue("expected labels of two classes or more for label_noise, got one class; there is no other label")
    if kind == "symmetric":
        rows = chosen(rng, torch.arange(len(train)), rate.most(len(train)))
        y = (train.y[rows] + 1 + rng[rows].fold("label").integers(classes - 1)) % classes
    else:
        becomes = _read(pairs, classes)
        sources = (becomes != torch.arange(classes)).nonzero().flatten().tolist()
        own = [(train.y == label).nonzero().flatten() for label in sources]
        rows = torch.cat([chosen(rng, among, rate.most(len(among))) for among in own if len(among)]).sort().values
        y = becomes[train.y[rows]]
    return Poisoned(overlay(train, rows, train.images(rows), y), rows)


def _read(pairs: str, classes: int) -> Tensor:
    """What each class (K,) is taken for; itself where nothing is said."""
    becomes = torch.arange(classes)
    found = [re.fullmatch(r"(\d+)>(\d+)", word) for word in pairs.split()]
    given = [(int(m[1]), int(m[2])) for m in found if m]
    named = [a for a, _ in given]
    if len(given) < len(found) or not given or len(set(named)) < len(named) or max(max(p) for p in given) >= classes:
        raise BadValue(f"expected pairs as 'from>to' of classes below {classes}, each from once, got {pairs!r}; "
                       f"write '0>1 1>0'")  # fmt: skip
    if same := [a for a, b in given if a == b]:
        raise BadValue(f"expected another class for each, got {same[0]}>{same[0]}; leave it out")
    becomes[torch.tensor(named)] = torch.tensor([b for _, b in given])
    return becomes
