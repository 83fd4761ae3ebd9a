"""The observer's side: what it sees, nets and pictures of its own, and what it learns on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustsuite import __version__
from robustsuite.config.registry import AttackCard, carded, identity
from robustsuite.config.threats import Access, Threat, parse_access
from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.attributes import COMBINATIONS, attributes_of
from robustsuite.scenarios import evasion
from robustsuite.scenarios.parsing.asked import HELD, Maker, ParsingThreat
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.kept import kept, key_of
from robustsuite.serve.models import Normalised, Training, weights_sha256
from robustsuite.serve.system import System
from robustsuite.serve.training import Recipe, fitted, untrained

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context

ASKED = 256
"""Pictures that a parser is asked about at once."""

REMEMBERED = 2
"""Sets of own pictures that a process holds: cells of one system come one after the other."""


@dataclass(frozen=True)
class Examples:
    """What an observer learns on: x (M, C, H, W) as it sees pictures, values (M, 3): places in KERNELS, and so on.

    learnt: (a network, a recipe) -> it, its weights drawn at the observer's seed and trained on these; kept. Logits are
    (B, 3 values, 3 attributes), with a cross-entropy for each attribute.
    """

    x: Tensor
    values: Tensor
    learnt: Callable[[nn.Module, Recipe], nn.Module] = field(repr=False)


class Attack(Protocol):
    """seen (N, C, H, W), deltas or pictures; own: what to learn on -> the places (N, 3) of the values it names."""

    def __call__(self, seen: Tensor, own: Examples) -> Tensor: ...


A = TypeVar("A", bound=Callable[..., Tensor])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an observer. needs: Access.AUX_DATA, for its own pictures and nets."""
    return carded("attack", "parsing", **facts)


def parsed(net: nn.Module, recipe: Recipe, seen: Tensor, own: Examples) -> Tensor:
    """What a classifier of three attributes that learns from own examples names (N, 3) of what is seen (N, C, H, W).

    net: logits (B, 3 values, 3 attributes). What it is shown is divided by the standard deviation of the examples.
    """
    scale = float(own.x.std())
    learnt = own.learnt(Normalised(net, [0.0] * seen.shape[1], [scale] * seen.shape[1]), recipe)
    device = next(learnt.parameters()).device
    with torch.no_grad():
        return torch.cat([learnt(x.to(device)).argmax(1).cpu() for x in seen.split(ASKED)])


def checked(guesses: Tensor, card: AttackCard) -> Tensor:
    """The guesses (N, 3) on the CPU; raises BadValue for what are none."""
    found = guesses.detach().cpu()
    if found.ndim != 2 or found.shape[1] != 3 or found.is_floating_point() or bool(((found < 0) | (found > 2)).any()):
        raise BadValue(f"expected places 0, 1 or 2 of shape (N, 3) from {card.name}, got {found.dtype} of shape "
                       f"{tuple(found.shape)}; mend it")  # fmt: skip
    return found.long()


class Made(NamedTuple):
    """Pictures before and after an attack (N, C, H, W), which (N,) are adversarial (changed, and they broke it), cost."""

    x: Tensor
    x_adv: Tensor
    adversarial: Tensor
    forwards: float = 0
    backwards: float = 0

    def seen(self, sees: str) -> Tensor:
        """The pictures as an observer finds them."""
        return self.x_adv - self.x if sees == "delta" else self.x_adv


def made(system: System, maker: Maker, split: Split, rng: Rng, width: int, aux: Aux) -> Made:
    """These pictures attacked against a system, by every route that it leaves open; the judge says which broke it."""
    threat = Threat("parsing", "evasion", parse_access(list(maker.card.needs.kinds())), maker.budget)
    record = evasion.attacked(
        system, partial(maker.card.function, **dict(maker.given)), split, threat, rng, width=width, card=maker.card,
        aux=aux if Access.AUX_DATA in maker.card.needs else None,
    )  # fmt: skip
    x, x_adv = split.images(torch.arange(len(split))), record.pictures(torch.arange(len(split))).cpu()
    columns, changed = record.columns, (x_adv != x).flatten(1).any(1)
    broke = columns["clean_ok"] & columns["fooled"] & columns["in_budget"] & changed
    return Made(x, x_adv, broke, record.forwards, record.backwards)


class Shadows(NamedTuple):
    """Adversarial pictures of the observer's own nets: what they are made of (M, 3), which (M,) it may not learn on."""

    pictures: Made
    values: Tensor
    held: Tensor


_SHADOWED: OrderedDict[tuple[object, ...], Shadows] = OrderedDict()


def shadowed(context: Context, threat: ParsingThreat) -> Shadows:
    """The observer's own pictures, made once in a process for the cells that share them."""
    aux, training, maker = context.aux(), context.own_training(), threat.assumed
    own = identity(maker.card, dict(maker.given)), maker.budget, threat.shadows, threat.draws, threat.pictures
    key = (*own, aux.pictures.sha256, training.train.sha256, training.seed, training.device)
    if key not in _SHADOWED:
        _SHADOWED[key] = _made_shadows(aux, threat, training, context.served().space, context.width)
    _SHADOWED.move_to_end(key)
    while len(_SHADOWED) > REMEMBERED:
        _SHADOWED.popitem(last=False)
    return _SHADOWED[key]


def _made_shadows(aux: Aux, threat: ParsingThreat, training: Training, space: InputSpace, width: int) -> Shadows:
    """Raises Unsupported where the nets are not what they are taken for, or where one of them is never broken."""
    split, parts = aux.pictures.first(min(threat.pictures, len(aux.pictures))), list[Shadows]()
    for draw, (i, kind) in product(range(threat.draws), enumerate(COMBINATIONS)):
        spec = threat.shadows.format(kernel=kind.kernel, activation=kind.activation)
        pruned = [{"magnitude_pruning": {"sparsity": kind.sparsity}}] if kind.sparsity else []
        net = aux.net(spec, *pruned, draw=draw)
        if not torch.equal(attributes_of(net, space.shape).classes(), kind.classes()):
            raise Unsupported(f"expected {spec} with {kind}, got {attributes_of(net, space.shape)}; name other shadows")
        rng = Rng.of(training.seed, f"parsing/{draw}/{i}", split.ids).to(training.device)
        found = made(System(net, space, device=training.device), threat.assumed, split, rng, width, aux)
        rows = found.adversarial.nonzero().flatten()
        if not len(rows[rows % HELD > 0]):
            raise Unsupported(f"expected {threat.assumed} to break the observer's own nets, got none of {len(split)} "
                              f"pictures with {kind}; widen the budget that it assumes")  # fmt: skip
        pictures = Made(found.x[rows], found.x_adv[rows], found.adversarial[rows])
        parts.append(Shadows(pictures, kind.classes().expand(len(rows), 3), rows % HELD == 0))
    x, x_adv, adversarial = (torch.cat([getattr(part.pictures, name) for part in parts]) for name in Made._fields[:3])
    values, held = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "held"))
    return Shadows(Made(x, x_adv, adversarial), values, held)


def examples(seen: Tensor, values: Tensor, training: Training, identity: str) -> Examples:
    """What an observer may learn on, and how; identity: of what learns."""
    own = Split.of(seen, values)

    def learnt(net: nn.Module, recipe: Recipe) -> nn.Module:
        fresh = untrained(net, training.seed)
        key = key_of([identity, own.sha256, weights_sha256(fresh), str(training.seed), training.device, __version__])
        return kept(partial(fitted, recipe=recipe), key)(fresh, replace(training, train=own))

    return Examples(seen, values, learnt)
