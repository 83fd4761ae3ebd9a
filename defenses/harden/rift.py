"""RiFT: fine-tune on clean pictures only the module that robustness needs least.

Zhu, Hu, Wang, Xie, Wang, Ding, Gao (2023, arXiv 2308.02533), for an adversarially trained theta:

    MRC(i) = max over ||D||_F <= eps_w ||theta_i||_F of L(theta with theta_i + D) - L(theta)      (eq. 3, algorithm 1)

is the robust criticality of weight i, L the cross-entropy on adversarial examples made once, on theta. The module of
the least criticality is fine-tuned on clean pictures, and the result is theta_a = theta + a (theta_tuned - theta) with
the a in 0, 0.1 ... 1 of the highest clean accuracy that keeps the robust accuracy.

Everything is chosen on the train and val splits. The other modules, their batch-norm statistics included, stay as they
were bit by bit.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from robustsuite.config.threats import Linf, parse_number
from robustsuite.errors import BadValue, UnknownName, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, ready
from robustsuite.serve.training import Recipe, accuracy, fitted

STEPS, STEP = 10, 0.25
"""PGD on the fixed sets: 10 steps of eps / 4 from a random start (the paper's 2/255 at eps = 8/255)."""

ASCENT_BATCH = 512
ALPHAS = tuple(a / 10 for a in range(11))

Weights = dict[str, Tensor]


class Choice(NamedTuple):
    """One point of the search: the share of fine-tuning, and the accuracies on val."""

    alpha: float
    clean: float
    robust: float


@stages.harden(
    paper="Zhu et al., 2023, arXiv:2308.02533",
    differs=(
        "the module of least criticality is taken; the authors choose a middle one of near-equals: name it by module",
        "criticality is measured on `pictures` of the train split and the search made on as many of val; the authors' "
        "code uses the test set for both",
        "ascent takes steps of `ascent_step` radii along the gradient, projected each: the authors' rate of 1 reaches "
        "the ball's edge or not depending on the number of pictures",
        "momentum is Nesterov's, and crops are padded with zeros",
    ),
)
def rift(
    net: nn.Module,
    training: Training,
    *,
    eps: float | str = 8 / 255,
    weight_eps: float = 0.1,
    ascent_epochs: int = 10,
    ascent_step: float = 0.25,
    epochs: int = 10,
    lr: float = 1e-3,
    tolerance: float = 0.001,
    pictures: int = 2048,
    module: str = "",
    augment: bool = True,
) -> nn.Module:
    """Fine-tune the least critical module on clean pictures, as far as robust accuracy allows.

    eps: the linf budget in [0, 1] pixels. weight_eps: a weight's ball, as a share of its norm; ascent_step: a share of
    the ball's radius. tolerance: robust val accuracy that may be lost. pictures: how many criticality and the search
    look at. module: fine-tune this one (its full name) instead of the least critical. augment: random flips and crops.
    Raises BadValue, UnknownName, Unsupported where there is no convolution or linear layer. Source: arXiv 2308.02533.
    """
    ball = Linf(parse_number(eps))
    if min(ascent_epochs, pictures, epochs) < 1 or min(weight_eps, ascent_step, lr) <= 0 or tolerance < 0:
        raise BadValue("expected positive numbers and tolerance >= 0 for rift, got another; see robustsuite show rift")
    if module and module not in weights(net):
        raise UnknownName("module of this network", module, weights(net))
    net = ready(copy.deepcopy(net), training.device)
    keys = Rng.of(training.seed, "rift", torch.arange(max(len(training.train), len(training.val))))
    few, held = _sample(training.train, pictures, training.seed), _sample(training.val, pictures, training.seed)
    x, y = _pictures(few, training.device)
    x_adv = pgd(net, x, y, ball, keys[: len(few)])
    found = {}
    for name in weights(net):
        found[name] = criticality(net, name, x_adv, y, weight_eps=weight_eps, epochs=ascent_epochs, step=ascent_step)
        training.tell(f"robust criticality of {name}: {found[name]:.4f}")
    chosen = module or min(found, key=lambda name: found[name])
    recipe = Recipe(epochs, lambda epoch: lr if epoch < epochs / 2 else lr / 10, flip=augment, crop=4 if augment else 0)
    tuned = fitted(Partly(net, chosen), training, recipe, select=accuracy)
    delta = {name: tensor.detach() for name, tensor in cast(Partly, tuned).free().items()}
    search, best = interpolated(net, delta, held, ball, keys, tolerance)
    training.keep("rift", finding(found, chosen, search, best, f"{ball}, weight_eps={weight_eps:g}"))
    return net


def weights(net: nn.Module) -> list[str]:
    """The names of modules with a convolution's or linear layer's weight, in the network's order."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    names = [name for name, module in net.named_modules() if isinstance(module, kinds)]
    if not names:
        raise Unsupported("expected a convolution or a linear layer for rift, got a network without any")
    return names


def criticality(
    net: nn.Module, module: str, x: Tensor, y: Tensor, *, weight_eps: float, epochs: int, step: float
) -> float:
    """How far the loss on x (N, C, H, W), y (N,) rises at the most while one module's weight moves in its ball."""
    name = f"{module}.weight" if module else "weight"
    start = net.get_parameter(name).detach()
    radius = weight_eps * start.norm()
    weight = start.clone().requires_grad_()

    def loss(value: Tensor, rows: slice) -> Tensor:
        return functional.cross_entropy(functional_call(net, {name: value}, (x[rows],)), y[rows], reduction="sum")

    batches = [slice(i, i + ASCENT_BATCH) for i in range(0, len(x), ASCENT_BATCH)]

    @torch.no_grad()
    def mean() -> float:
        return float(sum(loss(weight, rows) for rows in batches)) / len(x)

    initial = highest = mean()
    for _ in range(epochs):
        for rows in batches:
            (g,) = torch.autograd.grad(loss(weight, rows) / len(y[rows]), weight)
            with torch.no_grad():
                ahead = weight + step * radius * g / g.norm().clamp_min(torch.finfo(g.dtype).tiny)
                weight.copy_(inside(start, ahead, radius))
        highest = max(highest, mean())
    return highest - initial


def inside(start: Tensor, weight: Tensor, radius: Tensor) -> Tensor:
    """The nearest weight within `radius` of `start` in the Frobenius norm."""
    delta = weight - start
    length: Tensor = delta.norm()
    return start + delta * (radius / length) if length > radius else weight


class Partly(nn.Module):
    """A frozen network of which one module is free: only that is trained, moved and saved."""

    def __init__(self, net: nn.Module, module: str) -> None:
        super().__init__()
        self.frozen = (net,)  # in a tuple, so that train() and parameters() do not reach it
        self.names = {name.replace(".", "/"): name for name, _ in net.named_parameters() if _parent(name) == module}
        for key, name in self.names.items():
            self.register_parameter(key, nn.Parameter(net.get_parameter(name).detach().clone()))

    def free(self) -> Weights:
        """The free parameters under the network's own names."""
        return {name: self.get_parameter(key) for key, name in self.names.items()}

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.frozen[0], self.free(), (x,))  # type: ignore[no-any-return]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def interpolated(
    net: nn.Module, tuned: Weights, val: Split, ball: Linf, keys: Rng, tolerance: float
) -> tuple[list[Choice], Choice]:
    """Put the best interpolation into `net`; returns every point of the search and the one taken.

    Best: the highest clean accuracy on val among those whose robust accuracy there is at most `tolerance` lower; of
    equals the more robust, then the nearer to the start.
    """
    start = {name: net.get_parameter(name).detach().clone() for name in tuned}
    x, y = _pictures(val, next(net.parameters()).device)

    def put(alpha: float) -> None:
        for name, value in tuned.items():
            net.get_parameter(name).data.copy_(start[name] + alpha * (value - start[name]))

    def point(alpha: float) -> Choice:
        put(alpha)
        x_adv = pgd(net, x, y, ball, keys[: len(x)])
        return Choice(alpha, *(float((_logits(net, at).argmax(1) == y).double().mean()) for at in (x, x_adv)))

    search = [point(alpha) for alpha in ALPHAS]
    allowed = [c for c in search if c.robust >= search[0].robust - tolerance - 1e-12]
    best = max(allowed, key=lambda c: (c.clean, c.robust, -c.alpha))
    put(best.alpha)
    return search, best


