"""Transfer by ascent on the adversary's own nets: I-FGSM with momentum, input and gradient transforms as one wishes.

I-FGSM: Kurakin et al., 2017, arXiv 1607.02533; mi: Dong et al., 2018, 1710.06081; ni, si: Lin et al., 2020, 1908.06281;
di: Xie et al., 2019, 1803.06978; ti: Dong et al., 2019, 1904.02884; admix: Wang et al., 2021, 2102.00436; vt: Wang and
He, 2021, 2103.15571; one net a step, "light": Gubri et al., 2022, 2011.05074. Nothing is asked of the attacked system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.attacks.evasion.transfer import _transforms as how
from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import TRANSFER
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import surrogates as owned
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import TILE, Oracle

TRANSFORMS = ("mi", "ni", "di", "ti", "si", "admix", "vt")


def _evaluations(steps: int, transforms: Sequence[str]) -> int:
    """Gradients of one net an image."""
    copies = (how.MIXES if "admix" in transforms else 1) * (how.SCALES if "si" in transforms else 1)
    return steps * copies * (1 + (how.NEIGHBOURS if "vt" in transforms else 0))


def _cost(*, steps: int, transforms: Sequence[str], **_: object) -> Cost:
    """Of nets of its own, which are taken to be as dear as the system."""
    evaluations = _evaluations(steps, transforms)
    return Cost(forwards=evaluations, backwards=evaluations)


@evasion.attack(
    needs=Access.AUX_DATA,
    norms=("linf", "l2"),
    goals=("untargeted", "targeted"),
    paper="Dong et al., 2018, arXiv:1710.06081; Gubri et al., 2022, arXiv:2011.05074",
    cost=_cost,
    family=("transfer",),
    **TRANSFER,
    least={"steps": 10},  # as in the papers of all transforms
    differs=(
        "gradients are normalised in float64 by their mean size (l2: their length), as in the authors' code of mi, ni, "
        "si, vt; by the l1 length of the papers, ni would look ahead by a millionth of a step",
        "cross entropy is differentiated at any confidence; under the authors' tolerance of 1e-7 a sure net's is zero",
        "di: each picture has its own size and place, bilinear, no larger than it is; the authors draw one a batch, "
        "take the nearest pixel and enlarge",
        "si and admix take pixels in [0, 1], where a half is darker; the authors' are in [-1, 1], where it is greyer",
        "admix mixes in the adversary's own pictures of another class, not the batch's, of whatever class they are",
        "several nets without light: the mean of losses, where Dong et al. fuse logits",
    ),
)
def transfer(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None, aux: Aux,
    surrogates: str = "", training: str | Mapping[str, Any] = "", transforms: Sequence[str] = (), steps: int = 50,
    rel_step: float = 0.1, loss: str = "ce", light: bool = True, kernel: int = 15,
) -> Tensor:  # fmt: skip
    """Steepest ascent on the adversary's own nets; what it ends at is taken to the system.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, 1) or None. surrogates: model specs joined by ' + '. training: what
    each goes through, as a sweep has it under defenses: lgv, csgld, {lgv: {epochs: 5}}; a snapshot counts as a net of
    its own. transforms: any of mi, ni (mi with a look ahead), di, ti, si, admix, vt; the list's order is of no
    matter. rel_step: of eps. loss: ce, margin, dlr or pma. light: a step asks one net, in shuffled order, else all.
    kernel: side of ti's in pixels. Raises BadValue, UnknownName; BadData for admix without pictures of two classes.
    """
    _checked(transforms, steps, rel_step, kernel)
    if not len(x) or budget.eps == 0:
        return x
    nets = owned.members(owned.networks(partial(_net, aux, training), surrogates))
    order = owned.shuffled(len(nets), steps)
    rise = Rise.of(transforms, loss, y, targets, aux, width=model.width)
    by, size = how.kernel(kernel, x.device), rel_step * budget.eps
    kept = how.DECAY if {"mi", "ni"} & set(transforms) else 0.0

    def ascended(rows: Tensor) -> Tensor:
        clean, which, streams = x[rows], rows.to(x.device), rng[rows]
        at, velocity, variance = clean, *torch.zeros(2, *clean.shape, dtype=torch.float64, device=x.device)
        for step in range(steps):
            gradient = partial(rise.gradient, [nets[order[step]]] if light else nets)
            ahead = (at + kept * size * velocity).to(x) if "ni" in transforms else at
            found = gradient(ahead, which, streams.fold(step))
            tuned = found + variance
            if "vt" in transforms:
                variance = _near(gradient, at, which, streams.fold(step).fold("vt"), budget) - found
            tuned = how.smoothed(tuned, by) if "ti" in transforms else tuned
            velocity = kept * velocity + how.normalised(tuned, budget.norm)
            up = velocity.sign() if budget.norm == "linf" else projections.unit(velocity, "l2")
            at = budget.project(clean, (at + size * up).to(x))
        return at

    return owned.in_tiles(len(x), model.width, ascended)


@dataclass(frozen=True)
class Rise:
    """What is ascended on nets: a loss of goals (N,), up or down, through copies of the picture of labels y (N,).

    width: how many pictures are asked at once.
    """

    loss: str
    y: Tensor
    goals: Tensor
    toward: int
    inputs: tuple[how.Copies, ...]
    width: int

    @classmethod
    def of(
        cls, transforms: Sequence[str], loss: str, y: Tensor, targets: Tensor | None, aux: Aux, *, width: int
    ) -> Rise:  # fmt: skip
        """With the input transforms among these, in the order of the authors of admix. Raises UnknownName, BadData."""
        losses.loss_named(loss)
        admixed = (how.admixing(aux.pictures, y.device),) if "admix" in transforms else ()
        others = (("si", how.scaled), ("di", how.diverse))
        inputs = (*admixed, *(copies for name, copies in others if name in transforms))
        copies = _evaluations(1, [name for name in transforms if name != "vt"])
        goals = y if targets is None else targets[:, 0]
        return cls(loss, y, goals, 1 if targets is None else -1, inputs, max(TILE, width // copies // TILE * TILE))

    def gradient(self, nets: Sequence[owned.Asked], x: Tensor, which: Tensor, streams: Rng) -> Tensor:
        """d rise / d x (M, C, H, W) float64, the mean over copies and nets. which (M,): the examples that these are."""
        parts = torch.arange(len(x), device=x.device).split(self.width)
        return torch.cat([self._at_once(nets, x[i], which[i], streams[i]) for i in parts])

    def _at_once(self, nets: Sequence[owned.Asked], x: Tensor, which: Tensor, streams: Rng) -> Tensor:
        f = odds if self.loss == "ce" else losses.loss_named(self.loss)
        with torch.enable_grad():
            leaf = at = x.detach().requires_grad_()
            for copies in self.inputs:
                at = copies(at, self.y[which], streams)
                k = len(at) // len(which)
                which, streams = which.repeat(k), Rng(torch.cat([streams.fold(i).keys for i in range(k)]))
            found = torch.stack([f(net(at), self.goals[which]) for net in nets])
            rise, weight, scale = _weighed(found, self.loss, len(x))
            (grad,) = torch.autograd.grad(self.toward * (weight * rise).sum() / weight[:, :, 0].numel(), leaf)
        return grad.double() * per_row(scale, grad)


def _net(aux: Aux, training: str | Mapping[str, Any], spec: str) -> nn.Module:
    """The adversary's own net, trained so."""
    net: nn.Module = aux.net(spec, training) if training else aux.net(spec)
    return net


