"""What a sweep's entries stand for: data sets, models, defenses, attacks and shift sets, loaded and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import torch

from robustsuite.config.decision import Decision
from robustsuite.config.keys import named
from robustsuite.config.registry import AttackCard, canonical, card_of, checked_parameters
from robustsuite.config.text import WHOLE
from robustsuite.config.threats import Access
from robustsuite.engine.sweep import Sweep
from robustsuite.errors import BadData, BadValue, UnknownName, loading, quoted
from robustsuite.integrity.tampering import put_back
from robustsuite.records.labels import apart
from robustsuite.records.schema import plain, used_words
from robustsuite.records.swept import Entry
from robustsuite.scenarios.cell import COMMON, Given
from robustsuite.serve.data import (
    CONTROL,
    Dataset,
    ShiftSet,
    Split,
    Subjects,
    Variant,
    load_data,
    parse_data,
    parse_spec,
)
from robustsuite.serve.models import Model, load_model
from robustsuite.serve.stages import Applied, applied


def data_sets(sweep: Sweep, first: int | None = None) -> Iterator[tuple[Dataset, Split, str, str, Entry]]:
    """Each data set with the split to judge on, that split's name, what tables call the set, and all that was asked.

    Sets that call themselves alike are named with the parameters that tell them apart; raises BadValue for objects.
    """
    loaded = [
        (*load_data(entry), *((entry.name, {}) if isinstance(entry, Dataset) else parse_data(entry)), name, entry)
        for entry, name in map(named, sweep.data)
    ]
    for dataset, split, source, given, name, entry in loaded:
        twins = [(other, pictures.sha256, spec) for twin, pictures, _, other, _, spec in loaded
                 if twin.name == dataset.name]  # fmt: skip
        if any(other == given and sha256 != split.sha256 for other, sha256, _ in twins):
            raise BadValue(f"expected another name for each data set, got {dataset.name!r} twice; rename one")
        told = apart(given, (other for other, *_ in twins))
        called, judged = used_words(dataset.name, told), str(given.get("split", "test"))
        words = used_words(source, given | ({} if first is None else {"first": first}))
        spec = None if isinstance(entry, Dataset) else plain(entry)
        asked = Entry(asked=words, spec=spec, twins=tuple(plain(e) for other, _, e in twins if told and other != given))
        yield replace(dataset, name=called), split, judged, name, asked


def models(sweep: Sweep, dataset: Dataset) -> Iterator[tuple[Model, str, Entry]]:
    """Each model with what tables call it and what was asked, which those that call themselves alike are named by."""
    specs = [(_model(entry), name) for entry, name in map(named, sweep.models)]
    with put_back():
        loaded = [(load_model(spec, dataset.space), spec, name) for spec, name in specs]
    for model, spec, _ in loaded:
        if model.host and model.host not in sweep.hosts:
            known = ", ".join(sweep.hosts) or "none"
            raise BadValue(f"expected {model.host}, which {spec} asks, among the sweep's hosts, got {known}; write "
                           f"hosts: [{model.host}], or --host {model.host} to vet")  # fmt: skip
    for model, spec, name in loaded:
        alike = dict.fromkeys(other for twin, other, _ in loaded if twin.name == model.name)
        asked = Entry(asked=spec, spec=spec, twins=tuple(other for other in alike if other != spec))
        yield replace(model, name=spec) if len(alike) > 1 else model, name, asked


def _model(entry: object) -> str:
    """A yaml entry 'recipe:lenet5?epochs=5' or {recipe:lenet5: {epochs: 5}} as the former."""
    name, given = parse_spec(entry, "model")
    return f"{name}?{urlencode(given)}" if given else name


def defenses(entry: object) -> tuple[Applied, ...]:
    """A yaml entry: 'none', a defense, or a list of them in order."""
    if entry == "none":
        return ()
    parts = entry if isinstance(entry, list) else [entry]
    return tuple(applied(*parse_spec(part, "defense")) for part in parts)


def attack(entry: object) -> tuple[AttackCard, Given, int | None]:
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


def shift_sets(
    sweep: Sweep, split: Split, dataset: Dataset, seed: int
) -> Iterator[tuple[dict[str, Any], Decision]]:
    """What the cells of each shift set have of their own, and whether they can be played.

    A set with clean pictures of its own has a cell for them. One that is listed twice is named with the parameters that
    tell the two apart.
    """
    entries = [(*parse_spec(entry, "shift set"), alias) for entry, alias in map(named, sweep.shifts)]
    for name, written, alias in entries:
        card = card_of("shift", name)
        given = checked_parameters(card, written)
        with loading(f"the shift set {name}", BadData):
            found: ShiftSet = card.function(split, dataset, seed=seed, **given)
            unfit = _unapplied(found)
        label = canonical(card, apart(given, (other for twin, other, _ in entries if twin == name)))
        clean = split if found.clean is None else found.clean
        twins = tuple(_written(twin, other) for twin, other, _ in entries if twin == name and other != written)
        names = {"shift": alias}
        asked = {"shift": Entry(asked=used_words(name, given), spec=_written(name, written), twins=twins)}
        control = {} if found.clean is None else {Variant(CONTROL): clean}
        for variant, pictures in {**control, **found.variants}.items():
            paired = found.paired and pictures is not clean and torch.equal(pictures.ids, clean.ids)
            yield {
                "shift": label, "variant": variant, "subjects": Subjects(pictures, (label,)), "clean": clean,
                "paired": paired, "reading": found.reading, "names": names, "asked_for": asked,
            }, unfit.get(variant, Decision())  # fmt: skip


def _written(name: str, given: dict[str, Any]) -> Any:
    """An entry of this name with these parameters as yaml has it."""
    return plain({name: given} if given else name)


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


def attacked(sweep: Sweep, name: str) -> list[str]:
    """The shift sets a threat attacks besides the clean pictures; raises UnknownName."""
    asked = [str(shift) for shift in getattr(sweep.threats[name], "shifts", [])]
    known = [parse_spec(entry, "shift set")[0] for entry, _ in map(named, sweep.shifts)]
    for shift in asked:
        if shift not in known:
            raise UnknownName(f"shift set of this sweep in the threat {name!r}", shift, known)
    return asked
