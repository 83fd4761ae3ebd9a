"""The commands about files: `robustsuite data check SPEC` before anything is measured, `robustsuite pack RUN` after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from robustsuite.app.flags import entry
from robustsuite.app.terminal import console

if TYPE_CHECKING:
    from robustsuite.serve.data import ShiftSet, Split

screen = console(soft_wrap=True)

CHUNK = 64
"""Pictures decoded at a time."""

NAMED = 10
"""Classes that are named from the first on."""


class Finding(NamedTuple):
    """What was found, and whether it is as it should be."""

    good: bool
    text: str


def register(app: typer.Typer) -> None:
    """Add `data check` and `pack` to the command line."""
    app.command()(pack)
    group = typer.Typer(no_args_is_help=True, help="Look at data on disk before measuring on it.")
    group.callback()(_data)
    group.command()(check)
    app.add_typer(group, name="data")


def pack(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Move a run's finished cells into a few files: nothing that it says changes, and very many are read in seconds."""
    from robustsuite.engine.pack import pack as packed
    from robustsuite.records.cells import read_sweep

    read_sweep(run)
    screen.print(f"{packed(run)} cells packed in {run}", markup=False)


def _data() -> None:
    """Look at data on disk before measuring on it."""


def check(
    spec: Annotated[str, typer.Argument(help="imagefolder:DIR, '{imagenet_r: {root: DIR}}' or any data or shift set.")],
    data: Annotated[str, typer.Option("--data", "-D", help="The data set whose classes a shift set shares.")] = "",
    sample: Annotated[int, typer.Option(min=0, help="Pictures decoded of each part, spread over it; 0: all.")] = 0,
) -> None:
    """What is there, counted against what was published: missing folders, wrong mapping, pictures that do not decode.

    Exit code 1 where anything is amiss.
    """
    amiss = 0
    for finding in findings(entry(spec, "{imagenet_r: {root: DIR}}"), entry(data) if data else None, sample):
        screen.print("ok   " if finding.good else "amiss", finding.text, markup=False)
        amiss += not finding.good
    screen.print("all as it should be" if not amiss else f"{amiss} findings amiss", markup=False)
    if amiss:
        raise typer.Exit(1)


def findings(spec: object, data: object = None, sample: int = 0) -> Iterator[Finding]:
    """What is found of a data set, or of a shift set over the data set `data`.

    Raises UnknownName for a set that is neither, BadValue for a shift set without its data set.
    """
    from robustsuite.config.registry import cards
    from robustsuite.errors import BadData, BadValue, UnknownName
    from robustsuite.serve.data import load_data, parse_data, parse_spec

    rooted = isinstance(spec, str) and ":" in spec
    name, given = parse_data(spec) if rooted else parse_spec(spec, "data or shift set")
    if ("shift", name) in cards():
        if data is None:
            raise BadValue(
                f"expected the data set whose classes {name} shares, got none; add --data '{{imagenet: ...}}'"
            )
        yield from _shift_findings(name, given, data, sample)
        return
    if ("data", name) not in cards():
        raise UnknownName("data or shift set", name, [known for kind, known in cards() if kind in ("data", "shift")])
    try:
        loaded, _ = load_data(spec)
    except BadData as error:
        yield Finding(False, str(error))
        return
    yield Finding(True, f"classes in order: {in_words(loaded.classes)}")
    if loaded.note:
        yield Finding(True, loaded.note)
    for part, split in loaded.splits.items():
        yield Finding(True, f"{part}: {_counts(split)} of {loaded.space.classes}")
        yield from _decoded(part, split, sample)


def in_words(classes: Sequence[str]) -> str:
    """The first and the last of them with their indices, and which order that is, in words."""
    shown = [*range(min(len(classes), NAMED)), *([len(classes) - 1] if len(classes) > NAMED else [])]
    names = [f"{i} {classes[i]!r}" for i in shown]
    if len(classes) > NAMED + 1:
        names.insert(NAMED, "...")
    rule = "the data set's own"
    if all(name.isascii() and name.isdigit() for name in classes) and list(classes) == sorted(classes, key=int):
        rule = "sorted as numbers"
    elif list(classes) == sorted(classes):
        rule = "sorted by name"
    return f"{', '.join(names)} ({rule}); a model's outputs must be in this order"


def _shift_findings(name: str, given: dict[str, Any], data: object, sample: int) -> Iterator[Finding]:
    from robustsuite.config.registry import card_of, checked_parameters
    from robustsuite.errors import BadData
    from robustsuite.serve.data import load_data

    dataset, clean = load_data(data)
    card = card_of("shift", name)
    found: ShiftSet | None = None
    for parameters in ({}, {"partial": True}) if "partial" in card.parameters else ({},):
        try:
            found = card.function(clean, dataset, seed=0, **checked_parameters(card, {**given, **parameters}))
        except BadData as error:
            yield Finding(False, str(error))
        else:
            break
    if found is None:
        return
    for variant, split in found.variants.items():
        words = " ".join(str(part) for part in variant if part is not None)
        yield Finding(True, f"{words}: {_counts(split)}")
        yield from _decoded(words, split, sample)
    yield Finding(True, f"head: {found.reading.head_words(dataset.space.classes)}")
    yield Finding(True, f"read as: {found.reading.transform}")


def _counts(split: Split) -> str:
    return f"{len(split):,} pictures, {len(split.y.unique())} classes"


def _decoded(name: str, split: Split, sample: int) -> Iterator[Finding]:
    """Every picture that does not decode, by name."""
    import torch

    from robustsuite.errors import BadData

    asked = torch.arange(len(split))
    if sample and sample < len(split):
        asked = torch.linspace(0, len(split) - 1, sample).long()
    bad = 0
    for positions in asked.split(CHUNK):
        try:
            split.images(positions)
        except BadData as whole:
            damaged = [sentence for one in positions if (sentence := _damage(split, one[None]))]
            bad += max(1, len(damaged))
            yield from (Finding(False, sentence) for sentence in damaged or [str(whole)])
    if not bad:
        yield Finding(True, f"{name}: {len(asked):,} of them decoded")


def _damage(split: Split, position: Any) -> str:
    from robustsuite.errors import BadData

    try:
        split.images(position)
    except BadData as error:
        return str(error)
    return ""
