"""The kept pictures of every system put to the run's other systems, for `robustsuite run --audit`: no new attack.

What is found stands in one file of artefacts/, by its content; a system that was asked about a cell's pictures once is
not asked again, so a run that goes on asks what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import ValidationError

from robustsuite.app.rejudged import MOST_DRAWS, asked
from robustsuite.config.transforms import Transformation
from robustsuite.engine.execute import Planned, Progress, asking
from robustsuite.engine.store import Store
from robustsuite.errors import BadData
from robustsuite.integrity.tampering import put_back
from robustsuite.maths.numerics import float32, threads
from robustsuite.maths.projections import levels
from robustsuite.records.findings import TRANSFERS, Transfer, Transfers
from robustsuite.records.pictures import Kept, digest_of, read_pictures
from robustsuite.records.schema import dumped
from robustsuite.records.untrusted import text_of
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.routes import on_grid
from robustsuite.serve.models import services
from robustsuite.serve.system import System


@float32()
@threads()
def transferred(cells: Sequence[Planned], store: Store, progress: Progress | None = None) -> int:
    """Put every evasion cell's kept pictures to the other systems of its threat and data. Returns how many pairs.

    Systems that change with what they are asked, and services that bill it, are left alone.
    """
    tell = (progress or Progress()).tell
    with asking(list(cells), store), store.lease("transfers") as lease:
        if lease is None:
            return 0  # another process is at it
        meetings: dict[object, list[Cell]] = {}
        for cell, decision in cells:
            if decision.status == "run" and _measured(cell, store):
                meetings.setdefault(_met(cell), []).append(cell)
        kept = {cell.run_id: digest for met in meetings.values() for cell in met if (digest := _digest(cell, store))}
        known = {(pair.target, pair.source): pair for pair in _known(store)}
        before = len(known)
        for new in _by_system(_unasked(meetings.values(), kept, known)):
            facts = new[0][0].facts()
            tell(f"putting the kept pictures of other systems to {facts['model']} under {facts['defense']}")
            if found := {(pair.target, pair.source): pair for pair in _asked(new, kept, store)}:
                known |= found
                _keep(store, known.values())
        return len(known) - before


def _unasked(
    meetings: Iterable[Sequence[Cell]], kept: Mapping[str, str], known: Mapping[tuple[str, str], Transfer]
) -> Iterator[tuple[Cell, Cell]]:
    """One cell of each system and meeting, with each cell of others whose pictures it was not asked about yet."""
    for met in meetings:
        for own in _by_system((cell, cell) for cell in met):
            target, alike = own[0][0], [cell.run_id for cell, _ in own]
            for source in met:
                there = [known[name, source.run_id] for name in alike if (name, source.run_id) in known]
                asked_before = any(pair.pictures_sha256 == kept.get(source.run_id) for pair in there)
                if source.run_id in kept and source.lifecycle is not target.lifecycle and not asked_before:
                    yield target, source


def _by_system(pairs: Iterable[tuple[Cell, Cell]]) -> Iterator[list[tuple[Cell, Cell]]]:
    """These pairs by the system of their first cell: each is served once."""
    found: dict[int, list[tuple[Cell, Cell]]] = {}
    for pair in pairs:
        found.setdefault(id(pair[0].lifecycle), []).append(pair)
    yield from found.values()


def _measured(cell: Cell, store: Store) -> bool:
    """Whether it has rows, in a set that can be read from pictures: what was rendered cannot."""
    rendered = cell.threat is not None and isinstance(cell.threat.budget, Transformation)
    return cell.scenario.name == "evasion" and not rendered and store.column(cell.run_id, "robust") is not None


def _digest(cell: Cell, store: Store) -> str:
    """Of the cell's kept pictures; '' where there are none that can be read, which `verify` says."""
    with suppress(BadData):
        return digest_of(read_pictures(store.pictures(cell.run_id)))[1]
    return ""


def _met(cell: Cell) -> tuple[object, ...]:
    """What cells have in common that are about the same pictures and the same adversary, in a run of one seed."""
    space, threat = cell.lifecycle.model.space, cell.threat
    said = "" if threat is None else json.dumps(dumped(threat.facts()), sort_keys=True)
    head = cell.reading.head_words(space.classes)
    return (said, cell.split.sha256, cell.shift, str(cell.variant), head, cell.reading.transform, space,
            cell.lifecycle.seed)  # fmt: skip


def _asked(new: Sequence[tuple[Cell, Cell]], kept: Mapping[str, str], store: Store) -> Iterator[Transfer]:
    """What the pictures of these sources do to the one system that all targets are of."""
    system = new[0][0].lifecycle.served()
    if system.adapts or services(system.net):
        return
    for target, source in new:
        index, clean_ok = (store.column(target.run_id, name) or [] for name in ("index", "clean_ok"))
        right = {example for example, ok in zip(index, clean_ok, strict=True) if ok}
        put, broken = list[int](), list[int]()
        for part in read_pictures(store.pictures(source.run_id)):
            rows = torch.tensor([int(example) in right for example in part.ids]).nonzero().flatten()
            if len(rows):
                some, fell = _judged(target, system, part.at(rows.numpy()))
                put += some
                broken += fell
        yield Transfer(target=target.run_id, source=source.run_id, pictures_sha256=kept[source.run_id],
                       asked=tuple(sorted(put)), broken=tuple(sorted(broken)))  # fmt: skip


def _judged(target: Cell, system: System, part: Kept) -> tuple[list[int], list[int]]:
    """Which of these examples were put to the system, and which of them it answered wrong.

    The budget is read around the target's own picture; a system that takes 8 bits is shown the nearest that keep it.
    """
    with put_back(others=True):
        one, threat = asked(target, system, part), target.threat
        assert threat is not None
        assert threat.budget is not None
        assert not isinstance(threat.budget, Transformation)
        x, y = (values.to(one.system.device) for values in (one.split.images(torch.arange(len(part.ids))), one.split.y))
        x_adv = torch.tensor(part.adversarial).to(x)
        if system.grid:
            x = levels(x)
            x_adv = on_grid(x, x_adv, threat.budget)
        counts = threat.budget.allows(x, x_adv)
        if threat.goal.name != "untargeted":
            counts &= (one.targets != y[:, None]).all(1)
        answers = one.judge(x_adv, one.targets, one.rng)
    wrong = (answers.share >= MOST_DRAWS if system.stochastic else answers.wrong) & counts
    ids = torch.tensor(part.ids)
    return ids[counts.cpu()].tolist(), ids[wrong.cpu()].tolist()


def _files(store: Store) -> list[Path]:
    return sorted((store.folder / "artefacts").glob(f"{TRANSFERS}-*.json"))


def _known(store: Store) -> Iterator[Transfer]:
    """What was found before; of a file that cannot be read it is found anew."""
    for file in _files(store):
        with suppress(BadData, ValidationError):
            yield from Transfers.model_validate_json(text_of(file)).pairs


def _keep(store: Store, pairs: Iterable[Transfer]) -> None:
    """One file for all, in the place of those before."""
    before = _files(store)
    found = Transfers(pairs=tuple(sorted(pairs, key=lambda pair: (pair.target, pair.source))))
    store.keep(TRANSFERS, dumped(found))
    for file in before:
        file.unlink(missing_ok=True)
