"""Every attack of the package torchattacks as a baseline, `torchattacks:PGD` and so on.

Kim, 2020, "Torchattacks: a PyTorch repository for adversarial attacks", https://arxiv.org/abs/2010.01950. The cards
are read from its classes: parameters from the constructor, norms and paper from the docstring. The classes run as
they are; the budget sets their eps, the pictures they return are projected into it, and our judge decides.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX, WHITE_BOX
from robustsuite.config.threats import BALLS, Access, Ball
from robustsuite.errors import BadValue, MissingPackage, RobustsuiteError, Unsupported
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle, preserved

try:
    import torchattacks as library
except ImportError:
    library = None

NAMES = (
    "VANILA", "GN", "FGSM", "BIM", "RFGSM", "PGD", "EOTPGD", "FFGSM", "TPGD", "MIFGSM", "UPGD", "APGD", "APGDT",
    "DIFGSM", "TIFGSM", "Jitter", "NIFGSM", "PGDRS", "SINIFGSM", "VMIFGSM", "VNIFGSM", "SPSA", "JSMA", "EADL1",
    "EADEN", "PIFGSM", "PIFGSMPP", "CW", "PGDL2", "DeepFool", "PGDRSL2", "SparseFool", "OnePixel", "Pixle", "FAB",
    "AutoAttack", "Square",
)  # fmt: skip
"""The classes of version 3.5.1 that take a model alone; without the package their cards say that it is missing."""

OURS = ("model", "eps", "max_epsilon", "norm", "n_classes", "seed", "verbose", "pixels", "gamma")
"""Constructor parameters that we set: by the budget, the network or our random streams."""

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}
UNFINISHED = {("FAB", "l1")}  # named in its docstring, an UnboundLocalError in its code
MOST_FEATURES = 5000  # JSMA builds a table of all pairs of pixel values

DIFFERS = {
    "AutoAttack": "it is not AutoAttack: 10 steps of APGD, APGD-T and FAB where the standard takes 100, and Square's "
    "schedule is rescaled; use autoattack",
    "PGDRS": "it differentiates through torch.clamp, which from torch 2.14 on gives saturated pixels no gradient",
    "PGDRSL2": "it differentiates through torch.clamp, which from torch 2.14 on gives saturated pixels no gradient",
    "OnePixel": "the budget counts pixel values, so it moves eps / channels pixels, at least one",
    "JSMA": "its share of values to move, gamma, is set by the budget; the target class is (y + 1) mod 10, as there",
    "APGD": "10 steps unless `steps` says otherwise, where AutoAttack takes 100",
    "APGDT": "10 steps unless `steps` says otherwise, where AutoAttack takes 100",
    "FAB": "10 steps unless `steps` says otherwise, where AutoAttack takes 100",
}
SEARCH: dict[str, tuple[str, dict[str, int]]] = {
    **dict.fromkeys(("VANILA", "GN"), ("noise", {})),
    **dict.fromkeys(("PIFGSM", "PIFGSMPP"), ("gradient", {"num_iter_set": 20})),
    **dict.fromkeys(("CW", "FAB"), ("minimum norm", {"steps": 100})),
    **dict.fromkeys(("EADL1", "EADEN"), ("minimum norm", {"max_iterations": 100})),
    "DeepFool": ("minimum norm", {"steps": 50}), "SparseFool": ("minimum norm", {"steps": 20}),
    "Square": ("score", {"n_queries": 5000}), "SPSA": ("score", {"nb_iter": 100}),
    "OnePixel": ("score", {"steps": 100}), "Pixle": ("score", {"max_iterations": 100}),
}  # fmt: skip
"""Family, and the least of a parameter, where it is not as for our own PGD: orders of size that their papers use."""

ALWAYS = (
    "random numbers are drawn for the batch, so what an example gets depends on those beside it",
    "step sizes stay at the package's defaults whatever eps is; what leaves the budget is projected into it",
)


def _defaults(kind: Any) -> dict[str, Any]:
    """Parameters of the class that a user may set, with their defaults."""
    given = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty and p.name not in OURS}


def _norms(kind: Any) -> tuple[str, ...]:
    """From the docstring's line 'Distance Measure : Linf, L2'; every norm where it names none."""
    line = re.search(r"Distance Measure : (.*)", kind.__doc__ or "")
    named = tuple(norm for norm, theirs in NORMS.items() if line and theirs in line[1])
    return tuple(norm for norm in named or tuple(BALLS) if (kind and kind.__name__, norm) not in UNFINISHED)


def _paper(kind: Any) -> str:
    found = re.search(r"arxiv\.org/abs/([\d.]+\d)", kind.__doc__ or "")
    return f"arXiv:{found[1]}" if found else "Kim, 2020, arXiv:2010.01950 (the package)"


