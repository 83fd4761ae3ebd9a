"""The observer's side: what it sees, nets and pictures of its own, and what it learns on them."""

from __future__ import annotations

import json
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
from robustsuite.methods.attributes import COMBINATIONS, Attributes, attributes_of
from robustsuite.scenarios import evasion
from robustsuite.scenarios.parsing.asked import HELD, Maker, ParsingThreat
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.kept import kept, key_of
from robustsuite.serve.models import Training, ready, weights_sha256
from robustsuite.serve.system import System
from robustsuite.serve.training import Recipe, fitted, untrained

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context

ASKED = 256
"""Pictures that a parser is asked about at once."""


@dataclass(frozen=True)
class Examples:
    """What an observer learns on.

    pictures: () -> what it sees of its own nets' pictures (M, C, H, W), and what these nets are made of (M, 3), places
    in KERNELS, ACTIVATIONS and SPARSITIES; made when they are asked for. learnt: (a network, a recipe) -> it, its
    weights drawn at the observer's seed, trained on these and kept; logits (B, 3 values, 3 attributes), a cross-entropy
    for each attribute.
    """

    pictures: Callable[[], tuple[Tensor, Tensor]] = field(repr=False)
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

    net: logits (B, 9). Each picture is divided by its root mean square, so that a radius tells nothing by itself.
    """
    scaled = nn.RMSNorm(seen.shape[1:], eps=1e-12, elementwise_affine=False)
    learnt = own.learnt(nn.Sequential(scaled, net, nn.Unflatten(1, (3, 3))), recipe)
    device = next(learnt.parameters()).device
    with torch.no_grad():
        return torch.cat([learnt(x.to(device)).argmax(1).cpu() for x in seen.split(ASKED)])


def checked(guesses: Tensor, n: int, card: AttackCard) -> Tensor:
    """The guesses (n, 3) on the CPU; raises BadValue for what are none."""
    found = guesses.detach().cpu()
    if found.shape != (n, 3) or found.is_floating_point() or bool(((found < 0) | (found > 2)).any()):
        raise BadValue(f"expected places 0, 1 or 2 of shape ({n}, 3) from {card.name}, got {found.dtype} of shape "
                       f"{tuple(found.shape)}; mend it")  # fmt: skip
    return found.long()


class Made(NamedTuple):
    """Pictures before and after an attack (N, C, H, W), and which (N,) are adversarial: changed, and they broke it."""

    x: Tensor
    x_adv: Tensor
    adversarial: Tensor
    forwards: int = 0
    backwards: int = 0

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
    """Adversarial pictures of the observer's own nets, and the places (M, 3) of what those are made of."""

    pictures: Made
    values: Tensor


@dataclass(frozen=True)
class Owner:
    """The observer's means: nets of every combination, pictures to learn on and pictures kept from it, how it attacks.

    identity: what all that comes of these depends on.
    """

    nets: tuple[tuple[Attributes, nn.Module], ...]
    learning: Split
    held: Split
    maker: Maker
    training: Training
    space: InputSpace
    aux: Aux
    identity: str


_OWNERS: dict[tuple[object, ...], Owner] = {}
_HELD: dict[str, Shadows] = {}
_LEARNING: dict[str, Shadows] = {}
"""What a process has made: cells of one threat share it, of pictures to learn on only the last ones are remembered."""


def owner(context: Context, threat: ParsingThreat) -> Owner:
    """What this threat's observer owns, made once in a process. Raises Unsupported where nets are not as they should.

    The nets are trained, or read from what is kept, at seeds of the observer's own.
    """
    aux, training, maker = context.aux(), context.own_training(), threat.assumed
    facts = identity(maker.card, dict(maker.given)), maker.budget, threat.shadows, threat.draws, threat.pictures
    key = (*facts, aux.pictures.sha256, training.train.sha256, training.seed, training.device)
    if key not in _OWNERS:
        space, nets = context.served().space, list[tuple[Attributes, nn.Module]]()
        for draw, kind in product(range(threat.draws), COMBINATIONS):
            spec = threat.shadows.format(kernel=kind.kernel, activation=kind.activation)
            pruned = [{"magnitude_pruning": {"sparsity": kind.sparsity}}] if kind.sparsity else []
            net = aux.net(spec, *pruned, draw=draw)
            if not torch.equal((found := attributes_of(net, space.shape)).classes(), kind.classes()):
                raise Unsupported(f"expected {spec} to have {kind}, got {found}; name other shadows")
            nets.append((kind, net))
        split = aux.pictures.first(min(threat.pictures, len(aux.pictures)))
        place = torch.arange(len(split))
        parts = split.at(place[place % HELD > 0]), split.at(place[place % HELD == 0])
        weights = [weights_sha256(net) for _, net in nets]
        told = json.dumps([*map(str, facts), split.sha256, *weights, training.seed, training.device, __version__])
        _OWNERS[key] = Owner(tuple(nets), *parts, maker, training, space, aux, told)
    return _OWNERS[key]


def shadowed(own: Owner, width: int, held: bool) -> Shadows:
    """Its own nets attacked as it assumes, on the pictures to learn on or on those that are kept from it.

    Raises Unsupported where one of the nets is never broken.
    """
    known, split = (_HELD, own.held) if held else (_LEARNING, own.learning)
    if own.identity not in known:
        parts = list[Shadows]()
        for i, (kind, net) in enumerate(own.nets):
            rng = Rng.of(own.training.seed, f"parsing/{i}", split.ids).to(own.training.device)
            system = System(net, own.space, device=own.training.device)
            found = made(system, own.maker, split, rng, width, own.aux)
            rows = found.adversarial.nonzero().flatten()
            if not len(rows) and not held:
                raise Unsupported(f"expected {own.maker} to break the observer's own nets, got none of {len(split)} "
                                  f"pictures with {kind}; widen the budget that it assumes")  # fmt: skip
            pictures = Made(found.x[rows], found.x_adv[rows], found.adversarial[rows])
            parts.append(Shadows(pictures, kind.classes().expand(len(rows), 3)))
        if not held:
            known.clear()
        x, x_adv, broke = (torch.cat(column) for column in zip(*(part.pictures[:3] for part in parts), strict=True))
        known[own.identity] = Shadows(Made(x, x_adv, broke), torch.cat([part.values for part in parts]))
    return known[own.identity]


def examples(own: Owner, sees: str, width: int, identity: str) -> Examples:
    """What an observer may learn on, and how; identity: of what learns."""

    def pictures() -> tuple[Tensor, Tensor]:
        shadows = shadowed(own, width, held=False)
        return shadows.pictures.seen(sees), shadows.values

    def learnt(net: nn.Module, recipe: Recipe) -> nn.Module:
        def fit(net: nn.Module, training: Training) -> nn.Module:
            return fitted(net, replace(training, train=Split.of(*pictures())), recipe)

        fresh = untrained(net, own.training.seed)
        key = key_of([identity, own.identity, sees, weights_sha256(fresh)])
        return ready(kept(fit, key)(fresh, own.training), own.training.device)

    return Examples(pictures, learnt)
