"""Sweep -> cells: the product inside each threat, each with a decision and a sentence, and what it will cost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from sys import intern
from typing import Any, NamedTuple
from urllib.parse import urlencode

import torch

from robustsuite.config.decision import Decision as Decision
from robustsuite.config.keys import named
from robustsuite.config.registry import AttackCard, canonical, card_of, checked_parameters
from robustsuite.config.text import WHOLE
from robustsuite.config.threats import Access, Threat
from robustsuite.engine.sweep import Sweep
from robustsuite.errors import BadData, BadValue, UnknownName, loading, quoted
from robustsuite.maths.randomness import Rng
from robustsuite.records.labels import apart
from robustsuite.records.schema import Stream, used_words
from robustsuite.scenarios import scenario_of
from robustsuite.scenarios.cell import COMMON, Cell, Given, Memo
from robustsuite.scenarios.rehearsal import priced, rehearsed
from robustsuite.serve.adversary import Poisoner
from robustsuite.serve.data import CONTROL, Dataset, ShiftSet, Split, Subjects, Variant, load_data, parse_spec
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, load_model
from robustsuite.serve.stages import Applied, applied

MOST = 200_000
"""Cells of a sweep: planning them takes some ten seconds."""


class Played(NamedTuple):
    """An attack of a threat. first: on how many examples; shifts: under which sets besides; names: what `as` says."""

    threat: Threat
    card: AttackCard
    given: Given
    first: int | None
    shifts: list[str]
    names: dict[str, str]


def plan(sweep: Sweep, device: str = "cpu", first: int | None = None) -> list[tuple[Cell, Decision]]:
    """Every cell of the sweep with its decision, those that share a training side by side.

    first: judge on this many examples of each data set. Raises UsageError for anything that cannot be loaded.
    """
    if first is not None and not (isinstance(first, int) and first >= 1):
        raise BadValue(f"expected 1 example or more of each data set, got {quoted(first)}; leave it out for all")
    _few(sweep)
    cells: list[tuple[Cell, Decision]] = []
    defended = [(_defenses(entry), {"defense": name}) for entry, name in map(named, sweep.defenses)]
    threats = [(spec.threat(name), spec.attacks, _attacked(sweep, name)) for name, spec in sweep.threats.items()]
    attacks = [
        Played(threat, *_attack(entry), on, {"attack": name})
        for threat, entries, on in threats for entry, name in map(named, entries)
    ]  # fmt: skip
    _once(attacks)
    memo = Memo()
    for dataset, split, judged, called in _data(sweep):
        subjects = Subjects(split.first(None if first is None else min(first, len(split))), (judged,))
        for model, model_name in _models(sweep, dataset):
            names = {"model": model_name, "dataset": called}
            for seed in sweep.seeds:
                shifted = list(_shifts(sweep, subjects.examples, dataset, seed))
                for defenses, alias in defended:
                    cycle = Lifecycle(model, dataset, defenses, seed, device)
                    system = memo.of(_joined, names, alias)
                    bare = Cell(sweep.name, cycle, subjects, judged=subjects.examples, names=system, memo=memo)
                    cells += _cells(sweep, bare, attacks, shifted)
                    if len(cells) > MOST:
                        raise BadValue(f"expected at most {MOST} cells, got more; split the sweep")
    return cells


def _few(sweep: Sweep) -> None:
    """Raises BadValue for a product of so many cells that planning alone would take minutes and gigabytes."""
    played = 1 + len(sweep.shifts) + sum(len(spec.attacks) for spec in sweep.threats.values())
    total = len(sweep.models) * len(sweep.data) * len(sweep.seeds) * len(sweep.defenses) * played
    if total > MOST:
        raise BadValue(f"expected at most {MOST} cells, got {total} or more of models x data x seeds x defenses x "
                       f"(attacks + shifts); split the sweep")  # fmt: skip


def _once(attacks: list[Played]) -> None:
    """Raises BadValue for an attack that a threat has twice with different `first`: no table could tell them apart."""
    asked: dict[tuple[str, str], int | None] = {}
    for threat, card, given, first, *_ in attacks:
        words = canonical(card, dict(given))
        if asked.setdefault((threat.name, words), first) != first:
            both = f"{asked[threat.name, words]} and {first}"
            raise BadValue(
                f"expected {words} once in the threat {threat.name!r}, got it with first {both}; a row is about one "
                f"set of examples, keep one or play it in a threat of its own"
            )


def _cells(
    sweep: Sweep, bare: Cell, attacks: list[Played], shifted: list[tuple[dict[str, Any], Decision]]
) -> Iterator[tuple[Cell, Decision]]:
    """The cells of one system, from one of them without threat or shift."""
    cycle, judged, of = bare.lifecycle, bare.subjects, bare.memo.of
    adapts = any(d.card.adapts for d in cycle.defenses)

    def asked(subjects: Subjects) -> Subjects:
        return of(_streamed, subjects, sweep.stream, cycle.seed) if adapts else subjects

    yield replace(bare, subjects=asked(judged), shift="clean"), Decision()
    for member, unfit in shifted:
        names = of(_joined, bare.names, member["names"])
        yield replace(bare, **{**member, "subjects": asked(member["subjects"]), "names": names}), unfit
    for threat, card, given, first, on, called in attacks:
        played = replace(cycle, poison=of(Poisoner, card, given, threat), findings={}) if threat.poison else cycle
        about, scenario = of(_first, judged, first), scenario_of(threat.scenario)
        subjects = about if scenario.subjects is None else of(scenario.subjects, about.examples, cycle.data, threat)
        subjects = asked(subjects) if scenario.streams else subjects
        cell = replace(
            bare, lifecycle=played, subjects=subjects, threat=threat, attack=card, given=given,
            names=of(_joined, bare.names, called),
        )  # fmt: skip
        yield cell, _tried(cell)
        for member, unfit in shifted if on else ():
            if member["shift"].partition("(")[0] in on:
                moved = _under_shift(cell, threat, member, first, sweep.threats)
                yield moved, unfit if unfit.status != "run" else _tried(moved)


def _first(subjects: Subjects, first: int | None) -> Subjects:
    """The same about the first examples; itself where there are no more."""
    examples = subjects.examples
    return subjects.on(examples.first(first)) if first and first < len(examples) else subjects


def _joined(names: Mapping[str, str], more: Mapping[str, str]) -> Mapping[str, str]:
    return {**names, **more}


def _streamed(subjects: Subjects, stream: Stream, seed: int) -> Subjects:
    """The examples in the order and batches in which a system that adapts is asked."""
    examples = subjects.examples
    if stream.order == "shuffled":
        keys = Rng.of(seed, "stream", examples.ids).uniform(1).flatten()
        order = keys.argsort(stable=True)
        member = None if subjects.member is None else subjects.member[order]
        subjects = replace(subjects, examples=examples.at(order), member=member)
    return replace(subjects, stream=stream)


def _under_shift(
    cell: Cell, threat: Threat, member: dict[str, Any], first: int | None, others: Collection[str]
) -> Cell:
    """The same attack on a shifted set's pictures."""
    of = cell.memo.of
    where = " ".join(str(part) for part in (member["shift"], *member["variant"]) if part is not None)
    changed = {
        "threat": of(_moved, threat, intern(where), others),
        "subjects": of(_first, member["subjects"], first), "paired": False,
        "names": of(_joined, cell.names, member["names"]),
    }  # fmt: skip
    return replace(cell, **{**member, **changed})


