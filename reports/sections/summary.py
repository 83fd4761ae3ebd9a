"""The short answers at the top of a report, and what to know before trusting them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.integrity.checks import PUBLISHED, level_of

from ..measure.mce import ALEXNET_EXTRA
from ..measure.seeds import TOGETHER, over_seeds
from ..measure.tables import corruption_errors
from ..measure.worst import GROUP, by_rank, worst_case
from ..read.runs import Results
from ..render.document import Answer, Entry, accuracy, error
from ..render.text import interval, number, percent, plain, ranks
from .generic import groups, mean_entry, one_severity, titled

WHERE = ("dataset", "model", "seed")
NAMED = 5
"""Of cells that are not there so many are named."""



def verdict(worst: pd.DataFrame) -> str:
    """How the one system of a run stands, in a line; '' where there are several, or no number that passed its checks.

    `worst` is what `rankings` returned.
    """
    rows = worst[worst["robust_accuracy"].notna()] if len(worst) else worst
    if not len(rows) or len(worst[["dataset", "model", "defense", "seed"]].drop_duplicates()) != 1:
        return ""
    sound = rows[rows["grade"] != "INVALID"].sort_values("robust_accuracy", kind="stable").to_dict("records")
    if not sound:
        return "Every number under attack failed a check: nothing can be said of how this system stands."
    low = sound[0]
    threat = low["budget"] or low["threat"]
    of = f", the worst of {len(sound)} threats" if len(sound) > 1 else ""
    return (
        f"{percent(low['clean_accuracy'])} of {number(low['n'])} images are right unattacked; at most "
        f"{percent(low['robust_accuracy'])} ({interval(low['lo'], low['hi'])}) stay right under {threat}{of}."
    )


def attacked(run: Results, worst: pd.DataFrame) -> Iterator[Answer]:
    """One short answer a threat, for each dataset and model, over seeds where there are several; `worst` is what
    `rankings` returned.
    """
    means = over_seeds(run)
    means = means[(means["attack"] == TOGETHER) & (means["metric"] == "robust_accuracy")]
    parts = list(groups(worst, GROUP[:-1]))
    alone = bool(verdict(worst))
    if alone:  # of one system the threat that it stands worst under comes first
        parts.sort(key=lambda part: part[1]["robust_accuracy"].fillna(np.inf).min())
    titles = titled([key for key, _ in parts], GROUP[:-1])
    for ((threat, budget, goal, *where), part), title in zip(parts, titles, strict=True):
        mine = _of(means, dict(zip(GROUP, (threat, budget, goal, *where), strict=False)))
        if len(mine):
            faced = max(part["attacks"].str.count(";")) + 1
            said = (f"Worst of {faced} attack{'s' if faced > 1 else ''} per image, {number(part['n'].min())} images.",)
            yield _over_seeds(run, title, _where([*where, 0], str(goal)), mine, "robust accuracy", said)
            continue
        ranked = part[part["rank_first"] == 1].sort_values("robust_accuracy", ascending=False, kind="stable")
        rows = part.to_dict("records")
        numbers = list(_numbers(ranked.to_dict("records"), rows, "robust_accuracy", "robust accuracy"))
        if alone:
            numbers.append(("no attack", percent(part["clean_accuracy"].iloc[0]), "", ""))
        yield Answer(
            title, _where([*where, part["seed"].iloc[0]], str(goal)), tuple(numbers),
            tuple(_bar(run, row, len(part)) for row in by_rank(part).to_dict("records")),
            tuple(_sentences(run, part, ranked)), int(part["n"].min()),
        )  # fmt: skip


def _of(frame: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that have these values."""
    hit = np.logical_and.reduce([frame[name] == value for name, value in facts.items()])
    return frame[hit] if len(frame) else frame


