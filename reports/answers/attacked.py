"""Evasion in short: how each model stands against each adversary, by itself, defended and proven.

A verdict is a number whose grade lets it stand. What is no verdict (too few steps or questions, one kind of attack, a
failed check) is said to be none, with what is missing, and is told by what it broke, never by what it left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from robustsuite.integrity.strength import shortfalls
from robustsuite.records.schema import Budget, CellRecord

from ..measure.grades import DOUBTED
from ..measure.seeds import TOGETHER, over_seeds
from ..measure.worst import GROUP, by_rank, paired, worst_case
from ..read.runs import Results
from ..render.document import Answer, Entry, accuracy
from ..render.text import number, percent, plain, ranks
from ..sections.attacked import doubt, no_answer
from ..sections.generic import groups
from . import cards
from .adversary import begun, knows, reach, share, who
from .cards import EVASION, NONE_YET, VERDICT, Row
from .proven import beyond

THREAT = GROUP[:-1]
STAYS = "stays right"


@dataclass(frozen=True)
class Stand:
    """How one system stands under a threat: shares of images that are wrong, attacked and not.

    sound: whether that is a verdict. ranked: whether it met what its rivals met. struck: whether a check failed.
    """

    defense: str
    wrong: float
    clean: float
    n: int
    sound: bool
    ranked: bool
    struck: bool


@dataclass(frozen=True)
class Facing:
    """One model under one threat, before anything is said of it: a row a system, of one seed or means over several."""

    key: dict[str, Any]
    record: CellRecord
    part: pd.DataFrame
    means: pd.DataFrame
    stands: tuple[Stand, ...]

    @property
    def own(self) -> Stand | None:
        """The model by itself."""
        return next((stand for stand in self.stands if stand.defense == "none"), None)

    @property
    def best(self) -> Stand | None:
        """The defense that leaves least wrong, of those with a verdict and every attack that a rival met."""
        known = [s for s in self.stands if s.defense != "none" and s.sound and s.ranked]
        return min(known, key=lambda stand: stand.wrong, default=None)

    @property
    def lead(self) -> Stand | None:
        """Whose number the answer begins with: the model's own where it has a verdict, else the best defense's."""
        own = self.own
        return own if own is not None and own.sound else self.best

    @property
    def broken(self) -> Stand | None:
        """Whose images are wrong beyond doubt, be the number a verdict or no more than an upper bound of what is right."""
        told = self.lead or self.own or self.stands[0]
        return None if told.struck else told

    @property
    def budget(self) -> Budget:
        """What the adversary may change and ask."""
        return self.record.threat.budget if self.record.threat else Budget()


def attacked(run: Results, table: pd.DataFrame) -> Iterator[Answer]:
    """One answer a threat and model, over seeds where there are several; `table` is what `scores(run)` returned."""
    found = [_facing(run, key, part) for key, part in groups(worst_case(run), THREAT)]
    for facing in found:
        yield _answer(run, table, facing, found)
    met = {tuple(facing.key.values()) for facing in found}
    asked = run.cells[run.cells["scenario"] == "evasion"]
    for key, part in groups(asked, THREAT):
        if key not in met:
            facts = dict(zip(THREAT, key, strict=True))
            record = cards.record_of(run, facts)
            title = ", ".join(filter(None, (_adversary(run, facts, record), reach(_budget(record)))))
            where = cards.place((*key[3:], 0), _head(facts), str(key[2]))
            order = (EVASION, -knows(record), 0.0)
            yield cards.not_measured(begun(title), where, title, part.to_dict("records"), order)


def _facing(run: Results, key: Sequence[Any], part: pd.DataFrame) -> Facing:
    facts = dict(zip(THREAT, key, strict=True))
    means = cards.of(over_seeds(run), facts)
    means = means[means["attack"] == TOGETHER] if len(means) else means
    if len(means):
        stands = tuple(_over_seeds(means))
    else:
        stands = tuple(
            Stand(row["defense"], 1 - row["robust_accuracy"], 1 - row["clean_accuracy"], int(row["n"]),
                  row["grade"] not in DOUBTED, not row["unranked"], bool(row["struck"]))
            for row in part.to_dict("records")
        )  # fmt: skip
    return Facing(facts, cards.record_of(run, {"scenario": "evasion", **facts}), part, means, stands)


def _over_seeds(means: pd.DataFrame) -> Iterator[Stand]:
    for defense, rows in means.groupby("defense", sort=False):
        value = rows.set_index("metric")
        robust, clean = value.loc["robust_accuracy"], value.loc["clean_accuracy"]
        sound = bool(robust["sound"]) and not robust["bound"]
        yield Stand(str(defense), 1 - robust["mean"], 1 - clean["mean"], int(robust["n"]), sound, sound, not robust["sound"])


def _answer(run: Results, table: pd.DataFrame, facing: Facing, all_of: Sequence[Facing]) -> Answer:
    key, part = facing.key, facing.part
    adversary, far = _adversary(run, key, facing.record), reach(facing.budget)
    where = [key["dataset"], key["model"], 0 if len(facing.means) else part["seed"].iloc[0]]
    told = _verdict(run, table, facing, all_of) if facing.lead else _none_yet(run, facing, all_of)
    lead = facing.lead
    left = 1 - (lead or facing.own or facing.stands[0]).wrong
    order = (VERDICT if lead else NONE_YET, EVASION, -knows(facing.record), left if left == left else 1.0)
    if len(facing.means):
        robust = facing.means[facing.means["metric"] == "robust_accuracy"]
        robust = robust.sort_values("mean", ascending=False, kind="stable")
        faced = max(part["attacks"].str.count(";")) + 1
        said = (f"Worst of {faced} attack{'s' if faced > 1 else ''} per image, {number(part['n'].min())} images.",)
        numbers, bars, sentences = cards.over_seeds(run, STAYS, robust, said)
    else:
        ranked = part[part["rank_first"] == 1].sort_values("robust_accuracy", ascending=False, kind="stable")
        rows = {row["defense"]: row for row in part.to_dict("records")}
        own, best = ((rows[s.defense] if s and s.sound else None) for s in (facing.own, facing.best))
        numbers = cards.numbers(run, STAYS, own, best, "robust_accuracy")
        if len(rows) == 1 and numbers:
            numbers += ((f"{STAYS}, no attack", percent(part["clean_accuracy"].iloc[0]), "", ""),)
        bars = tuple(_bar(run, row, len(part)) for row in by_rank(part).to_dict("records"))
        sentences = tuple(_sentences(run, part, ranked))
    numbers = numbers if lead else cards.NONE
    title = begun(", ".join(filter(None, (adversary, far))))
    return Answer(title, cards.place(where, _head(key), str(key["goal"])), numbers,
                  (*bars, *_unmet(run, facing)), sentences, int(part["n"].min()), told, order)  # fmt: skip


def _head(key: Row) -> str:
    return f"{key['threat']}: {key['budget']}" if key["budget"] else str(key["threat"])


def _budget(record: CellRecord) -> Budget:
    return record.threat.budget if record.threat else Budget()


def _adversary(run: Results, key: Row, record: CellRecord) -> str:
    return who(record).replace("the model", cards.subject(run, key))


def _verdict(run: Results, table: pd.DataFrame, facing: Facing, all_of: Sequence[Facing]) -> tuple[str, ...]:
    """What the adversary makes wrong of the model, of its best defense, what is proven, who needs less."""
    lead, own, best = facing.lead, facing.own, facing.best
    assert lead is not None
    goal = "" if facing.key["goal"] == "untargeted" else f", or has it answer as chosen ({facing.key['goal']}),"
    mean = f" (mean of {facing.means['seeds'].max()} seeds)" if len(facing.means) else ""
    by = "" if lead is own or lead.defense == "none" else f" even with its best defense, {plain(lead.defense)},"
    least = "" if lead.ranked or lead is not own else "at least "
    said = (
        f"{_adversary(run, facing.key, facing.record)} makes it wrong{goal}{by} on {least}{share(lead.wrong)} of "
        f"{number(lead.n)} images{mean} {reach(facing.budget)}".rstrip() + f"; without an attack it is wrong on {share(lead.clean)}"
    )
    sentences = [begun(said)]
    if lead is own and any(stand.defense != "none" for stand in facing.stands):
        sentences.append(_defended(run, facing, lead, best))
    elif own is not None and not own.sound:
        sentences.append(f"The undefended model has no verdict: {_why(run, facing, 'none')}")
    sentences += [text for text in (beyond(run, table, facing.key, facing.budget), _needs_less(run, facing, all_of)) if text]
    return tuple(f"{sentence}." for sentence in sentences)


def _defended(run: Results, facing: Facing, own: Stand, best: Stand | None) -> str:
    if best is None:
        other = next(stand.defense for stand in facing.stands if stand.defense != "none")
        return f"No defense has a verdict: of {plain(other)} {_why(run, facing, other)}"
    stands = f"{share(best.wrong)} ({share(best.clean)} without an attack)"
    if best.wrong >= own.wrong:
        return f"No defense does better: the best, {plain(best.defense)}, stands at {stands}"
    if not len(facing.means) and not _differs(run, facing.key, best.defense):
        return f"The best defense, {plain(best.defense)}, stands at {stands}: too few images to tell that from no defense"
    return f"The best defense, {plain(best.defense)}, brings that down to {stands}"


def _differs(run: Results, key: Row, defense: str) -> bool:
    """Whether a paired test on the same images tells the defense from none."""
    pairs = cards.of(paired(run), key)
    pairs = pairs[pairs["different"] & (pairs["a"].eq(defense) | pairs["b"].eq(defense))] if len(pairs) else pairs
    return bool(len(pairs) and (pairs["a"].eq("none") | pairs["b"].eq("none")).any())


def _needs_less(run: Results, facing: Facing, all_of: Sequence[Facing]) -> str:
    """Of a weak adversary: what one who has more makes wrong, where that is more."""
    mine = facing.broken.wrong if facing.broken else -1.0
    stronger = [
        (knows(other.record), told.wrong, other) for other in all_of
        if (told := other.broken) and all(other.key[name] == facing.key[name] for name in ("dataset", "model"))
        and knows(other.record) > knows(facing.record) and told.wrong > mine
    ]  # fmt: skip
    if not stronger:
        return ""
    _, wrong, most = max(stronger, key=lambda each: each[:2])
    budget, least = most.budget, "" if most.lead else "at least "
    far = f", {reach(budget)}" if (budget.norm, budget.eps) != (facing.budget.norm, facing.budget.eps) else ""
    return begun(f"{_adversary(run, most.key, most.record)} makes it wrong on {least}{share(wrong)}{far}")


def _none_yet(run: Results, facing: Facing, all_of: Sequence[Facing]) -> tuple[str, ...]:
    """That there is no verdict, what is missing for one, and what is broken already."""
    told = facing.own or facing.stands[0]
    of = f"{_adversary(run, facing.key, facing.record)}, {reach(facing.budget)}".rstrip(", ")
    said = [f"No verdict yet on {of}: {_why(run, facing, told.defense)}"]
    if told.wrong > told.clean and not told.struck:
        by = "" if told.defense == "none" else f" with {plain(told.defense)}"
        said.append(f"What was tried makes it{by} wrong on {share(told.wrong)} of {number(told.n)} images already")
    return tuple(f"{sentence}." for sentence in (*said, _needs_less(run, facing, all_of)) if sentence)


def _why(run: Results, facing: Facing, defense: str) -> str:
    """What keeps the number of a system from being a verdict."""
    cells = cards.of(run.cells, {**facing.key, "defense": defense, "scenario": "evasion"}).to_dict("records")
    flags = [flag for cell in cells for flag in cell["flags"]]
    failed = list(dict.fromkeys(str(flag["name"]) for flag in flags if flag.get("level") == "fail"))
    if failed and all(cell["grade"] == "INVALID" for cell in cells if cell["status"] == "done"):
        return f"the numbers failed a check ({', '.join(failed)})"
    done = [cell for cell in cells if cell["status"] in ("done", "inert")]
    short = [f"{cell['attack']} had only {_of(words)}" for cell in done for words in shortfalls(cell["record"])]
    if short:
        return f"{cards.listed(list(dict.fromkeys(short))[:3])} that a verdict needs"
    names = {str(flag["name"]) for flag in flags}
    attacks = cards.listed(list(dict.fromkeys(str(cell["attack"]) for cell in done))[:3]) if done else "what was played"
    if "weak_alone" in names:
        return f"{attacks} alone is no test of it"
    if "one_family" in names:
        return f"all that was tried searches alike ({attacks})"
    return f"the numbers raised a warning ({', '.join(sorted(names)) or 'see the notes'})"


def _of(words: str) -> str:
    """'steps 60 of 4999' as '60 of the 4999 steps'."""
    name, had, _, least = words.split()
    return f"{had} of the {least} {name}"


def _bar(run: Results, row: Row, rivals: int) -> tuple[str, str, Entry]:
    """A row's bar, of one system alone without a rank; what is no verdict has a number and no bar."""
    entry = accuracy(row["robust_accuracy"], row["lo"], row["hi"], note=row["flags"], struck=row["struck"])
    if row["unranked"] and not row["struck"]:
        entry = Entry(f"≤ {entry.text}", entry.key, doubt(row, rivals))
    elif row["struck"]:
        entry = Entry(entry.text, entry.key, entry.note, struck=True)
    rank = (ranks(row["rank_first"], row["rank_last"]) or "–") if rivals > 1 else ""
    return rank, cards.called(run, row["defense"], STAYS), entry


def _unmet(run: Results, facing: Facing) -> Iterator[tuple[str, str, Entry]]:
    """A bar that says so for each system that no attack of the threat has measured."""
    known = {stand.defense for stand in facing.stands}
    cells = cards.of(run.cells, {**facing.key, "scenario": "evasion"})
    for defense, part in groups(cells[~cells["defense"].isin(known)], ("defense",)):
        first = part.iloc[0].to_dict()
        yield "–", cards.called(run, str(defense[0]), STAYS), Entry(f"not measured: {first['status']}", -1.0,
                                                                    str(first["sentence"] or ""))  # fmt: skip


def _sentences(run: Results, part: pd.DataFrame, ranked: pd.DataFrame) -> Iterator[str]:
    rows = ranked.to_dict("records")
    if rows:
        first = rows[0]
        tied = [plain(row["defense"]) for row in rows[1:]]
        tie = f", statistically tied with {cards.listed(tied)}" if tied else ""
        yield (
            f"{plain(first['defense'])} leads{tie}; {first['strongest']} hurts it most."
            if len(part) > 1
            else (f"{first['strongest']} hurts it most.")
        )
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