def _moved(threat: Threat, where: str, others: Collection[str]) -> Threat:
    """The threat under a shift has a name of its own, so that no ranking mixes the two."""
    name = f"{threat.name} on {where}"
    if name in others:
        raise BadValue(f"expected another name for the threat {name!r}, got what {threat.name!r} under a shift is")
    return replace(threat, name=name)


def _attacked(sweep: Sweep, name: str) -> list[str]:
    """The shift sets a threat attacks besides the clean pictures; raises UnknownName."""
    asked = [str(shift) for shift in getattr(sweep.threats[name], "shifts", [])]
    known = [parse_spec(entry, "shift set")[0] for entry, _ in map(named, sweep.shifts)]
    for shift in asked:
        if shift not in known:
            raise UnknownName(f"shift set of this sweep in the threat {name!r}", shift, known)
    return asked


def _tried(cell: Cell) -> Decision:
    """The decision on a cell; where it can be run as its cards say, what a rehearsal of its attack says."""
    found = decide(cell)
    return (rehearsed(cell) or found) if found.status == "run" else found


def decide(cell: Cell) -> Decision:
    """Whether the cell can be run, and in a sentence why not."""
    threat, card, cycle, scenario = cell.threat, cell.attack, cell.lifecycle, cell.scenario
    if threat is None or card is None:
        return Decision()
    if card.place != scenario.name:
        return Decision("refused", "scenario", f"{card.name} plays {card.place}, the threat is {scenario.name}")
    if missing := card.needs & ~threat.access:
        return Decision(
            "refused", "access",
            f"{card.name} needs {missing.words()}; the threat {threat.name} grants {threat.access.words()}",
        )  # fmt: skip
    if found := priced(cell) or scenario.decide(cell):
        return found
    if cycle.defenses and all(d.card.place not in scenario.passes for d in cycle.defenses):
        bare = replace(cell, lifecycle=replace(cycle, defenses=()))
        return Decision("inert", "stage", f"no stage of it is passed in {scenario.name}", bare.run_id)
    return _hidden(card, cell)


def _hidden(card: AttackCard, cell: Cell) -> Decision:
    """What the defenses take from the attack: answers that stay, and what it needs where they bring no surrogate."""
    for d in cell.lifecycle.defenses:
        if d.card.adapts and not cell.scenario.streams:
            sentence = f"{d.card.name} adapts to what it is asked, and {cell.scenario.name} asks in no order of its own"
            return Decision("unmeasured", "adapts", sentence)
        if (hidden := d.card.hides & card.needs) and d.card.surrogate is None:
            sentence = f"{d.card.name} hides {hidden.words()} and ships no surrogate to attack through"
            return Decision("unmeasured", "no_surrogate", sentence)
    return Decision()


