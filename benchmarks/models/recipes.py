"""Untrained architectures with a standard recipe: `recipe:scenes_resnet` is trained when first asked."""

from __future__ import annotations

import hashlib
from functools import partial

from robustsuite.benchmarks.models.small_nets import build
from robustsuite.errors import BadValue
from robustsuite.integrity.probes import fits
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader
from robustsuite.serve.training import FromScratch, Recipe, one_cycle

VERSION = 2
"""Raised whenever the same parameters would train another network, so that no cached one is taken for it."""


@loader()
def recipe(name: str, space: InputSpace, *, epochs: int | str = 8, lr: float | str = 0.2, crop: int | str = 2) -> Model:
    """One of our small nets, trained from scratch by SGD with a one-cycle rate: recipe:scenes_resnet?epochs=8.

    lr: the peak rate. crop: pixels of random shift. The val and test splits are not looked at. Raises UnknownName,
    BadValue, BadModel.
    """
    cycles, peak, shift = _number(epochs, "epochs"), _number(lr, "lr"), _number(crop, "crop")
    if cycles < 1 or cycles != int(cycles) or peak <= 0 or shift < 0 or shift != int(shift):
        raise BadValue(
            f"expected epochs >= 1, lr > 0 and crop >= 0, got {epochs!r}, {lr!r} and {crop!r}; for example 12"
        )
    steps = Recipe(int(cycles), one_cycle(peak, int(cycles)), flip=True, crop=int(shift), label_smoothing=0.0)
    fit = FromScratch(partial(build, name, space), steps)
    net = build(name, space).eval()
    fits(net, space, f"recipe:{name}")

    facts = f"{name}/{space}/{int(cycles)}/{peak}/{int(shift)}/{VERSION}"
    return Model(f"recipe:{name}", net, space, hashlib.sha256(facts.encode()).hexdigest(), fit)


def _number(value: float | str, what: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise BadValue(f"expected {what} as a number, got {value!r}; write {what}=12") from error
