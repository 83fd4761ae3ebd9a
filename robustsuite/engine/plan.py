"""Sweep -> cells: the product inside each threat, each with a decision and a sentence, and what it will cost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from sys import intern
from typing import Any, NamedTuple, TypeVar

from robustsuite.config.decision import Decision as Decision
from robustsuite.config.keys import named
from robustsuite.config.registry import AttackCard, canonical
from robustsuite.config.threats import Access, Threat
from robustsuite.engine import axes
from robustsuite.engine.sweep import Sweep
from robustsuite.errors import BadValue, quoted
from robustsuite.integrity.tampering import put_back
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Stream, plain
from robustsuite.records.swept import Entry
from robustsuite.scenarios import scenario_of
from robustsuite.scenarios.cell import Cell, Given, Memo
from robustsuite.scenarios.rehearsal import priced, rehearsed
from robustsuite.serve.adversary import Poisoner
from robustsuite.serve.data import Dataset, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import load_model

Named = TypeVar("Named")

MOST = 200_000
"""Cells of a sweep: planning them takes some ten seconds."""


class Played(NamedTuple):
    """An attack of a threat. first: on how many examples; shifts: under which sets besides; names: what `as` says.

    asked: its entry as the yaml has it.
    """

    threat: Threat
    card: AttackCard
    given: Given
    first: int | None
    shifts: list[str]
    names: dict[str, str]
    asked: dict[str, Entry]


def plan(sweep: Sweep, device: str = "cpu", first: int | None = None) -> list[tuple[Cell, Decision]]:
    """Every cell of the sweep with its decision, those that share a training side by side.

    first: judge on this many examples of each data set. Raises UsageError for anything that cannot be loaded.
    """
    if first is not None and not (isinstance(first, int) and first >= 1):
        raise BadValue(f"expected 1 example or more of each data set, got {quoted(first)}; leave it out for all")
    _few(sweep)
    cells: list[tuple[Cell, Decision]] = []
    defended = [(axes.defenses(entry), {"defense": name}, {"defense": Entry(spec=plain(entry))})
                for entry, name in map(named, sweep.defenses)]  # fmt: skip
    threats = [(spec.asked(name), spec.attacks, axes.attacked(sweep, name)) for name, spec in sweep.threats.items()]
    attacks = [
        Played(threat, *axes.attack(entry), on, {"attack": name}, {"attack": Entry(spec=plain(entry))})
        for threat, entries, on in threats for entry, name in map(named, entries)
    ]  # fmt: skip
    _once(attacks)
    memo = Memo()
    for dataset, split, judged, called, source in axes.data_sets(sweep, first):
        attacks = _lent(attacks, dataset)
        subjects = Subjects(split.first(None if first is None else min(first, len(split))), (judged,))
        for model, model_name, spec in axes.models(sweep, dataset):
            names, asked = {"model": model_name, "dataset": called}, {"model": spec, "dataset": source}
            for seed in sweep.seeds:
                shifted = list(axes.shift_sets(sweep, subjects.examples, dataset, seed))
                for defenses, alias, stack in defended:
                    cycle = Lifecycle(model, dataset, defenses, seed, device)
                    bare = Cell(
                        sweep.name, cycle, subjects, judged=subjects.examples, names=memo.of(_joined, names, alias),
                        asked_for=memo.of(_joined, asked, stack), memo=memo,
                    )  # fmt: skip
                    cells += _cells(sweep, bare, attacks, shifted)
                    if len(cells) > MOST:
                        raise BadValue(f"expected at most {MOST} cells, got more; split the sweep")
    return cells


def _lent(attacks: list[Played], dataset: Dataset) -> list[Played]:
    """The same, the adversary's own networks loaded for this data: which they are is part of a threat."""
    threats = {played.threat.name: played.threat for played in attacks}
    for name, threat in threats.items():
        if threat.surrogate:
            with put_back():
                own = load_model(threat.surrogate, dataset.space).sha256
            threats[name] = replace(threat, surrogate_sha256=own)
    return [played._replace(threat=threats[played.threat.name]) for played in attacks]


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
        if subjects.stream is not None:  # in an order of the scenario's own
            return subjects if adapts else of(_unstreamed, subjects)
        return of(_streamed, subjects, sweep.stream, cycle.seed) if adapts else subjects

    yield replace(bare, subjects=asked(judged), shift="clean"), Decision()
    for member, unfit in shifted:
        yield replace(bare, **{**member, **_named(bare, member), "subjects": asked(member["subjects"])}), unfit
    for threat, card, given, first, on, called, written in attacks:
        about, scenario = of(_first, judged, first), scenario_of(threat.scenario)
        played = replace(cycle, poison=of(Poisoner, card, given, threat), findings={}) if threat.poison else cycle
        played = played if scenario.trained is None else of(scenario.trained, played, threat)
        subjects = about if scenario.subjects is None else of(scenario.subjects, about.examples, cycle.data, threat)
        subjects = asked(subjects) if scenario.streams else subjects
        cell = replace(
            bare, lifecycle=played, subjects=subjects, threat=threat, attack=card, given=given,
            names=of(_joined, bare.names, called), asked_for=of(_joined, bare.asked_for, written),
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


def _named(cell: Cell, member: dict[str, Any]) -> dict[str, Any]:
    """What a shift set is called and what was asked for it, beside what a cell's other entries are."""
    of = cell.memo.of
    return {
        "names": of(_joined, cell.names, member["names"]), "asked_for": of(_joined, cell.asked_for, member["asked_for"])
    }  # fmt: skip


def _joined(names: Mapping[str, Named], more: Mapping[str, Named]) -> Mapping[str, Named]:
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


def _unstreamed(subjects: Subjects) -> Subjects:
    """The same for a system that does not adapt: no order or batch is part of it."""
    return replace(subjects, stream=None)


def _under_shift(
    cell: Cell, threat: Threat, member: dict[str, Any], first: int | None, others: Collection[str]
) -> Cell:
    """The same attack on a shifted set's pictures."""
    of = cell.memo.of
    where = " ".join(str(part) for part in (member["shift"], *member["variant"]) if part is not None)
    changed = {
        "threat": of(_moved, threat, intern(where), others),
        "subjects": of(_first, member["subjects"], first), "paired": False,
        **_named(cell, member),
    }  # fmt: skip
    return replace(cell, **{**member, **changed})


def _moved(threat: Threat, where: str, others: Collection[str]) -> Threat:
    """The threat under a shift has a name of its own, so that no ranking mixes the two."""
    name = f"{threat.name} on {where}"
    if name in others:
        raise BadValue(f"expected another name for the threat {name!r}, got what {threat.name!r} under a shift is")
    return replace(threat, name=name)


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
    if missing := card.needs & ~(threat.access | threat.lends):
        return Decision(
            "refused", "access",
            f"{card.name} needs {missing.words()}; the threat {threat.name} grants {threat.access.words()}",
        )  # fmt: skip
    if found := _unseen(card, threat, cycle):
        return found
    if found := priced(cell) or scenario.decide(cell):
        return found
    if why := _idle(cell):
        bare = replace(cell, lifecycle=replace(cycle, defenses=()))
        return Decision("inert", "stage", why, bare.run_id)
    return _hidden(card, cell)


def _idle(cell: Cell) -> str:
    """Why the cell's defenses change nothing in it, '' where they may."""
    cycle, stages = cell.lifecycle, {d.card.place for d in cell.lifecycle.defenses}
    if stages and stages.isdisjoint(cell.scenario.passes):
        return f"no stage of it is passed in {cell.scenario.name}"
    if stages == {"data"} and cycle.model.pretrained and not cycle.poison:
        return f"{cycle.model.name} comes trained: nothing learns from the pictures that it changes"
    return ""


def _unseen(card: AttackCard, threat: Threat, cycle: Lifecycle) -> Decision | None:
    """What nobody can have of the model, whatever the threat grants; None where the attack can do without."""
    shows = cycle.model.shows
    alone = f"{cycle.model.name} shows {shows.words()} alone, to anybody"
    if dark := card.needs & Access.WHITE_BOX & ~(shows | threat.lends):
        return Decision("refused", "model", f"{card.name} needs {dark.words()}; {alone}")
    if Access.WEIGHTS not in shows and (train := [d for d in cycle.defenses if d.card.place in ("train", "harden")]):
        return Decision("refused", "model", f"{train[0].card.name} trains the network; {alone}")
    return None


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
