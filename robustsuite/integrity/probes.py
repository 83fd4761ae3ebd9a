"""What a model's own answers betray: cheap questions asked before any attack, after section 3 of Croce & Hein.

Sources: Croce & Hein, 2020, "Reliable evaluation of adversarial robustness", arXiv:2003.01690 (randomised, softmax
outputs); Croce et al., 2022, arXiv:2202.13711 (answers that depend on the batch or on what was asked before);
`gradient_probes.py` asks for the gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import BadModel
from robustsuite.integrity import gradient_probes
from robustsuite.integrity.canaries import canaries as canaries
from robustsuite.integrity.checks import Flag as Flag
from robustsuite.integrity.checks import level_of, undefined
from robustsuite.integrity.class_order import at_chance
from robustsuite.integrity.jumps import jumps
from robustsuite.integrity.state import kept, state_of
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import services
from robustsuite.serve.oracle import preserved
from robustsuite.serve.task import TASK, finite

NEARBY = 4e-6
"""Pixel values apart: too little to see, enough for float32 to answer differently."""

ASKED = 5
"""Calls on the same pictures that have to agree (Croce & Hein's number)."""

AROUND = 8 / 255
"""linf radius of the random points that are asked about besides clean pictures."""

ROUNDED = 1e-3
"""Logits on a grid at least this wide, in standard deviations, have been rounded."""


def fits(net: nn.Module, space: InputSpace, name: str, *, finite: bool = True) -> None:
    """Ask one blank picture (1, C, H, W). Raises BadModel unless (1, classes) numbers come back, finite ones if so."""
    TASK.checked(blank(net, space, name), space, name, finite=finite)


def blank(net: nn.Module, space: InputSpace, name: str) -> object:
    """What the network returns for one blank picture (1, C, H, W). Raises BadModel where it takes none."""
    try:
        with torch.no_grad():
            return net(torch.full((1, *space.shape), 0.5, device=_device(net)))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        shape = "x".join(map(str, space.shape))
        raise BadModel(
            f"expected {name} to take {shape} pictures, got an error: {line}; choose data or model to fit"
        ) from error


def _device(net: nn.Module) -> torch.device:
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def probe(
    net: nn.Module, x: Tensor, y: Tensor, space: InputSpace, *, name: str = "the model",
    shows: Access = Access.WHITE_BOX, grid: bool = False, rejects: bool = False,
) -> list[Flag]:  # fmt: skip
    """The flags of a network on clean pictures x (N, C, H, W) with labels y (N,); 32 pictures tell enough.

    Which there are stands in `checks.py`, where a check's place is the probe; of a model that shows less, those that
    its answers bear on. grid: it is given 8 bits a value, and judged so. rejects: whether a row of NaN is a rejection,
    and no fault. The network is left as it was. Raises BadModel where outputs are no logits of these classes.
    """
    x, y = x.to(_device(net)), y.to(_device(net))
    with preserved(net), kept(net):
        fits(net, space, name, finite=False)
    before = state_of(net)
    with preserved(net), kept(net), torch.no_grad():
        logits = TASK.checked(net(x), space, name, finite=False).detach()
        after = state_of(net)
    with preserved(net), kept(net), torch.no_grad():
        silent = TASK.undefined(logits)
        if bool(silent.all()):
            words = "got NaN or infinity for every picture; check weights and normalisation"
            raise BadModel(f"expected logits from {name}, {words}")
        faults = undefined(int((silent & ~TASK.rejected(logits)).sum() if rejects else silent.sum()), len(x))
        answered = x[~silent]
        flags = [_training(net), _state(net, x, before, after), _randomised(net, x), *faults]
        random = flags[2] is not None
        logits = finite(logits)
        scores = Access.SCORES in shows
        flags += [_probabilities(logits[~silent]) if scores else None, _at_chance(logits[~silent], y[~silent])]
        rounded = _rounded(logits[~silent]) if scores else None
        still = None if random or rounded or not scores else _still(net, x[:8], grid)
        batch = None if random else _batch(net, x, logits)
        flags += [rounded, still, batch]
        if scores and not random and rounded is None and still is None and not services(net):
            flags.append(jumps(net, answered, logits[~silent]))
        moves = not random and rounded is None and still is None and batch is None
        if Access.GRADIENTS in shows:
            flags += gradient_probes.gradients(net, answered, logits[~silent], moves=moves)
        raised = [flag for flag in flags if flag is not None]
        if moves and len(answered) and not services(net):  # what answers clean pictures oddly is flagged already
            raised += _elsewhere(net, answered, shows, {flag.name for flag in raised})
    return raised


def scores(net: nn.Module, x: Tensor) -> list[Flag]:
    """The flags of scores behind which gradients are said to be hidden: do they move, and decide; x (N, C, H, W).

    Such a system may round, so a hair says nothing of it: pixels move as far as an attack's.
    """
    with preserved(net), kept(net), torch.no_grad():
        logits = net(x)
        answered = logits.isfinite().all(1)
        x, logits = x[answered], logits[answered]
        if not len(x):
            return []
        still = float((finite(net(_around(x))) == logits).all(1).double().mean())
        if still > 0.5:
            words = f"on {still:.0%} of the pictures no logit moves when pixels move by {AROUND * 255:g}/255"
            return [Flag("piecewise_constant", f"{words}: labels alone?")]
        jump = jumps(net, x, logits)
    return [jump] if jump else []


def _around(x: Tensor) -> Tensor:
    """A random point (N, C, H, W) of linf AROUND for each picture."""
    noise = Rng.of(0, "probe", torch.arange(len(x))).to(str(x.device)).uniform(*x.shape[1:], low=-AROUND, high=AROUND)
    return (x + noise).clamp(0, 1)


def _elsewhere(net: nn.Module, x: Tensor, shows: Access, known: set[str]) -> list[Flag]:
    """The same at random points around the pictures, as an attack starts from: there, too, answers tell the truth."""
    at = _around(x)
    logits = net(at).detach()
    there = logits.isfinite().all(1)
    at, logits = at[there], logits[there]
    if not len(at):
        return []
    found = [_batch(net, at, logits)]
    if Access.GRADIENTS in shows:
        found += gradient_probes.gradients(net, at, logits, moves=True)
    words = f"at random points of linf {AROUND * 255:g}/255: "
    sure = [flag for flag in found if flag and flag.name not in known and level_of(flag) == "fail"]
    return [flag._replace(detail=words + flag.detail) for flag in sure]


def _training(net: nn.Module) -> Flag | None:
    modes = [type(m).__name__ for m in net.modules() if m.training and not list(m.children())]
    return Flag("training_mode", f"{len(modes)} layers in training mode, {modes[0]} first") if modes else None


def _state(net: nn.Module, x: Tensor, before: dict[str, object], after: dict[str, object]) -> Flag | None:
    """Does being asked change the network? What it keeps of any question alike, as a cached constant, is forgiven."""
    if before == after:
        return None
    with preserved(net), kept(net):
        net(1 - x[: max(1, len(x) // 2)])
        other = state_of(net)
    changed = sorted(k for k in after.keys() | other.keys() if after.get(k) != other.get(k))
    return Flag("stateful", f"answers change {', '.join(changed[:3])}: set by what is asked") if changed else None


def _randomised(net: nn.Module, x: Tensor) -> Flag | None:
    first, *others = (net(x[:8]).detach() for _ in range(ASKED))
    for again in others:
        if not torch.equal(first.isfinite(), again.isfinite()):
            return Flag("randomised", "two calls on the same pictures reject different ones")
        if apart := float((finite(first) - finite(again)).abs().max()):
            return Flag("randomised", f"two calls on the same pictures differ by {apart:.2g}")
    return None


def _probabilities(logits: Tensor) -> Flag | None:
    sums = logits.sum(1)
    if bool((logits >= 0).all() and (logits <= 1).all() and ((sums - 1).abs() < 1e-4).all()):
        return Flag("probabilities_not_logits", "every row lies in [0, 1] and sums to 1; return what softmax is given")
    return None


def _rounded(logits: Tensor) -> Flag | None:
    """Are the logits multiples of one step, or the first two of a picture exactly equal?"""
    values = logits.double().flatten().unique()
    gaps = values.diff()
    gaps = gaps[gaps > 1e-6 * values.abs().max()]
    if len(gaps) and float(gaps.min()) >= ROUNDED * float(logits.double().std()):
        steps = values / gaps.min()
        if float((steps - steps.round()).abs().max()) < 0.01:
            return Flag("rounded_logits", f"all logits are multiples of {float(gaps.min()):.2g}")
    first, second = logits.topk(2, 1).values.unbind(1)
    if tied := int((first == second).sum()):
        return Flag("rounded_logits", f"the first two classes tie exactly on {tied} of {len(logits)} pictures")
    return None


def _still(net: nn.Module, x: Tensor, grid: bool) -> Flag | None:
    """Pictures whose every logit keeps its bits when all pixels move a hair, or a level of the grid: quantised inputs.

    Both are asked in batches of one size: a kernel for another size answers with other last bits.
    """
    size = 1 / 255 if grid else NEARBY
    hair = size * torch.where(x < 0.5, 1, -1) if grid else size * gradient_probes.directions(x)[1] * (1 - 2 * x)
    still, moved = (finite(net(at)) for at in (x, x + hair))
    share = float((moved == still).all(1).double().mean())
    if share <= 0.5:
        return None
    words = f"on {share:.0%} of the pictures no logit moves when pixels move by {size:g}: quantised inputs?"
    return Flag("piecewise_constant", words)


def _at_chance(logits: Tensor, y: Tensor) -> Flag | None:
    return at_chance(int((logits.argmax(1) == y).sum()), len(y), logits.shape[1])


def _batch(net: nn.Module, x: Tensor, logits: Tensor) -> Flag | None:
    """Does an answer depend on what else is in the batch? Asked backwards, in halves, among copies, and alone."""
    half, few = max(1, len(x) // 2), min(4, len(x))
    scale = logits.abs().amax().clamp_min(1e-12)
    others = {
        "reordered": net(x.flip(0)).flip(0),
        "in halves": torch.cat([net(part) for part in x.split(half)]),
        "among copies": torch.cat([net(x[i : i + 1].repeat(8, 1, 1, 1))[:1] for i in range(few)]),
        "alone": torch.cat([net(x[i : i + 1]) for i in range(few)]),
    }
    for how, other in others.items():
        apart = float((finite(other) - logits[: len(other)]).abs().max() / scale)
        if not apart <= 1e-4:
            return Flag("batch_dependent", f"asked {how}, answers differ by {apart:.2g} of the largest logit")
    return None
