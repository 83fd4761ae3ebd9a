"""One suite over the whole registry: what every plugin, ours or anybody's, keeps.

A plugin gains all of these by being registered. `robustsuite.config.registry.cards()` says what is there.
"""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.goals import Goal, OrderedTopK, Targeted, Untargeted
from robustsuite.config.registry import KINDS, Card, Cost, cards
from robustsuite.config.sets import parse_set
from robustsuite.config.threats import Access, Threat, parse_access
from robustsuite.config.transforms import Transformation
from robustsuite.errors import UsageError
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Aux, Found
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle
from tests.toys import InputSpace, labelled, linear, present, ready, system

QUICK = {
    "square": {"steps": 40}, "pgd": {"steps": 10}, "apgd": {"steps": 12}, "fmn": {"steps": 20}, "fab": {"steps": 10},
    "noise": {"draws": 8},
    "ddn": {"steps": 20}, "alma": {"steps": 60}, "pdpgd": {"steps": 80}, "sigma_zero": {"steps": 30},
    **{name: {"queries": 250} for name in ("cgba", "cgba_h", "rays", "surfree", "geoda")},
    "ensemble": {"steps": 8, "n_targets": 2, "queries": 20},
    "quadattack": {"searches": 2, "iterations": 15, "lr": 0.01}, "cw_k": {"iterations": 30, "lr": 0.01},
    "adversarial_distillation_zero": {"iterations": 30, "lr": 0.01},
    "mga": {"queries": 60}, "mga_transfer": {"queries": 60, "surrogates": "toy"}, "genattack": {"queries": 80},
    "quscore": {"queries": 60, "surrogates": "toy"}, "sift_mcts": {"queries": 24},
    "transfer": {"surrogates": "toy", "steps": 3, "kernel": 3, "transforms": ("ni", "di", "ti", "si", "admix", "vt")},
    "grid": {"angles": 5, "shifts": 3}, "worst_of": {"draws": 8}, "transform_pgd": {"steps": 10},
    "region_pgd": {"steps": 10}, "universal": {"steps": 12, "batch": 6}, "adversarial_patch": {"steps": 12, "batch": 6},
}  # fmt: skip
EPS = {
    "linf": 0.1, "l2": 0.4, "l1": 1.2, "l0": 4, "patch": 0.3, "frame": 1, "spatial": 30, "flow": 1.0, "elastic": 1.5,
    "colour": 0.2, "fog": 0.4, "snow": 0.6, "jpeg": 1.0,
}  # fmt: skip
EVASION = [c for c in cards().values() if c.place == "evasion"]
GIVEN = ("autoattack", "adversarial_distillation")  # need a package, a file; the file's attack has a twin without
OURS = [c for c in EVASION if ":" not in c.name and c.name not in GIVEN and present(c)]
PAIRS = [pytest.param(c, norm, id=f"{c.name}-{norm}") for c in OURS for norm in c.norms]


def net() -> nn.Module:
    """A small network with a curved boundary over 3 x 6 x 6 pictures, five classes."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
    with torch.no_grad():
        for p in layers.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return ready(layers)


NET = net()
X = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    Y = NET(X).argmax(1)
OWNED = Aux(Split.of(X.flip(0).flip(3), NET(X.flip(0).flip(3)).argmax(1)), lambda spec: NET)
"""Pictures and a net of the adversary's own: the very network, so that a transfer surely goes over."""


def goal(card: Card) -> Goal:
    """The goal an attack is tried with: the first its card names."""
    return {"untargeted": Untargeted(), "targeted": Targeted(), "ordered_topk": OrderedTopK(2)}[card.goals[0]]


def handed(card: Card, y: Tensor, rng: Rng, classes: int, aux: Aux) -> dict[str, Any]:
    """What the attack gets besides pictures, labels and budget."""
    given: dict[str, Any] = dict(QUICK.get(card.name, {}))
    if card.goals != ("untargeted",):
        given["targets"] = (
            None if card.goals[0] == "untargeted" else goal(card).targets(y, classes, rng.fold("targets"))
        )
    return given | ({"aux": aux} if Access.AUX_DATA in card.needs else {})


def played(card: Card, norm: str, *, rows: Tensor | None = None, width: int = 5) -> Tensor | Found:
    """What the attack returns with exactly the access its card asks for."""
    rows = torch.arange(12) if rows is None else rows
    rng = Rng.of(0, "conformance", rows)
    access = parse_access([str(kind.name).lower() for kind in card.needs])
    model = Oracle.over(NET, access, rng.fold("oracle"), width=width)
    given = handed(card, Y[rows], rng, 5, OWNED)
    return card.function(model, X[rows].clone(), Y[rows].clone(), parse_set(norm, EPS[norm]), rng=rng, **given)


def attack(card: Card, norm: str, **how: Any) -> Tensor:
    """x_adv alone."""
    found = played(card, norm, **how)
    return found.x_adv if isinstance(found, Found) else found


@pytest.mark.parametrize("card", cards().values(), ids=lambda c: f"{c.kind}:{c.name}")
def test_a_card_says_what_a_user_must_know(card: Card) -> None:
    assert card.kind in KINDS
    assert card.summary.endswith((".", ":"))
    assert card.paper or card.kind in ("data", "model")
    assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(card.function).parameters.values())
    if card.kind == "attack":
        assert card.needs != Access.NONE
        assert isinstance(card.priced(classes=10), Cost)
        repeated = [p.name for p in inspect.signature(card.cost).parameters.values() if p.default is not p.empty]
        assert not set(repeated) & set(card.parameters), "the plugin's own defaults are the only ones"