def _over_seeds(
    run: Results, title: str, where: str, means: pd.DataFrame, what: str, said: Sequence[str]
) -> Answer:  # fmt: skip
    """The short answer over several seeds: means with their deviation, no ranks."""
    lower = what == "error"
    rows = means.sort_values("mean", ascending=lower, kind="stable").to_dict("records")
    sound = [row for row in rows if row["sound"] and not row["bound"]]
    bare = next((row for row in rows if row["defense"] == "none"), None)
    numbers, defended = [], any(row["defense"] != "none" for row in rows)
    if sound and defended:
        best = sound[0]
        label = f"best {what}" + (": undefended" if best["defense"] == "none" else "")
        numbers.append((label, mean_entry(best).text, _counted(best), "good"))
    if bare is not None and not (sound and defended and sound[0] is bare):
        numbers.append(("undefended" if defended else what, mean_entry(bare).text, _counted(bare), "bad"))
    named = [(_called(run, r["defense"], what) + (f", {r['attack']}" if r["attack"] not in ("", TOGETHER) else ""), r)
             for r in rows]  # fmt: skip
    left = [f"{name}: {row['left_out']}" for name, row in named if row["left_out"]]
    spread = (f"Not in a mean: {'. '.join(left)}.",) if left else ()
    return Answer(title, where, tuple(numbers),
                  tuple(("", name, mean_entry(row)) for name, row in named),
                  ("Mean ± sample standard deviation; thin lines span the seeds.", *said, *spread),
                  int(means["n"].min()))  # fmt: skip


def _called(run: Results, defense: str, what: str) -> str:
    """What a bar is called: by its defense, or, where no system of the run has one, by what it measures."""
    return plain(defense) if run.defended else what


def _counted(row: Mapping[Any, Any]) -> str:
    return f"{row['seeds']} seeds" if row["sound"] == row["seeds"] else f"{row['sound']} of {row['seeds']} seeds"


def proven(run: Results, scores: pd.DataFrame) -> Iterator[Answer]:
    """One short answer a certificate's threat, over seeds where there are several."""
    rows = scores[scores["scenario"] == "certification"]
    means = over_seeds(run)
    means = means[(means["scenario"] == "certification") & (means["metric"] != "clean_accuracy")]
    parts = list(groups(rows, ("threat", "budget", *WHERE[:-1])))
    said = [(f"{key[0]}: proven within {key[1]}", *key[1:]) for key, _ in parts]
    titles = titled(said, ("title", "", *WHERE[:-1]))
    for ((threat, budget, *where), several), title in zip(parts, titles, strict=True):
        mine = _of(means, dict(zip(("threat", "budget", *WHERE), (threat, budget, *where), strict=False)))
        if len(mine):
            covers = f"A proof covers every perturbation in the budget; {number(mine['n'].min())} images."
            yield _over_seeds(run, title, _where([*where, 0]), mine, "certified accuracy", (covers,))
            continue
        yield from _proven(run, several, title, [*where, several["seed"].iloc[0]])


def _proven(run: Results, whole: pd.DataFrame, title: str, where: Sequence[Any]) -> Iterator[Answer]:
    radius = f"certified_accuracy@{run.budgets[str(whole['budget'].iloc[0])][0] or 0.0:.6g}"
    part = whole[whole["metric"] == radius].sort_values("value", ascending=False, kind="stable")
    records = part.to_dict("records")
    if records:
        bars = tuple(("", f"{_called(run, r['defense'], 'certified accuracy')}, {r['attack']}",
                      accuracy(r["value"], r["lo"], r["hi"], note=r["flags"], struck=r["grade"] == "INVALID"))
                     for r in records)  # fmt: skip
        sound = [r for r in records if r["grade"] not in ("INVALID", "PROVISIONAL")]
        yield Answer(title, _where(where), tuple(_numbers(sound[:1], records, "value", "certified accuracy")), bars,
                     tuple(_proof_sentences(run, part, whole[whole["n"] == 0])), int(part["n"].min()))  # fmt: skip


