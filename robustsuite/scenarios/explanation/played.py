"""The judge's side: the system is asked what it answers where pixels are taken or given in the order of each map."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustsuite.config.decision import Decision
from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Threat
from robustsuite.errors import BadValue
from robustsuite.integrity.tampering import untampered
from robustsuite.maths.losses import own
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import (
    Probability,
    area,
    blurred,
    curves,
    inside,
    mean_colour,
    pointed,
    ranks,
)
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.explanation.asked import ExplanationSpec, ExplanationThreat
from robustsuite.scenarios.explanation.retrained import diffroar
from robustsuite.scenarios.record import Record, unattacked
from robustsuite.serve.oracle import Desk, answer
from robustsuite.serve.system import System

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context


def play(context: Context) -> Record:
    """Let the method explain what the system answers to each picture, and ask the system whether it is so."""
    threat, system, split = _asked(context.threat), context.served(), context.split
    clean = context.unattacked() or unattacked(system, split, context.rng.fold("clean"), width=context.width)
    x = split.images(torch.arange(len(split))).to(system.device)
    said = torch.where(clean.prediction < 0, split.y, clean.prediction).to(system.device)
    desk = _desk(context, system)
    who, net = f"the attack {context.card.name}", desk.net
    with untampered([system.net], who, lambda: answer(net, x[:1], context.rng[:1]), pictures=x, labels=said):
        maps = context.attack(desk.oracle(), x.clone(), said.clone(), rng=context.rng.fold("attack"))
    maps = checked(maps, x, context.card)
    masks = None if split.masks is None else split.masks(split.ids).to(system.device)
    ask = partial(_probability, system, said, context.rng.fold("judge"))
    columns = judged(ask, x, maps, masks, context.rng.fold("ties"), context.width)
    columns |= {"clean_ok": clean.ok.cpu(), "prediction": clean.prediction.cpu()}
    forwards, backwards = desk.counts.totals()
    if threat.diffroar is not None:
        columns |= _retrained(context, threat.diffroar)
    asked = 2 * len(x) * (x.shape[2] + 1)
    return Record(columns, [], forwards + asked, backwards)


def conclude(context: Context, record: Record) -> Record:
    """The record with what a reader should know: whose map it is, and where the system gave no answer on the way."""
    system, n = context.served(), len(record.columns["insertion"])
    lost = int((record.columns["insertion"] + record.columns["deletion"]).isnan().sum())
    said = ["explained through its surrogate"] if _explained(context, system) is not system.net else []
    said += [f"no answer on the way of {lost} of {n} pictures: what counts these is not measured"] if lost else []
    return record._replace(note="; ".join(said))


def judged(ask: Probability, x: Tensor, maps: Tensor, masks: Tensor | None, rng: Rng, width: int) -> dict[str, Tensor]:
    """What maps (N, H, W) of pictures x are worth, on the CPU; masks (N, H, W): the object, where it is known.

    Columns: insertion, deletion and what they are of the probability at the whole picture (insertion_share,
    deletion_share), confidence (that probability), flat (the map says nothing); with masks pointed, on_object (the
    share of the map there) and object_area.
    """
    places = ranks(maps, rng)
    given = curves(ask, x, blurred(x), places, width)
    taken = curves(ask, mean_colour(x), x, places, width)
    whole = given[:, -1]
    columns = {"insertion": area(given), "deletion": area(taken)}
    columns |= {f"{name}_share": value / whole for name, value in columns.items()}
    columns |= {"confidence": whole, "flat": maps.flatten(1).amax(1) <= maps.flatten(1).amin(1)}
    if masks is not None:
        columns |= {"pointed": pointed(places, masks), "on_object": inside(maps, masks),
                    "object_area": masks.mean((1, 2))}  # fmt: skip
    return {name: column.cpu() for name, column in columns.items()}


def checked(maps: Tensor, x: Tensor, card: AttackCard) -> Tensor:
    """The maps (N, H, W), detached; raises BadValue for what are none."""
    found, expected = maps.detach(), (len(x), *x.shape[-2:])
    if found.shape != expected or not bool(found.isfinite().all()):
        bad = int((~found.isfinite()).sum())
        raise BadValue(f"expected a map of finite numbers for each picture, {expected}, from {card.name}, got shape "
                       f"{tuple(found.shape)} with {bad} NaN or infinite; mend it")  # fmt: skip
    return found


def _desk(context: Context, system: System) -> Desk:
    """What the method may ask."""
    eot, threat = context.common.get("eot") or (system.eot if system.stochastic else 1), context.threat
    return Desk(
        _explained(context, system), threat.access, context.rng.fold("oracle"), width=context.width, eot=eot,
        queries=threat.queries, queries_total=threat.queries_total, threat=f"the threat {threat.name!r}",
    )  # fmt: skip


def _explained(context: Context, system: System) -> nn.Module:
    """The network that the method asks: the system's, or its surrogate where it hides what the method needs."""
    hidden = bool(system.hides & context.card.needs)
    return system.surrogate if hidden and system.surrogate is not None else system.net