def _bound(kind: Any, x: Tensor, budget: Ball, classes: int, seed: int) -> dict[str, Any]:
    """Values for those of the constructor's parameters that we set."""
    channels, features = x.shape[1], x.shape[1:].numel()
    values = {"eps": budget.eps, "max_epsilon": budget.eps, "norm": NORMS[budget.norm], "n_classes": classes}
    values |= {"seed": seed, "pixels": max(1, int(budget.eps) // channels), "gamma": budget.eps / features}
    return {name: value for name, value in values.items() if name in inspect.signature(kind.__init__).parameters}


class _Dense(torch.autograd.Function):
    """The identity, with a contiguous gradient: some classes view it flat, and convolutions may hand it strided."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


class _Served(nn.Module):
    """The metered network, behind `_Dense`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(_Dense.apply(x))
        return logits


def _run(
    name: str, model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, parameters: dict[str, Any]
) -> Tensor:
    """The class `name` on batches of the oracle's width; raises Unsupported where it cannot."""
    if library is None:
        raise MissingPackage("torchattacks", f"the attack torchattacks:{name}")
    if name == "JSMA" and x.shape[1:].numel() > MOST_FEATURES:
        raise Unsupported(
            f"expected pictures of at most {MOST_FEATURES} values for torchattacks:JSMA, got {x.shape[1:].numel()}; "
            f"it tabulates all pairs of them, use another l0 attack"
        )
    if not len(x):
        return x
    kind, net, done = getattr(library, name), _Served(model.metered()), []
    own = torch.random.fork_rng([x.device] if x.device.type == "cuda" else [])
    with own, preserved(net), torch.enable_grad(), contextlib.redirect_stdout(io.StringIO()):
        for rows in torch.split(torch.arange(len(x)), model.width):
            seed = _seed(rng[rows])
            bound = _bound(kind, x, budget, _classes(net, x), seed)
            try:
                attack = kind(net, **parameters, **bound)
            except (TypeError, ValueError) as error:
                raise BadValue(f"expected parameters torchattacks.{name} takes, got {parameters}; {error}") from error
            attack.set_device(x.device)
            done.append(_called(name, attack, x[rows].contiguous(), y[rows]))
    x_adv = torch.cat(done)
    return torch.where(per_row(budget.allows(x, x_adv), x), x_adv, budget.project(x, x_adv.nan_to_num(0.5)))


def _called(name: str, attack: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    try:
        x_adv = attack(x, y).detach().to(x)
    except (RobustsuiteError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, NameError, AttributeError, ArithmeticError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise Unsupported(f"expected torchattacks.{name} to run, got {type(error).__name__}: {reason}") from error
    if x_adv.shape != x.shape:
        raise Unsupported(f"expected pictures {tuple(x.shape)} from torchattacks.{name}, got {tuple(x_adv.shape)}")
    return x_adv


def _classes(net: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return int(net(x[:1]).shape[1])


def _seed(rng: Rng) -> int:
    """Seed every generator the package may draw from, from the first example's stream; `_run` puts them back."""
    seed = int(rng.fold("torchattacks").integers(1 << 31)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    return seed


REPEATS = ("steps", "num_iter_set", "n_restarts", "eot_iter", "noise_batch_size", "m", "restarts", "max_iterations",
           "binary_search_steps", "nb_iter")  # fmt: skip
"""Constructor parameters whose product is the number of evaluations."""


def _cost(name: str) -> Callable[..., Cost]:
    """An estimate from above, for an example that stands to the end."""

    def cost(classes: int, **given: Any) -> Cost:
        steps = float(math.prod(given.get(key, 1) for key in REPEATS) * (1 + given.get("N", 0)))
        if name in ("VANILA", "GN"):
            return Cost(0)
        if name in ("Square", "SPSA", "OnePixel", "Pixle"):  # by queries alone
            more = {"Square": given.get("n_queries", 1), "SPSA": 2 * given.get("nb_sample", 1), "Pixle": 1}
            return Cost(steps * more.get(name, 10 * given.get("popsize", 1)))
        if name in ("DeepFool", "SparseFool", "JSMA"):  # the whole Jacobian, a backward for each class
            steps *= {"SparseFool": 50, "JSMA": 200}.get(name, 1)
            return Cost(steps, steps * classes)
        if name == "AutoAttack":
            return Cost(5000 + 35.0 * classes, 23.0 * classes)
        rounds = classes if name in ("APGDT", "FAB") else 1
        forwards = 2 * steps if name.startswith("EAD") else (steps + 3) * rounds
        return Cost(forwards, (steps + 1) * rounds)

    return cost


def _bridge(name: str) -> Callable[..., Tensor]:
    """A plugin function for one class, with the class's parameters in its signature."""
    kind = getattr(library, name, None)
    defaults = _defaults(kind) if kind else {}

    def plugin(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, **given: Any) -> Tensor:
        return _run(name, model, x, y, budget, rng=rng, parameters={**defaults, **given})

    first = [p for p in inspect.signature(plugin).parameters.values() if p.name != "given"]
    extra = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value) for key, value in defaults.items()]
    plugin.__signature__ = inspect.Signature([*first, *extra])  # type: ignore[attr-defined]
    plugin.__name__ = plugin.__qualname__ = name
    plugin.__doc__ = f"The attack {name} of the package torchattacks, as it stands there."
    family, least = SEARCH.get(name, ("gradient", {"steps": 20}))  # what takes no steps takes one, as FGSM
    families = ("gradient", "minimum norm", "score") if name == "AutoAttack" else (family,)
    facts = {"norms": _norms(kind), "paper": _paper(kind), "cost": _cost(name), "requires": "torchattacks"}
    facts |= {"family": families, "least": least, **(BLACK_BOX if family in ("score", "noise") else WHITE_BOX)}
    differs = (*([DIFFERS[name]] if name in DIFFERS else []), *ALWAYS)
    return evasion.attack(name=f"torchattacks:{name}", needs=Access.WHITE_BOX, differs=differs, **facts)(plugin)


globals().update({name: _bridge(name) for name in NAMES})