def _data(sweep: Sweep) -> Iterator[tuple[Dataset, Split, str, str]]:
    """Each data set with the split to judge on, that split's name, and what tables call the set.

    Sets that call themselves alike are named with the parameters that tell them apart.
    """
    loaded = [
        (*load_data(entry), parse_spec(entry, "data set")[1], name) for entry, name in map(named, sweep.data)
    ]
    for dataset, split, given, name in loaded:
        told = apart(given, (other for twin, _, other, _ in loaded if twin.name == dataset.name))
        yield replace(dataset, name=used_words(dataset.name, told)), split, str(given.get("split", "test")), name


def _models(sweep: Sweep, dataset: Dataset) -> Iterator[tuple[Model, str]]:
    """Each model with what tables call it; of those that call themselves alike, each under all that was asked for."""
    specs = [(_model(entry), name) for entry, name in map(named, sweep.models)]
    loaded = [(load_model(spec, dataset.space), spec, name) for spec, name in specs]
    for model, spec, name in loaded:
        alike = {other for twin, other, _ in loaded if twin.name == model.name}
        yield replace(model, name=spec) if len(alike) > 1 else model, name


def _model(entry: object) -> str:
    """A yaml entry 'recipe:lenet5?epochs=5' or {recipe:lenet5: {epochs: 5}} as the former."""
    name, given = parse_spec(entry, "model")
    return f"{name}?{urlencode(given)}" if given else name


def _defenses(entry: object) -> tuple[Applied, ...]:
    """A yaml entry: 'none', a defense, or a list of them in order."""
    if entry == "none":
        return ()
    parts = entry if isinstance(entry, list) else [entry]
    return tuple(applied(*parse_spec(part, "defense")) for part in parts)


def _attack(entry: object) -> tuple[AttackCard, Given, int | None]:
    """A yaml entry 'pgd' or {pgd: {steps: 50}}: its card, checked parameters, and on how many examples it is played.

    `first` is every attack's: a certifier that takes minutes an image is asked about fewer of them, and its row says n.
    """
    name, given = parse_spec(entry, "attack")
    card = card_of("attack", name)
    first = given.pop("first", None)
    if first is not None and (not isinstance(first, int) or isinstance(first, bool) or first < 1):
        raise BadValue(f"expected first >= 1 for {name}, got {quoted(first)}; leave it out to play on all examples")
    common = set(COMMON) if Access.GRADIENTS in card.needs else set()
    for key in common & set(given) - set(card.parameters):
        if not isinstance(given[key], int) or isinstance(given[key], bool) or not 1 <= given[key] < WHOLE:
            raise BadValue(f"expected {key} >= 1 for {name}, got {quoted(given[key])}; leave it out for {COMMON[key]}")
    checked_parameters(card, {k: v for k, v in given.items() if k not in common - set(card.parameters)})
    return card, tuple(sorted(given.items())), first


def _shifts(
    sweep: Sweep, split: Split, dataset: Dataset, seed: int
) -> Iterator[tuple[dict[str, Any], Decision]]:
    """What the cells of each shift set have of their own, and whether they can be played.

    A set with clean pictures of its own has a cell for them. One that is listed twice is named with the parameters that
    tell the two apart.
    """
    entries = [(*parse_spec(entry, "shift set"), alias) for entry, alias in map(named, sweep.shifts)]
    for name, given, alias in entries:
        card = card_of("shift", name)
        given = checked_parameters(card, given)
        with loading(f"the shift set {name}", BadData):
            found: ShiftSet = card.function(split, dataset, seed=seed, **given)
            unfit = _unapplied(found)
        label = canonical(card, apart(given, (other for twin, other, _ in entries if twin == name)))
        clean = split if found.clean is None else found.clean
        names = {"shift": alias}
        control = {} if found.clean is None else {Variant(CONTROL): clean}
        for variant, pictures in {**control, **found.variants}.items():
            paired = found.paired and pictures is not clean and torch.equal(pictures.ids, clean.ids)
            yield {
                "shift": label, "variant": variant, "subjects": Subjects(pictures, (label,)), "clean": clean,
                "paired": paired, "reading": found.reading, "names": names,
            }, unfit.get(variant, Decision())  # fmt: skip


def _unapplied(found: ShiftSet) -> dict[Variant, Decision]:
    """Why variants cannot be made of these pictures, as their first picture says; all are asked where the first is.

    A picture that cannot be read is no reason: its cell fails, and is tried again.
    """
    refused: dict[Variant, Decision] = {}
    for variant, pictures in found.variants.items():
        try:
            pictures.images(torch.arange(min(1, len(pictures))))
        except (BadValue, UnknownName) as error:
            refused[variant] = Decision("refused", "shift", " ".join(str(error).split()))
        except Exception:  # anybody's pictures; what is wrong with them, the cell says
            break
        if not refused:
            break
    return refused