def _probability(system: System, classes: Tensor, rng: Rng, rows: Tensor, x: Tensor) -> Tensor:
    """The probability (M,) that the system gives each row's class; NaN where it gives no answer."""
    with torch.no_grad():
        return own(answer(system.net, x, rng[rows]).softmax(1), classes[rows])


def _retrained(context: Context, share: float) -> dict[str, Tensor]:
    """DiffROAR's columns: right from the first and the last pixels, and the difference, whose mean it is."""
    system, card, device = context.served(), context.card, context.device

    def maps(x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        desk = replace(_desk(context, system), rng=rng.fold("oracle"), queries=None, queries_total=None)
        return checked(context.attack(desk.oracle(), x.clone(), y.clone(), rng=rng.fold("attack")), x, card)

    splits = (*context.learnt_from(), context.split)
    first, last = diffroar(maps, context.retrained, splits, share, context.seed, width=context.width, device=device)
    return {"first_ok": first, "last_ok": last, "diffroar": first.float() - last.float()}


def _asked(threat: Threat) -> ExplanationThreat:
    if not isinstance(threat, ExplanationThreat):
        raise ValueError(f"expected a threat of the scenario explanation, got {threat.name!r} of another")
    return threat


def decide(cell: Cell) -> Decision | None:
    """Why nothing can be trained anew here, where that is asked for."""
    model, data, threat = cell.lifecycle.model, cell.lifecycle.data, cell.threat
    if not isinstance(threat, ExplanationThreat) or threat.diffroar is None:
        return None
    if model.pretrained:
        return Decision("refused", "recipe", f"{model.name} comes trained; diffroar trains the same architecture "
                        f"anew, so name a model that brings a recipe")  # fmt: skip
    if missing := [name for name in ("train", "val") if name not in data.splits]:
        return Decision("refused", "split", f"{data.name} has no {missing[0]} split, which diffroar trains with")
    return None


def together(cell: Cell) -> int:
    """One by one; all where networks are trained for them."""
    trains = isinstance(cell.threat, ExplanationThreat) and cell.threat.diffroar is not None
    return len(cell.split) if trains else 1


def _share(name: str, better: str) -> Column:
    """An area, and what it is of the probability at the whole picture; both among pictures that are right."""
    return Column(name=name, dtype="float", unit="probability", better=better, scores=(  # type: ignore[arg-type]
        Scoring(name=name, kind="mean", where="clean_ok"),
    ))  # fmt: skip


scenario = Scenario(
    "explanation", "An attribution method says where a system looks; the system is asked whether it is so.", play,
    columns=(
        _share("insertion", "more"), _share("deletion", "less"), _share("insertion_share", "more"),
        _share("deletion_share", "less"),
        Column(name="pointed", better="more", scores=(Scoring(name="pointing_game", where="clean_ok"),)),
        Column(name="on_object", dtype="float", unit="share", better="more", scores=(
            Scoring(name="on_object", kind="mean", where="clean_ok"),
        )),
        Column(name="object_area", dtype="float", unit="share"),
        Column(name="diffroar", dtype="float", better="more", scores=(Scoring(name="diffroar", kind="mean"),)),
        Column(name="first_ok", scores=(Scoring(name="right_from_first"),)),
        Column(name="last_ok", scores=(Scoring(name="right_from_last"),)),
        Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy"),)),
        Column(name="flat", scores=(Scoring(name="flat_rate", sparse=True),)),
        Column(name="prediction", dtype="int", unit="class"),
        Column(name="confidence", dtype="float", unit="probability"),
    ),
    headline="insertion", paper="Petsiuk et al., 2018, arXiv:1806.07421; Nourelahi et al., 2022, arXiv:2205.13042",
    spec=ExplanationSpec, decide=decide, together=together, conclude=conclude,
    sections="robustsuite.reports.sections.explained:part",
)  # fmt: skip