def _proof_sentences(run: Results, part: pd.DataFrame, missing: pd.DataFrame) -> Iterator[str]:
    yield f"A proof covers every perturbation in the budget; {number(part['n'].min())} images."
    if len(missing):
        cells = [f"{_called(run, row['defense'], row['attack'])} ({row['status']})"
                 for row in missing.to_dict("records")]  # fmt: skip
        yield f"No verdict: {_listed(cells)}."


def corrupted(run: Results) -> Iterator[Answer]:
    """One short answer a corruption set, over seeds where there are several."""
    errors, means_over = corruption_errors(run), over_seeds(run)
    means_over = means_over[means_over["metric"] == "mean_error"]
    parts = list(groups(errors, ("shift", *WHERE[:-1])))
    titles = titled([(f"{key[0]}: mean error", *key[1:]) for key, _ in parts], ("shift", *WHERE[:-1]))
    for ((shift, *where), part), title in zip(parts, titles, strict=True):
        means = part[part["corruption"] == "mean"].sort_values("error", kind="stable")
        records = means.to_dict("records")
        named = part[part["corruption"] != "mean"]
        inside = ~named["corruption"].isin(ALEXNET_EXTRA)
        named = named[inside] if inside.any() else named
        worst = named.groupby("corruption", sort=False)["error"].mean().idxmax()
        bars = tuple(("", _called(run, r["defense"], "mean error"), error(r["error"], r["lo"], r["hi"]))
                     for r in records)  # fmt: skip
        many = named["corruption"].nunique()
        meant = f"mean of {many} corruption{'s' if many > 1 else ''}{one_severity(run, shift, ' at ')}"
        sentence = f"{str(worst).replace('_', ' ')} costs most; {meant}."
        sentence = sentence[0].upper() + sentence[1:]
        mine = _of(means_over, dict(zip(("shift", *WHERE), (shift, *where), strict=False)))
        if len(mine):
            yield _over_seeds(run, title, _where([*where, 0]), mine, "error", (sentence,))
            continue
        numbers = tuple(_numbers(records[:1], records, "error", "error"))
        n = int(means["n"].min())
        yield Answer(title, _where([*where, part["seed"].iloc[0]]), numbers, bars, (sentence,), n)


def _where(where: Sequence[Any], goal: str = "") -> str:
    dataset, model, seed = where
    return " · ".join(part for part in (goal, str(dataset), str(model), f"seed {seed}" if seed else "") if part)


def _numbers(
    best: Sequence[Mapping[Any, Any]], rows: Sequence[Mapping[Any, Any]], value: str, what: str
) -> Iterator[tuple[str, str, str, str]]:
    defended = any(row["defense"] != "none" for row in rows)
    if best and defended:
        label = f"best {what}" if best[0]["defense"] != "none" else f"best {what}: undefended"
        yield label, percent(best[0][value]), interval(best[0]["lo"], best[0]["hi"]), "good"
        if best[0]["defense"] == "none":
            return
    for row in rows:
        if row["defense"] == "none" and not np.isnan(row[value]):
            label, ended = "undefended" if defended else what, row.get("grade", "")
            if ended == "INVALID":
                yield label, "–", "failed a check", "bad"
            else:
                bound = "≤ " if ended == "PROVISIONAL" else ""
                yield label, bound + percent(row[value]), interval(row["lo"], row["hi"]), "bad"
            return


def _bar(run: Results, row: Mapping[Any, Any], rivals: int) -> tuple[str, str, Entry]:
    """A row's bar; of one system alone without a rank."""
    entry = accuracy(row["robust_accuracy"], row["lo"], row["hi"], note=row["flags"], struck=row["struck"])
    if row["unranked"] and not row["struck"]:
        entry = Entry(f"≤ {entry.text}", entry.key, doubt(row, rivals), entry.struck, bar=entry.bar)
    place = (ranks(row["rank_first"], row["rank_last"]) or "–") if rivals > 1 else ""
    return place, _called(run, row["defense"], "robust accuracy"), entry


