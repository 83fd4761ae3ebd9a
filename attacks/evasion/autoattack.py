"""AutoAttack as its authors run it, through the package pyautoattack: same order, numbers and batches.

Croce and Hein, 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", https://arxiv.org/abs/2003.01690; the l1 version: Croce and Hein, 2021, https://arxiv.org/abs/2103.01208.
Standard: APGD-CE, then targeted APGD, targeted FAB and Square, each on the examples the ones before left robust.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyautoattack import autoattack as library
from pyautoattack import checks
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.oracle import Oracle, preserved

STAGES = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
COSTS = {"standard": Cost(7830, 1910), "plus": Cost(15000, 7400), "rand": Cost(4050, 4040)}
"""An example that stands to the end, at 10 classes: 9 targets of 100 steps, 5000 queries; rand: 2 x 101 x 20 draws."""


def _cost(*, version: str, **_: object) -> Cost:
    return COSTS.get(version, COSTS["standard"])


def _families(*, version: str, **_: object) -> tuple[str, ...]:
    return ("gradient",) if version == "rand" else ("gradient", "minimum norm", "score")


@evasion.attack(
    needs=Access.WHITE_BOX,
    norms=tuple(NORMS),
    whole=True,
    paper="Croce and Hein, 2020, arXiv:2003.01690",
    cost=_cost,
    family=_families,
    **WHITE_BOX,
    differs=(
        "with fewer than 10 classes every wrong class is a target, where the package stops with an index error",
        "no targeted goals: the package has no such mode; `ensemble` plays them",
    ),
)
def autoattack(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    rng: Rng,
    version: str = "standard",
    seed: int = 0,
    batch_size: int = 250,
) -> Found:
    """AutoAttack, number for number as pyautoattack gives it when called directly with this seed and batch size.

    x (N, C, H, W) in [0, 1], contiguous or not, misclassified examples included: they stand in the batches that the
    package draws its random numbers for. y (N,). Columns: clean (right before any attack), after_apgd_ce and so on
    (still robust after that stage) and claimed (broken), all by the package's word.
    Raises BadValue for an unknown version, Unsupported for fewer than 4 classes or pictures that are not square.
    """
    if version not in STAGES:
        raise BadValue(f"expected an AutoAttack version of {', '.join(STAGES)}, got {version!r}; standard is the usual")
    net = model.metered()
    robust: dict[str, Tensor] = {}
    x_adv = x
    if len(x):
        with preserved(net), _contained(robust):
            attack = _built(net, x, budget, version, seed)
            x_adv, _ = attack.run_standard_evaluation(x.contiguous(), y.contiguous(), batch_size=batch_size)
    last = robust.get("clean", torch.ones(len(x), dtype=torch.bool))
    columns = {"clean": last}
    for stage in STAGES[version]:  # where nothing is left robust the package skips the stages that remain
        last = robust.get(stage, last)
        columns["after_" + stage.replace("-", "_")] = last
    return Found(x_adv.detach(), {**columns, "claimed": ~last})


def _built(net: nn.Module, x: Tensor, budget: Ball, version: str, seed: int) -> library.AutoAttack:
    """The package's object, for this network's number of classes."""
    with torch.no_grad():
        classes = net(x[:1]).shape[1]
    least = 3 if version == "rand" else 4
    if classes < least or x.shape[2] != x.shape[3]:
        raise Unsupported(
            f"expected at least {least} classes (for its DLR losses) and square pictures (for its Square attack), "
            f"got {classes} classes and {x.shape[2]} x {x.shape[3]} pixels; use the attack ensemble"
        )
    attack = library.AutoAttack(
        net, norm=NORMS[budget.norm], eps=budget.eps, seed=seed, version=version, device=x.device
    )
    for part in (attack.apgd_targeted, attack.fab):
        part.n_target_classes = min(part.n_target_classes, classes - 1)
    return attack


@contextmanager
def _contained(robust: dict[str, Tensor]) -> Iterator[None]:
    """Write down who is robust after each stage, and undo what the package leaves behind in the process.

    It counts calls in a module-wide table, so that one dynamic network would taint every later one, and it sets the
    interpreter's trace function to None.
    """
    kept, trace, counters = library.EvaluationState, sys.gettrace(), dict(checks.funcs)

    class Recorder(kept):  # type: ignore[misc, valid-type]
        def to_disk(self, force: bool = False) -> None:
            if self.robust_flags is not None:  # the first flags are those before any attack
                robust.setdefault("clean", self.robust_flags.cpu().clone())

        def add_run_attack(self, attack: str) -> None:
            super().add_run_attack(attack)
            robust[attack] = self.robust_flags.cpu().clone()

    library.EvaluationState = Recorder
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        library.EvaluationState = kept
        checks.funcs.update(counters)
        sys.settrace(trace)