def odds(logits: Tensor, y: Tensor) -> Tensor:
    """log((1 - p_y) / p_y) (N,) float64, of which cross entropy is the softplus."""
    z = logits.double()
    return z.scatter(1, y[:, None], -torch.inf).logsumexp(1) - losses.own(z, y)


def _weighed(rises: Tensor, loss: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """What nets say of copies of n pictures (nets, k * n), as (nets, k, n), with weights near 1 and a scale (n,).

    The loss's gradient is that of weight * rise times scale: a sure net's cross entropy rises by 1e-40, which float32
    would lose on the way back through the net.
    """
    rises = rises.unflatten(1, (-1, n))
    rate = functional.logsigmoid(rises.detach()) if loss == "ce" else torch.zeros_like(rises)
    most = rate.amax((0, 1))
    return rises, (rate - most).exp(), most.double().exp()


def _near(
    gradient: Callable[[Tensor, Tensor, Rng], Tensor], at: Tensor, which: Tensor, rng: Rng, budget: Ball
) -> Tensor:
    """vt: the mean gradient (M, C, H, W) around these points."""
    n = len(at)
    streams = Rng(torch.cat([rng.fold(i).keys for i in range(how.NEIGHBOURS)]))
    points = how.around(at.repeat(how.NEIGHBOURS, 1, 1, 1), streams.fold("around"), budget.eps, budget.norm)
    found = gradient(points, which.repeat(how.NEIGHBOURS), streams)
    return found.view(how.NEIGHBOURS, n, *at.shape[1:]).mean(0)


def _checked(transforms: Sequence[str], steps: int, rel_step: float, kernel: int) -> None:
    if isinstance(transforms, str):
        raise BadValue(f"expected a list of transforms, got {transforms!r}; write [mi, di]")
    for name in transforms:
        if name not in TRANSFORMS:
            raise UnknownName("transform", str(name), TRANSFORMS)
    if len(set(transforms)) < len(transforms):
        raise BadValue(f"expected each transform once, got {list(transforms)}; leave one out")
    if steps < 1 or not rel_step > 0 or kernel < 1 or not kernel % 2:
        given = f"{steps=}, {rel_step=}, {kernel=}"
        raise BadValue(f"expected steps >= 1, rel_step > 0 and an odd kernel, got {given}; write kernel=15")
