"""Evasion in short: a card for each model under each adversary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from robustsuite.records.schema import Budget

from ..measure.worst import by_rank, worst_case
from ..read.runs import Results
from ..render.adversary import knows, titled
from ..render.document import Answer, Entry, accuracy
from ..render.text import number, percent, plain, ranks
from ..sections.evasion.attacked import doubt, no_answer
from ..sections.generic import groups
from . import cards
from .cards import EVASION, FIRST, NONE_YET, THREAT, VERDICT, Row
from .facing import Facing, adversary, alike, facing, told

STAYS = "stays right"


def attacked(run: Results) -> Iterator[Answer]:
    """One answer a threat and model, over seeds where there are several."""
    found = [facing(run, key, part) for key, part in groups(worst_case(run), THREAT)]
    of: dict[tuple[Any, ...], list[Facing]] = {}
    met: dict[tuple[Any, ...], list[Facing]] = {}
    for here in found:
        of.setdefault((here.key["dataset"], here.key["model"]), []).append(here)
        met.setdefault(alike(here), []).append(here)
    strongest = {id(min(each, key=_place)) for each in of.values()} if len(of) > 1 else set()
    for here in found:
        rivals = [other for other in met[alike(here)] if other is not here]
        answer = _answer(run, here, of[here.key["dataset"], here.key["model"]], rivals)
        yield replace(answer, order=(FIRST, *_place(here))) if id(here) in strongest else answer
    known = {tuple(here.key.values()) for here in found}
    for key, part in cards.evasion(run).items():
        if key not in known:
            facts = dict(zip(THREAT, key, strict=True))
            record = part["record"].iloc[0]
            title = titled(adversary(run, facts, record), record.threat.budget if record.threat else Budget())
            where = cards.place((*key[3:], 0), _head(facts), str(key[2]))
            order = (EVASION, -knows(record), 0.0)
            yield cards.not_measured(title, where, title, part.to_dict("records"), order)


def _place(here: Facing) -> tuple[float, ...]:
    """Which of a model's adversaries is its strongest, and where that one stands among other models' strongest: who
    says something first, then who knows most, who has a verdict, who leaves least.
    """
    return (here.broken is None, -knows(here.record), here.lead is None, _left(here))


def _left(here: Facing) -> float:
    left = 1 - (here.lead or here.own or here.stands[0]).wrong
    return left if left == left else 1.0


def _answer(run: Results, here: Facing, all_of: Sequence[Facing], rivals: Sequence[Facing]) -> Answer:
    key, part = here.key, here.part
    where = [key["dataset"], key["model"], 0 if len(here.means) else part["seed"].iloc[0]]
    lead = here.lead
    order = (VERDICT if lead else NONE_YET, EVASION, -knows(here.record), _left(here))
    if len(here.means):
        robust = here.means[here.means["metric"] == "robust_accuracy"]
        robust = robust.sort_values("mean", ascending=False, kind="stable")
        faced = max(part["attacks"].str.count(";")) + 1
        worst = (f"Worst of {faced} attack{'s' if faced > 1 else ''} per image, {number(part['n'].min())} images.",)
        numbers, bars, sentences = cards.over_seeds(run, STAYS, robust, worst)
    else:
        ranked = part[part["rank_first"] == 1].sort_values("robust_accuracy", ascending=False, kind="stable")
        rows = {row["defense"]: row for row in part.to_dict("records")}
        own, best = ((rows[s.defense] if s and s.sound else None) for s in (here.own, here.best))
        numbers = cards.numbers(run, STAYS, own, best, "robust_accuracy")
        if len(rows) == 1 and numbers:
            numbers += ((f"{STAYS}, no attack", percent(part["clean_accuracy"].iloc[0]), "", ""),)
        bars = tuple(_bar(run, row, len(part)) for row in by_rank(part).to_dict("records"))
        sentences = tuple(_sentences(run, part, ranked))
    numbers = numbers if lead else cards.NONE
    title = titled(adversary(run, key, here.record), here.budget)
    head = cards.place(where, _head(key), str(key["goal"]))
    bars += tuple(_unmet(run, here))
    said = told(run, here, all_of, rivals)
    sentences = (*said[:0 if lead else 1], *sentences)
    return Answer(title, head, numbers, bars, sentences, int(part["n"].min()), said, order)


def _head(key: Row) -> str:
    return f"{key['threat']}: {key['budget']}" if key["budget"] else str(key["threat"])


def _bar(run: Results, row: Row, rivals: int) -> tuple[str, str, Entry]:
    """A row's bar, of one system alone without a rank; what is no verdict has a number and no bar."""
    entry = accuracy(row["robust_accuracy"], row["lo"], row["hi"], note=row["flags"], struck=row["struck"])
    if row["unranked"] and not row["struck"]:
        entry = Entry(f"≤ {entry.text}", entry.key, doubt(row, rivals))
    elif row["struck"]:
        entry = Entry(entry.text, entry.key, entry.note, struck=True)
    rank = (ranks(row["rank_first"], row["rank_last"]) or "–") if rivals > 1 else ""
    return rank, cards.called(run, row["defense"], STAYS), entry


def _unmet(run: Results, here: Facing) -> Iterator[tuple[str, str, Entry]]:
    """A bar that says so for each system that no attack of the threat has measured."""
    known, cells = set(here.part["defense"]), cards.evasion(run)[tuple(here.key.values())]
    for defense, part in groups(cells[~cells["defense"].isin(known)], ("defense",)):
        first = part.iloc[0].to_dict()
        yield "–", cards.called(run, str(defense[0]), STAYS), Entry(f"not measured: {first['status']}", -1.0,
                                                                    str(first["sentence"] or ""))  # fmt: skip


def _sentences(run: Results, part: pd.DataFrame, ranked: pd.DataFrame) -> Iterator[str]:
    rows = ranked.to_dict("records")
    if rows:
        first = rows[0]
        tied = [plain(row["defense"]) for row in rows[1:]]
        if tied:
            mine = plain(first["defense"])
            yield (f"A paired test does not tell {cards.listed([mine, *tied])} apart; {first['strongest']} hurts "
                   f"{mine} most.")  # fmt: skip
        else:
            leads = f"{plain(first['defense'])} leads; " if len(part) > 1 else ""
            yield f"{leads}{first['strongest']} hurts it most."
    faced = part["attacks"].str.split(";").map(len)
    span = str(faced.max()) if faced.min() == faced.max() else f"{faced.min()} to {faced.max()}"
    yield f"Worst of {span} attack{'s' if faced.max() > 1 else ''} per image, {number(int(part['n'].min()))} images."
    for row in part.to_dict("records"):
        if said := no_answer(row):
            yield f"{plain(row['defense'])}: {said}." if run.defended else f"{said}."
    left = part[part["unranked"] != ""].to_dict("records")
    if left and len(part) > 1:
        yield f"Not ranked: {cards.listed([plain(row['defense']) for row in left])}; see the notes."
    elif left:
        yield doubt(left[0], 1).capitalize() + "."