def doubt(row: Mapping[Any, Any], rivals: int) -> str:
    """Why a row of the worst-case table has no rank; of one system, which needs none, what is wrong with its number."""
    return str(row["unranked"]) if rivals > 1 else str(row["unranked"]).removeprefix("not ranked: ")


def _sentences(run: Results, part: pd.DataFrame, ranked: pd.DataFrame) -> Iterator[str]:
    rows = ranked.to_dict("records")
    if rows:
        first = rows[0]
        tied = [plain(row["defense"]) for row in rows[1:]]
        tie = f", statistically tied with {_listed(tied)}" if tied else ""
        yield (
            f"{plain(first['defense'])} leads{tie}; {first['strongest']} hurts it most."
            if len(part) > 1
            else (f"{first['strongest']} hurts it most.")
        )
    faced = part["attacks"].str.split(";").map(len)
    n = int(part["n"].min())
    span = str(faced.max()) if faced.min() == faced.max() else f"{faced.min()} to {faced.max()}"
    yield f"Worst of {span} attack{'s' if faced.max() > 1 else ''} per image, {number(n)} images."
    for row in part.to_dict("records"):
        if said := no_answer(row):
            yield f"{plain(row['defense'])}: {said}." if run.defended else f"{said}."
    left = part[part["unranked"] != ""].to_dict("records")
    if left and len(part) > 1:
        yield f"Not ranked: {_listed([plain(row['defense']) for row in left])}; see the notes."
    elif left:
        yield doubt(left[0], 1).capitalize() + "."


def no_answer(row: Mapping[Any, Any]) -> str:
    """What would stand if answers that are gone were a defense, '' where none are."""
    gone = row["or_no_answer"] - row["robust_accuracy"]
    if not gone > 0:
        return ""
    return f"{percent(gone)} end rejected or in a tie, which is not right; {percent(row['or_no_answer'])} with these"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def cautions(run: Results, worst: pd.DataFrame) -> Iterator[str]:
    """What a reader must know before trusting the numbers."""
    for grade, level, words in (
        ("INVALID", "fail", "failed a check, struck through"),
        ("PROVISIONAL", "warn", "raised a warning, upper bounds"),
    ):  # fmt: skip
        doubted = run.cells[run.cells["grade"] == grade]
        if len(doubted):
            names = sorted({f["name"] for row in doubted["flags"] for f in row if level_of(f) == level})
            yield f"{len(doubted)} of {len(run.cells)} cells {words}: {', '.join(names)}."
    if len(worst) and worst["n"].min() < PUBLISHED:
        yield f"A screening: {int(worst['n'].min())} images; publish from {PUBLISHED} on."
    if run.skipped:
        yield f"{len(run.skipped)} cell folder{'s were' if len(run.skipped) > 1 else ' was'} unreadable and left out."
    if run.absent:
        yield f"Unfinished: {run.absent} of {run.absent + len(run.cells)} planned cells are not there yet{_named(run)}."
    if run.foreign:
        yield f"{run.foreign} cell(s) of an earlier plan in the same folder were left out."
    if run.cells["dirty"].map(bool).any():
        yield "Some cells were measured from a source tree with uncommitted changes."


def _named(run: Results) -> str:
    """Which cells are not there, the first few by name; nothing of a run that does not say."""
    some = run.unfinished[:NAMED]
    more = f" and {run.absent - len(some)} more" if run.absent > len(some) else ""
    return f": {', '.join(some)}{more}" if some else ""


def rankings(run: Results) -> pd.DataFrame:
    """The worst-case table, with its columns even where no attack was measured."""
    table = worst_case(run)
    return table if len(table) else pd.DataFrame(columns=[*GROUP, "defense", "rank_first", "n"])
