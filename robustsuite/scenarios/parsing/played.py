"""The judge's side: the victim is attacked and read, and the guesses are held against what it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustsuite.config.decision import Decision
from robustsuite.config.threats import Access, Threat
from robustsuite.errors import Unsupported
from robustsuite.integrity.probes import Flag
from robustsuite.methods.attributes import (
    ACTIVATIONS,
    CHANCE,
    KERNELS,
    NAMES,
    SPARSITIES,
    Attributes,
    attributes_of,
)
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario, evasion
from robustsuite.scenarios.parsing.asked import ParsingSpec, ParsingThreat
from robustsuite.scenarios.parsing.observer import checked, examples, made, owner, shadowed
from robustsuite.scenarios.record import Record
from robustsuite.serve.data import InputSpace

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context


def play(context: Context) -> Record:
    """Attack the victim, let the observer learn and guess, and hold its guesses against what the victim is."""
    threat, system = _asked(context.threat), context.served()
    truth = attributes_of(system.net, system.space.shape)
    own = owner(context, threat)
    found = made(system, threat.made, context.split, context.rng, context.width, own.aux)
    held = shadowed(own, context.width, held=True)
    learns_on = examples(own, threat.sees, context.width, context.identity)
    seen = torch.cat([found.seen(threat.sees), held.pictures.seen(threat.sees)])
    guesses = checked(context.attack(seen, learns_on), len(seen), context.card)
    record = judged(truth, guesses[: len(found.x)], found.adversarial, guesses[len(found.x) :], held.values)
    return record._replace(forwards=found.forwards, backwards=found.backwards)


def judged(truth: Attributes, guesses: Tensor, adversarial: Tensor, held: Tensor, values: Tensor) -> Record:
    """What guesses (N, 3) say of a victim that is `truth`; adversarial (N,): the pictures that count.

    held, values (M, 3): guesses and truth on pictures of the observer's own nets that it has not learnt on. Columns:
    adversarial, <attribute>_ok, all_ok, <attribute> and <attribute>_guess (places), and, the same in every row,
    own_<attribute>, own_all (share right among held), own_pictures (M), others_<attribute> (share of what is of another
    value and named as the victim's). Flags: nothing_to_parse, observer_at_chance, control_as_good.
    """
    places = truth.classes()
    right, own = guesses == places, held == values
    columns = {"adversarial": adversarial}
    columns |= {f"{name}_ok": right[:, k] for k, name in enumerate(NAMES)} | {"all_ok": right.all(1)}
    for k, name in enumerate(NAMES):
        other = values[:, k] != places[k]
        columns[name] = places[k].expand(len(guesses)).clone()
        columns[f"{name}_guess"] = guesses[:, k]
        columns[f"own_{name}"] = _share(own[:, k], len(guesses))
        columns[f"others_{name}"] = _share((held[:, k] == places[k])[other], len(guesses))
    columns["own_all"] = _share(own.all(1), len(guesses))
    columns["own_pictures"] = torch.full((len(guesses),), len(held))
    return Record(columns, _flags(columns), 0, 0, _note(columns, truth))


def _share(found: Tensor, rows: int) -> Tensor:
    return torch.full((rows,), float(found.float().mean()) if len(found) else math.nan)


def _flags(columns: dict[str, Tensor]) -> list[Flag]:
    """What makes the guesses say nothing."""
    n = int(columns["adversarial"].sum())
    if not n:
        return [Flag("nothing_to_parse", "no picture was changed so that it broke the system: nothing was parsed")]
    mean = sum(float(columns[f"own_{name}"][0]) for name in NAMES) / len(NAMES)
    slack = 2 * math.sqrt(CHANCE * (1 - CHANCE) / (len(NAMES) * max(1, int(columns["own_pictures"][0]))))
    if not mean > CHANCE + slack:
        return [Flag("observer_at_chance", f"the observer names {mean:.1%} of the attributes of its own nets, as a "
                     f"guesser would; it has learnt nothing, and what it says of others is no evidence")]  # fmt: skip
    gain = sum(_gain(columns, name) for name in NAMES) / len(NAMES)
    if not gain > 0:
        words = f"it names the victim's values {100 * gain:+.1f} points more often of the victim than of other nets"
        return [Flag("control_as_good", words)]
    return []


def _gain(columns: dict[str, Tensor], name: str) -> float:
    """How much more often the victim's value is named of its pictures than of those of nets with another."""
    ok = columns[f"{name}_ok"][columns["adversarial"]].float().mean()
    return float(ok - columns[f"others_{name}"][0].nan_to_num())


def _note(columns: dict[str, Tensor], truth: Attributes) -> str:
    """What a reader of the number should know."""
    counted = columns["adversarial"]
    words = [f"{truth}", f"{int(counted.sum())} of {len(counted)} pictures count: changed, and they broke it"]
    if bool(counted.any()):
        of = ", ".join(f"{name} {float(columns[f'others_{name}'][0]):.1%}" for name in NAMES)
        words.append(f"these values are named of other nets' pictures, too: {of}")
    own = ", ".join(f"{name} {float(columns[f'own_{name}'][0]):.1%}" for name in NAMES)
    return "; ".join([*words, f"right on {int(columns['own_pictures'][0])} of its own nets': {own}"])


def _asked(threat: Threat) -> ParsingThreat:
    if not isinstance(threat, ParsingThreat):
        raise ValueError(f"expected a threat of the scenario parsing, got {threat.name!r} without an evasion attack")
    return threat


def decide(cell: Cell) -> Decision | None:
    """What cannot be made or read: pictures against this model by that attack, or what the model is."""
    model, threat = cell.lifecycle.model, cell.threat
    if threat is None or threat.scenario != "parsing":
        return None
    maker = _asked(threat).made
    if Access.WEIGHTS not in model.shows:
        return Decision("unmeasured", "model", f"{model.name} shows {model.shows.words()} alone: what it is made of, "
                        f"which guesses are held against, cannot be read")  # fmt: skip
    if found := evasion.decide(replace(cell, attack=maker.card, given=maker.given)):
        return found
    said = cell.memo.of(_unread, model.net, model.space)
    return Decision("unmeasured", "attributes", said) if said else None


def _unread(net: nn.Module, space: InputSpace) -> str:
    """Why what the network is made of is of no class; '' where it is."""
    try:
        attributes_of(net, space.shape)
    except Unsupported as error:
        return str(error)
    return ""


def _place(name: str) -> tuple[Column, ...]:
    values = {"kernel": KERNELS, "activation": ACTIVATIONS, "sparsity": SPARSITIES}[name]
    unit = "place in " + ", ".join(map(str, values))
    return Column(name=name, dtype="int", unit=unit), Column(name=f"{name}_guess", dtype="int", unit=unit)


scenario = Scenario(
    "parsing", "An observer tells from adversarial pictures what the network is made of that they break.", play,
    columns=(
        Column(name="all_ok", better="less", scores=(
            Scoring(name="all_ok_rate", where="adversarial", compared=True),
        )),
        *(Column(name=f"{name}_ok", better="less", scores=(
            Scoring(name=f"{name}_ok_rate", where="adversarial", compared=True),
        )) for name in NAMES),
        Column(name="adversarial", scores=(Scoring(name="adversarial_rate"),)),
        *(column for name in NAMES for column in _place(name)),
        *(Column(name=f"{said}_{name}", dtype="float", unit="share") for said in ("own", "others") for name in NAMES),
        Column(name="own_all", dtype="float", unit="share"),
        Column(name="own_pictures", dtype="int", unit="pictures"),
    ),
    headline="all_ok_rate", paper="Yao et al., 2023, arXiv:2303.07474", spec=ParsingSpec, decide=decide,
    sections="robustsuite.reports.sections.parsed:part",
)  # fmt: skip