@pytest.mark.parametrize(("card", "norm"), PAIRS)
def test_stays_in_ball_and_box_and_keeps_shape(card: Card, norm: str) -> None:
    before, found, ball = X.clone(), played(card, norm), parse_set(norm, EPS[norm])
    x_adv = found.x_adv if isinstance(found, Found) else found
    assert x_adv.shape == X.shape
    assert x_adv.dtype == torch.float32
    assert torch.equal(X, before)
    if isinstance(ball, Transformation):
        pictures, held, _ = ball.rendered(X, found.theta)
        assert bool(held.all())
        assert torch.equal(pictures, x_adv)
    else:
        ball = parse_set(norm, 1e9) if card.minimum_norm else ball
        assert bool(ball.allows(X, x_adv).all())


@pytest.mark.parametrize(("card", "norm"), PAIRS)
def test_same_streams_same_pictures_whatever_the_global_seed(card: Card, norm: str) -> None:
    torch.manual_seed(0)
    first = attack(card, norm)
    torch.manual_seed(99)
    assert torch.equal(first, attack(card, norm))


@pytest.mark.parametrize(("card", "norm"), PAIRS)
def test_a_batch_is_its_examples_one_by_one_in_any_order(card: Card, norm: str) -> None:
    whole = attack(card, norm, width=64)
    alone = torch.cat([attack(card, norm, rows=torch.tensor([i]), width=1) for i in range(12)])
    order = torch.arange(11, -1, -1)
    assert torch.equal(whole, alone)
    assert torch.equal(attack(card, norm, rows=order, width=7), whole[order])


@pytest.mark.parametrize(("card", "norm"), PAIRS)
def test_an_empty_batch_is_answered(card: Card, norm: str) -> None:
    assert attack(card, norm, rows=torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 6, 6)


@pytest.mark.parametrize(("card", "norm"), PAIRS)
def test_costs_no_more_than_its_card_says(card: Card, norm: str) -> None:
    rng = Rng.of(0, "conformance", torch.arange(12))
    model = Oracle.over(NET, Access.WHITE_BOX, rng.fold("oracle"), width=64)
    given = handed(card, Y, rng, 5, OWNED)
    card.function(model, X.clone(), Y.clone(), parse_set(norm, EPS[norm] / 10), rng=rng, **given)
    most = card.priced(5, **QUICK.get(card.name, {}))
    forwards, backwards = model.counts.totals()
    assert forwards <= most.forwards * 12
    assert backwards <= most.backwards * 12


def robust(card: Card, norm: str, eps: float) -> Tensor:
    """Verdicts (24,) of the judge on a linear net with four mislabelled pictures."""
    toy = linear()
    split = labelled(toy)
    given = QUICK.get(card.name, {})
    threat = Threat("t", "evasion", Access.WHITE_BOX | Access.AUX_DATA, parse_set(norm, eps), goal=goal(card))
    rng = Rng.of(0, "conformance", split.ids)
    aux = Aux(labelled(toy, wrong=0), lambda spec: toy)
    return evasion.judged(
        system(toy), partial(card.function, **given), split, threat, rng, width=8, card=card, aux=aux
    ).columns["robust"]


@pytest.mark.parametrize(("card", "norm"), PAIRS)
def test_eps_zero_is_clean_accuracy_and_more_eps_is_never_more_robust(card: Card, norm: str) -> None:
    clean = labelled(linear())
    with torch.no_grad():
        right = linear()(clean.images(clean.ids)).argmax(1) == clean.y
    assert torch.equal(robust(card, norm, 0.0), right)
    rates = [int(robust(card, norm, k * EPS[norm]).sum()) for k in (0, 1, 2)]
    assert rates == sorted(rates, reverse=True)
    if card.name not in ("noise", "worst_of"):
        assert rates[-1] < rates[0]


def test_the_toy_space_is_the_toys() -> None:
    assert InputSpace(1, 4, 4, 3).shape == (1, 4, 4)


PEERS = [c for c in EVASION if c not in OURS and c.goals == ("untargeted",)]


@pytest.mark.slow
@pytest.mark.parametrize("card", PEERS, ids=lambda c: c.name)
def test_eps_zero_is_clean_accuracy_for_peers_attacks(card: Card) -> None:
    norm = card.norms[0] if card.norms else "linf"
    clean = labelled(linear())
    with torch.no_grad():
        right = linear()(clean.images(clean.ids)).argmax(1) == clean.y
    threat = Threat("t", "evasion", Access.WHITE_BOX, parse_set(norm, 0.0))
    rng = Rng.of(0, "conformance", clean.ids)
    from robustsuite.errors import MissingPackage, Unsupported

    try:
        record = evasion.judged(system(linear()), card.function, clean, threat, rng, width=8, card=card)
    except (Unsupported, MissingPackage) as refused:
        pytest.skip(str(refused))
    assert torch.equal(record.columns["robust"], right)


def test_a_fact_of_another_kind_is_refused_where_it_is_declared() -> None:
    with pytest.raises(UsageError, match="expected a fact of the attack's card, got 'hides'"):
        evasion.attack(hides=Access.GRADIENTS)
    with pytest.raises(UsageError, match="expected a fact of the defense's card, got 'stochastik'; did you mean"):
        stages.serve(stochastik=True)
