"""What is said of one model under one adversary: how it stands by itself, defended and proven, and who needs less.

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
from ..measure.worst import LEVEL, paired, survivals, tested
from ..read.runs import Results, once
from ..render.adversary import begun, knows, reach, share, who
from ..render.text import number, plain
from . import cards
from .cards import THREAT, Row
from .proven import beyond


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
        """Whose images are wrong beyond doubt: a verdict's, or those of an upper bound of what is right."""
        told = self.lead or self.own or self.stands[0]
        return None if told.struck else told

    @property
    def budget(self) -> Budget:
        """What the adversary may change and ask."""
        return self.record.threat.budget if self.record.threat else Budget()


def facing(run: Results, key: Sequence[Any], part: pd.DataFrame) -> Facing:
    """One model under one threat; `part` are its rows of the worst-case table, `key` the values of THREAT."""
    facts = dict(zip(THREAT, key, strict=True))
    means = cards.of(over_seeds(run), facts)  # empty where no threat has several seeds
    means = means[means["attack"] == TOGETHER] if len(means) else means
    if len(means):
        stands = tuple(_over_seeds(means))
    else:
        rows = part.to_dict("records")
        stands = tuple(
            Stand(row["defense"], 1 - row["robust_accuracy"], 1 - row["clean_accuracy"], int(row["n"]),
                  row["grade"] not in DOUBTED, not row["unranked"], bool(row["struck"]))
            for row in [row for row in rows if not row["inert"]] or rows  # what is inert is no defense here
        )  # fmt: skip
    record = cards.evasion(run)[tuple(key)]["record"].iloc[0]
    return Facing(facts, record, part, means, stands)


def _over_seeds(means: pd.DataFrame) -> Iterator[Stand]:
    for defense, rows in means.groupby("defense", sort=False):
        of = {str(row["metric"]): row for row in rows.to_dict("records")}
        robust, clean = of["robust_accuracy"], of["clean_accuracy"]
        sound = bool(robust["sound"]) and not robust["bound"]
        yield Stand(str(defense), 1 - robust["mean"], 1 - clean["mean"], int(robust["n"]), sound, sound,
                    not robust["sound"])  # fmt: skip


def adversary(run: Results, key: Row, record: CellRecord) -> str:
    """Who attacks, with the model by its name where there are several."""
    return who(record).replace("the model", cards.subject(run, key))


def alike(here: Facing) -> tuple[Any, ...]:
    """What models share that meet the same adversary on the same data."""
    return tuple(value for name, value in here.key.items() if name != "model")


def told(run: Results, here: Facing, all_of: Sequence[Facing], rivals: Sequence[Facing] = ()) -> tuple[str, ...]:
    """What a report opens with: the verdict, or that there is none yet. `all_of` are all of that model, `rivals` the
    other models under the same adversary.
    """
    return _verdict(run, here, all_of, rivals) if here.lead else _none_yet(run, here, all_of)


def _verdict(run: Results, here: Facing, all_of: Sequence[Facing], rivals: Sequence[Facing]) -> tuple[str, ...]:
    """What the adversary makes wrong of the model, of its best defense, what is proven, who needs less."""
    lead, own, best = here.lead, here.own, here.best
    assert lead is not None
    goal = "" if here.key["goal"] == "untargeted" else f", or has it answer as chosen ({here.key['goal']}),"
    mean = f" (mean of {here.means['seeds'].max()} seeds)" if len(here.means) else ""
    by = "" if lead is own or lead.defense == "none" else f" even with its best defense, {plain(lead.defense)},"
    least = "" if lead.ranked or lead is not own else "at least "
    said = (
        f"{adversary(run, here.key, here.record)} makes it wrong{goal}{by} on {least}{share(lead.wrong)} of "
        f"{number(lead.n)} images{mean} {reach(here.budget)}".rstrip()
    )
    said += f"; without an attack it is wrong on {share(lead.clean)}"
    sentences = [begun(said)]
    if lead is own and any(stand.defense != "none" for stand in here.stands):
        sentences.append(_defended(run, here, lead, best))
    elif own is not None and not own.sound:
        sentences.append(f"The undefended model has no verdict: {_why(run, here, 'none')}")
    sentences += [_other_model(run, here, rivals), beyond(run, here.key, here.budget), _needs_less(run, here, all_of)]
    return tuple(f"{sentence}." for sentence in sentences if sentence)


def _defended(run: Results, here: Facing, own: Stand, best: Stand | None) -> str:
    if best is None:
        other = next(stand.defense for stand in here.stands if stand.defense != "none")
        return f"No defense has a verdict: of {plain(other)} {_why(run, here, other)}"
    attacked, clean = share(best.wrong), f"{share(best.clean)} without an attack"
    if best.wrong >= own.wrong:
        return cards.no_help(best.defense, f"wrong on {attacked}, {clean}")
    if len(here.means):
        if not _apart(here, best.defense):
            said = f"The best defense, {plain(best.defense)}, is wrong on {attacked} ({clean})"
            return f"{said}: its seeds and those of no defense overlap"
    elif min(own.n, best.n) < cards.FEW or not _differs(run, here.key, best.defense):
        return cards.untold(best.defense, f"is wrong on {attacked} ({clean})")
    return f"The best defense, {plain(best.defense)}, brings that down to {attacked} ({clean})"