def pgd(net: nn.Module, x: Tensor, y: Tensor, ball: Linf, keys: Rng) -> Tensor:
    """The fixed adversarial set: STEPS ascents of the cross-entropy from a random start, the last iterate."""
    found = []
    for rows in torch.arange(len(x), device=x.device).split(ASCENT_BATCH):
        clean, labels = x[rows], y[rows]
        x_adv = ball.sample(clean, keys.to(x.device)[rows])
        for _ in range(STEPS):
            leaf = x_adv.detach().requires_grad_()
            (g,) = torch.autograd.grad(functional.cross_entropy(net(leaf), labels, reduction="sum"), leaf)
            x_adv = ball.project(clean, x_adv + STEP * ball.eps * g.sign())
        found.append(x_adv.detach())
    return torch.cat(found)


def finding(
    criticalities: dict[str, float], chosen: str, search: list[Choice], best: Choice, where: str
) -> dict[str, object]:
    """What the report shows: a bar a module and the search over alpha."""
    least = min(criticalities, key=lambda name: criticalities[name])
    why = "has the least robust criticality" if chosen == least else f"was named by the user, {least} is less critical"
    return {
        "title": "RiFT: robust criticality",
        "note": f"{chosen} {why} ({where}) and is fine-tuned; alpha = {best.alpha:g} of the "
        f"way: clean {search[0].clean:.1%} to {best.clean:.1%}, robust {search[0].robust:.1%} to {best.robust:.1%} on "
        "validation pictures",
        "bars": {
            "axis": "rise of the adversarial loss",
            "names": list(criticalities),
            "values": list(criticalities.values()),
            "marked": chosen,
        },
        "table": {
            "columns": ["alpha", "clean accuracy on val", "robust accuracy on val", "taken"],
            "rows": [[f"{c.alpha:g}", c.clean, c.robust, "taken" if c == best else ""] for c in search],
        },
    }


def _sample(split: Split, most: int, seed: int) -> Split:
    """At most `most` examples, drawn by the seed: a split may be sorted by class."""
    if len(split) <= most:
        return split
    return split.at(torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:most].sort().values)


def _pictures(split: Split, device: str | torch.device) -> tuple[Tensor, Tensor]:
    return split.images(torch.arange(len(split))).to(device), split.y.to(device)


@torch.no_grad()
def _logits(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in x.split(ASCENT_BATCH)])
