"""Certification in short: for how many images a proof holds, and where the proofs end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from robustsuite.records.schema import Budget, radius_words

from ..measure.grades import DOUBTED
from ..measure.scores import scores
from ..measure.seeds import over_seeds
from ..read.runs import Results, once
from ..render.adversary import BEYOND, share
from ..render.document import Answer, accuracy
from ..render.text import interval, number, plain
from ..sections.generic import groups
from . import cards
from .cards import NONE_YET, PROOF, VERDICT, Row

PROVEN = "proven right"
KEY = ("threat", "budget", "dataset", "model")


def proven(run: Results, table: pd.DataFrame) -> Iterator[Answer]:
    """One answer a certificate's threat, over seeds where there are several; `table` is what `scores(run)` returned."""
    rows = table[table["scenario"] == "certification"]
    asked = Counter((run.budgets[str(key[1])], *key[2:]) for key, _ in groups(rows, KEY))
    for key, whole in groups(rows, KEY):
        facts = dict(zip(KEY, key, strict=True))
        eps, norm = run.budgets[str(facts["budget"])]
        size = f"{norm} {radius_words(eps or 0.0, norm)}"
        if asked[(eps, norm), *key[2:]] > 1:  # else two cards would say the same of different proofs
            size += f" (threat {facts['threat']})"
        title, head = f"Proven{cards.whose(run, facts)} within {size}", f"{facts['threat']}: {facts['budget']}"
        means = cards.of(over_seeds(run), {"scenario": "certification", **facts})
        means = means[means["metric"] != "clean_accuracy"] if len(means) else means
        at = whole[whole["metric"] == f"certified_accuracy@{eps or 0.0:.6g}"]
        part = at.sort_values("value", ascending=False, kind="stable")
        if not len(part):
            cells = cards.of(run.cells, {"scenario": "certification", **facts}).to_dict("records")
            where = cards.place((facts["dataset"], facts["model"], 0), head)
            what = f"a proof{cards.whose(run, facts)} within {size}"
            yield cards.not_measured(title, where, what, cells, (PROOF, 0.0, 0.0))
            continue
        said, standing = _said(run, facts, means, part, size)
        order = (standing, PROOF, 0.0, -float(part["value"].max()))
        covers = f"A proof covers every change within its radius, whoever makes it; {number(part['n'].min())} images."
        if len(means):
            ranked = means.sort_values("mean", ascending=False, kind="stable")
            figures, bars, sentences = cards.over_seeds(run, PROVEN, ranked, (covers,))
            where = cards.place((facts["dataset"], facts["model"], 0), head)
        else:
            figures, bars = _card(run, part.to_dict("records"))
            sentences = (covers, *_missing(run, whole[whole["n"] == 0]))
            where = cards.place((facts["dataset"], facts["model"], part["seed"].iloc[0]), head)
        figures = figures if standing == VERDICT else cards.NONE
        yield Answer(title, where, figures, bars, sentences, int(part["n"].min()), said, order)


def _card(run: Results, records: Sequence[Row]) -> tuple[Any, Any]:
    bars = tuple(("", f"{cards.called(run, r['defense'], PROVEN)}, {r['attack']}",
                  accuracy(r["value"], r["lo"], r["hi"], note=r["flags"], struck=r["grade"] == "INVALID"))
                 for r in records)  # fmt: skip
    sound = [r for r in records if r["grade"] not in DOUBTED]
    own = next((r for r in sound if r["defense"] == "none"), None)
    best = next((r for r in sound if r["defense"] != "none"), None)
    return cards.numbers(run, PROVEN, own, best, "value"), bars