def _apart(here: Facing, defense: str) -> bool:
    """Whether every seed of a defense leaves more right than every seed of none."""
    rows = here.means[here.means["metric"] == "robust_accuracy"].to_dict("records")
    spread = {str(row["defense"]): (float(row["smallest"]), float(row["largest"])) for row in rows}
    return spread[defense][0] > spread["none"][1]


def _differs(run: Results, key: Row, defense: str) -> bool:
    """Whether a paired test on the same images tells the defense from none."""
    return (*(key[name] for name in THREAT), defense) in _told_from_none(run)


@once
def _told_from_none(run: Results) -> set[tuple[Any, ...]]:
    """Each threat, model and defense that a paired test on the same images tells from no defense."""
    rows = [row for row in paired(run).to_dict("records") if row["different"] and "none" in (row["a"], row["b"])]
    return {(*(row[name] for name in THREAT), row["b"] if row["a"] == "none" else row["a"]) for row in rows}


def _other_model(run: Results, here: Facing, rivals: Sequence[Facing]) -> str:
    """Of the model that the adversary makes wrong most: which other one stands better, as far as that is known."""
    mine, verdicts = here.lead, [other for other in rivals if other.lead]
    assert mine is not None
    if any(other.lead.wrong > mine.wrong for other in verdicts if other.lead):
        return ""
    known = [(stand.wrong, i, other) for i, other in enumerate(rivals)
             if (stand := other.broken) and stand.wrong < mine.wrong]  # fmt: skip
    if not known:
        return ""
    sound = [each for each in known if each[2].lead]
    wrong, _, other = min(sound or known)
    name, told = cards.subject(run, other.key), other.broken
    clean = f" ({share(told.clean)} without an attack)" if told else ""
    if not sound:
        return f"{name} may do better: wrong on at least {share(wrong)}{clean}, and no verdict yet"
    if min(mine.n, other.part["n"].min()) < cards.FEW or (not len(here.means) and not _models_differ(run, here, other)):
        return f"{name} is wrong on {share(wrong)}{clean}: too few images to tell the two apart"
    return f"{name} does better: wrong on {share(wrong)}{clean}"


def _models_differ(run: Results, here: Facing, other: Facing) -> bool:
    """Whether a paired test on the images that both met tells two models apart, by the systems that lead."""
    leads = {tuple(each.key.values()): each.lead.defense for each in (here, other) if each.lead}
    met = [each for each in survivals(run) if leads.get(each.group[:-1]) == each.defense]
    return any(p < LEVEL for *_, p in tested(met))


def _needs_less(run: Results, here: Facing, all_of: Sequence[Facing]) -> str:
    """Of a weak adversary: what one who has more makes wrong, where that is more."""
    mine = here.broken.wrong if here.broken else -1.0
    size = (here.budget.norm, here.budget.eps)
    stronger = [
        ((other.budget.norm, other.budget.eps) == size, knows(other.record), told.wrong, other) for other in all_of
        if (told := other.broken) and knows(other.record) > knows(here.record) and told.wrong > mine
    ]  # fmt: skip
    if not stronger:
        return ""
    same, _, wrong, most = max(stronger, key=lambda each: each[:3])
    least, far = "" if most.lead else "at least ", "" if same else f", {reach(most.budget)}"
    return begun(f"{adversary(run, most.key, most.record)} makes it wrong on {least}{share(wrong)}{far}")


def _none_yet(run: Results, here: Facing, all_of: Sequence[Facing]) -> tuple[str, ...]:
    """That there is no verdict, what is missing for one, and what is broken already."""
    told = here.own or here.stands[0]
    of = f"{adversary(run, here.key, here.record)}, {reach(here.budget)}".rstrip(", ")
    said = [f"No verdict yet on {of}: {_why(run, here, told.defense)}"]
    if told.wrong > told.clean and not told.struck:
        by = "" if told.defense == "none" else f" with {plain(told.defense)}"
        said.append(f"What was tried makes it{by} wrong on {share(told.wrong)} of {number(told.n)} images already")
    return tuple(f"{sentence}." for sentence in (*said, _needs_less(run, here, all_of)) if sentence)


def _why(run: Results, here: Facing, defense: str) -> str:
    """What keeps the number of a system from being a verdict."""
    cells = cards.of(cards.evasion(run)[tuple(here.key.values())], {"defense": defense}).to_dict("records")
    flags = [flag for cell in cells for flag in cell["flags"]]
    failed = list(dict.fromkeys(str(flag["name"]) for flag in flags if flag.get("level") == "fail"))
    if failed and any(stand.struck for stand in here.stands if stand.defense == defense):
        return f"the numbers failed a check ({', '.join(failed)})"
    done = [cell for cell in cells if cell["status"] in ("done", "inert")]
    short = [f"{cell['attack']} had {_of(words)}" for cell in done for words in shortfalls(cell["record"])]
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
    """'steps 60 of 4999' as 'only 60 of the 4999 steps'."""
    name, had, _, least = words.split()
    return f"{'' if had == 'none' else 'only '}{had} of the {least} {name}"