def _said(
    run: Results, facts: Mapping[str, Any], means: pd.DataFrame, part: pd.DataFrame, size: str
) -> tuple[tuple[str, ...], int]:  # fmt: skip
    """For how many images of which system the proof holds, and whether that is a verdict."""
    if len(means):
        rows = means[(means["sound"] > 0) & ~means["bound"].astype(bool)].assign(value=means["mean"])
        seeds = f" (mean of {means['seeds'].max()} seeds)"
    else:
        rows, seeds = part[~part["grade"].isin(DOUBTED)], ""
    it, of = cards.subject(run, facts), cards.whose(run, facts)
    if not len(rows):
        flags = ", ".join(sorted({name for names in part["flags"] for name in str(names).split(";") if name}))
        return (f"No verdict yet on proofs{of} within {size}: their numbers are in doubt ({flags}).",), NONE_YET
    ranked = rows.sort_values("value", ascending=False, kind="stable").to_dict("records")
    if not ranked[0]["value"]:
        return (f"Nothing is proven of {it} within {size}: of {number(ranked[0]['n'])} images none.",), VERDICT
    own = next((row for row in ranked if row["defense"] == "none"), None)
    best = next((row for row in ranked if row["defense"] != "none"), None)
    lead = own or ranked[0]
    by = "" if own else f", with {plain(lead['defense'])},"
    said = f"Whoever attacks: within {size} it is proven that {it}{by} stays right on {_of(lead)}{seeds}."
    more = (f"With {plain(best['defense'])} on {_of(best)}.",) if own and best else ()
    return (said, *more), VERDICT


def _of(row: Row) -> str:
    """'9 of 10 images (55.5–99.7 %)'; a mean over seeds has no count and no interval of images."""
    if "lo" not in row:
        return f"{share(row['value'])} of {number(row['n'])} images"
    return f"{number(row['k'])} of {number(row['n'])} images ({interval(row['lo'], row['hi'])} %)"


def _missing(run: Results, missing: pd.DataFrame) -> Iterator[str]:
    if len(missing):
        cells = [f"{cards.called(run, row['defense'], row['attack'])} ({row['status']})"
                 for row in missing.to_dict("records")]  # fmt: skip
        why = list(dict.fromkeys(str(row["sentence"]) for row in missing.to_dict("records") if row["sentence"]))
        yield f"Not measured: {cards.listed(list(dict.fromkeys(cells)))}" + (f": {'; '.join(why[:2])}." if why else ".")


@once
def _held(run: Results) -> dict[tuple[Any, ...], list[Row]]:
    """By data and model the scores of proofs that hold for any image, at every radius; none of a number in doubt."""
    table = scores(run)
    rows = table[(table["scenario"] == "certification") & ~table["grade"].isin(DOUBTED) & (table["value"] > 0)]
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows[rows["metric"].str.startswith("certified_accuracy@")].to_dict("records"):
        found.setdefault((row["dataset"], row["model"]), []).append(row)
    return found


def beyond(run: Results, where: Mapping[str, Any], budget: Budget) -> str:
    """What is proven of a model in this norm, beside what attacks reach: up to which radius, or for how many images."""
    if budget.eps is None or budget.norm in BEYOND:
        return ""
    mine = [row for row in _held(run).get((where["dataset"], where["model"]), ())
            if run.budgets[str(row["budget"])][1] == budget.norm]  # fmt: skip
    held = [(float(row["metric"].partition("@")[2]), row) for row in mine]
    held = [(radius, row) for radius, row in held if radius > 0]
    none = f"In {budget.norm} nothing is proven of {cards.subject(run, where)}"
    passed = (run.cells["defense"] != "none") & (run.cells["status"] != "inert")
    any_system = ", with or without a defense" if passed.any() else ""
    if not held:
        return none + any_system
    enough = [(row["value"], row) for radius, row in held if radius >= budget.eps * (1 - 1e-5)]
    if enough:
        _, row = max(enough, key=lambda pair: pair[0])
        by = "" if row["defense"] == "none" else f" with {plain(row['defense'])}"
        return f"On {_of(row)} it is proven that no such change works{by}"
    radius = max(radius for radius, _ in held)
    exact = [run.budgets[str(row["budget"])][0] for _, row in held]
    full = next((eps for eps in exact if eps and abs(eps - radius) <= 1e-5 * eps), radius)
    return f"{none} beyond {radius_words(full, budget.norm)}{any_system}"
