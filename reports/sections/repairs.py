"""Attacks against defenses where training data are poisoned: one matrix, ranks across attacks, a heat map.

Columns are those of BackdoorBench (Wu et al., 2022): C-Acc, the accuracy on clean pictures; ASR, the share of triggered
ones answered with the target; R-Acc, the share of these answered with their own class. Ranks are by DER, which weighs
the fall of the ASR against that of the C-Acc (Zhu et al., 2023, FT-SAM, ICCV, equation 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from ..measure.grades import DOUBTED
from ..read.runs import Results
from ..render.document import Entry, Table, counted, words
from ..render.draw import INK, PAPER, SCALE, Figure, bare, draw, slug, told_apart, where, wrap
from ..render.text import percent, plain, short

WHERE = ("threat", "budget", "goal", "dataset", "model", "seed")

WORKED = 0.5
"""Below this ASR against the undefended victim an attack says nothing of defenses: it has a row and no rank."""

LOST = 0.1
"""Clean accuracy that BackdoorBench lets a defense cost; the figure marks what costs more."""

DARK = "#10202e"
"""Digits on a pale tile, in either theme."""

Row = dict[str, Any]


def rated(found: pd.DataFrame) -> pd.DataFrame:
    """The table of `backdoors` with ca, asr, ra, der and worked: rates in [0, 1], NaN where nothing was measured.

    der: (max(0, fall of ASR) - max(0, fall of C-Acc) + 1) / 2 beside the undefended victim of the same attack, which is
    0.5 where nothing changed; NaN without that victim. worked: whether that one's ASR reached WORKED, and can be
    believed.
    """
    rows = found.assign(ca=found["clean_ok"] / found["n"], asr=found["hits"] / found["eligible"].replace(0, np.nan),
                        ra=found["recovered"] / found["eligible"].replace(0, np.nan))  # fmt: skip
    on = [*WHERE, "attack"]
    alone = rows[(rows["defense"] == "none") & ~rows["grade"].isin(DOUBTED)].drop_duplicates(on).set_index(on)
    rows = rows.join(alone[["ca", "asr"]].add_suffix("_before"), on=on)
    fall, loss = (rows[f"{name}_before"] - rows[name] for name in ("asr", "ca"))
    der = (fall.clip(lower=0) - loss.clip(lower=0) + 1) / 2
    return rows.assign(der=der, worked=rows["asr_before"] >= WORKED)


def ranked(part: pd.DataFrame) -> pd.DataFrame:
    """One row a defense of a part of `rated`: attacks (of `of` that worked), mean ca, asr, ra, der, and rank.

    rank: the mean over these attacks of its rank by DER, equal ones sharing theirs; NaN for one that is without any of
    them, by missing or by grade, so that what was not measured never counts.
    """
    attacks, rows = list(dict.fromkeys(part.loc[part["worked"], "attack"])), []
    worked = part[part["worked"] & (part["defense"] != "none")]
    sound = worked[worked["der"].notna() & ~worked["grade"].isin(DOUBTED)]
    whole = [name for name, own in sound.groupby("defense", sort=False) if own["attack"].nunique() == len(attacks)]
    full = sound[sound["defense"].isin(whole)].drop_duplicates(["attack", "defense"])
    ranks = full.pivot(index="attack", columns="defense", values="der").round(9).rank(axis=1, ascending=False)
    for name in dict.fromkeys(part.loc[part["defense"] != "none", "defense"]):
        own = sound[sound["defense"] == name]
        lacking = [plain(attack) for attack in attacks if attack not in set(own["attack"])]
        rows.append({"defense": name, "attacks": own["attack"].nunique(), "of": len(attacks),
                     **own[["ca", "asr", "ra", "der"]].mean(), "lacking": ", ".join(lacking),
                     "rank": float(ranks[name].mean()) if name in ranks else np.nan})  # fmt: skip
    columns = ["defense", "attacks", "of", "ca", "asr", "ra", "der", "rank", "lacking"]
    return pd.DataFrame(rows, columns=columns).sort_values(["rank", "der"], ascending=[True, False], kind="stable")


def parts(run: Results, found: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rated victims of each threat, data set, model and seed where there is more than the undefended one."""
    if not run.defended or not len(found):
        return
    for key, part in rated(found).groupby(list(WHERE), sort=False):
        if (part["defense"] != "none").any():
            yield key, part


def tables(run: Results, found: pd.DataFrame) -> tuple[Table, ...]:
    """A matrix and a ranking for each part; nothing where no defense was measured."""
    made: list[Table] = []
    for i, (key, part) in enumerate(parts(run, found), 1):
        made += [_matrix(run, key, part, i), _ranking(key, part, i)]
    return tuple(made)


def figures(run: Results, found: pd.DataFrame) -> tuple[Figure, ...]:
    """A heat map for each part: defenses down, attacks across, so that a narrow page shows it whole."""
    made = []
    for key, part in parts(run, found):
        attacks, defenses, cells = _sides(run, key, part)
        caption = (f"Attack success rate in %, beneath it C-Acc and R-Acc, {where(key)}. Blue: the trigger does not "
                   "reach its target; ▼: C-Acc fell by more than 10 points; hatched: no number to rely on")  # fmt: skip
        size = (1.7 + 0.95 * len(attacks), 0.7 + 0.48 * len(defenses))
        paint = partial(_paint, attacks=attacks, defenses=defenses, cells=cells)
        made.append(draw(f"backdoor-matrix-{slug(key)}", caption, size, paint))
    return tuple(made)


def _sides(run: Results, key: tuple[Any, ...], part: pd.DataFrame) -> tuple[list[str], list[str], dict[Any, Row]]:
    """Attacks and defenses in the order of the plan, with the unmeasured ones, and a row for each pair that has one."""
    mine = [c for c in run.known.values() if c["scenario"] == "poisoning" and tuple(c[n] for n in WHERE) == key]
    cells: dict[Any, Row] = {(c["attack"], c["defense"]): {"status": c["status"]} for c in mine}
    cells |= {(row["attack"], row["defense"]): row for row in part.to_dict("records")}
    attacks, defenses = (list(dict.fromkeys(pair[i] for pair in cells)) for i in (0, 1))
    return attacks, sorted(defenses, key=lambda name: name != "none"), cells


def _matrix(run: Results, key: tuple[Any, ...], part: pd.DataFrame, i: int) -> Table:
    attacks, defenses, cells = _sides(run, key, part)
    rows = tuple((words(attack), *(_entry(cells.get((attack, defense))) for defense in defenses)) for attack in attacks)
    caption = f"C-Acc / ASR / R-Acc in %, {where(key)}; n of each and its intervals stand under Backdoors"
    columns = ("attack", *(plain(name) for name in defenses))
    return Table(f"backdoor-matrix-{i}", "Attacks against defenses", caption, columns, rows)


def _entry(row: Row | None) -> Entry:
    """`57.2 / 7.2 / 57.5`, sorted by ASR; the status where there is no number."""
    if row is None or "asr" not in row:
        return Entry("–" if row is None else str(row["status"]), -1.0)
    said = " / ".join("–" if np.isnan(row[name]) else f"{100 * row[name]:.1f}" for name in ("ca", "asr", "ra"))
    return Entry(said, float(np.nan_to_num(row["asr"], nan=-1.0)), struck=row["grade"] == "INVALID")


def _ranking(key: tuple[Any, ...], part: pd.DataFrame, i: int) -> Table:
    found = ranked(part)
    of = int(found["of"].max()) if len(found) else 0
    beside = part[~part["worked"]]
    weak, unknown = (", ".join(map(plain, dict.fromkeys(beside.loc[beside["asr_before"].isna() == none, "attack"])))
                     for none in (False, True))  # fmt: skip
    over = f"{of} attack{'s' * (of != 1)} whose ASR against the undefended victim is at least {100 * WORKED:.0f} %"
    left = f"; left out: {weak}" if weak else ""
    left += f"; left out, as no number of the undefended victim can be relied on: {unknown}" if unknown else ""
    rows = tuple(
        (words(row["defense"]),
         Entry("–", np.inf) if np.isnan(row["rank"]) else counted(row["rank"], f"{row['rank']:.2f}"),
         *(_share(row[name]) for name in ("der", "ca", "asr", "ra")),
         counted(row["attacks"], f"{row['attacks']} of {row['of']}"),
         Entry(f"not ranked: without {row['lacking']}" if row["lacking"] else ""))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = ("defense", "mean rank", "DER", "C-Acc", "ASR", "R-Acc", "attacks", "notes")
    title = "Defenses against backdoors, ranked"
    caption = f"Means over {over}{left}; equal DER share a rank; {where(key)}"
    return Table(f"backdoor-ranks-{i}", title, caption, columns, rows)


def _share(value: float) -> Entry:
    return Entry("–", -1.0) if np.isnan(value) else counted(value, percent(value))


def _paint(canvas: Canvas, attacks: list[str], defenses: list[str], cells: dict[Any, Row]) -> None:
    ax = canvas.add_subplot()
    for y, defense in enumerate(defenses):
        for x, attack in enumerate(attacks):
            row = cells.get((attack, defense))
            if row is None or np.isnan(row.get("asr", np.nan)) or row["grade"] == "INVALID":
                word = "" if row is None else str(row.get("status") or row["grade"])
                ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=PAPER, hatch="////", linewidth=0))
                ax.text(x, y, word, ha="center", va="center", fontsize=8, color=INK, fontstyle="italic")
                continue
            good = 1 - row["asr"]
            ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=SCALE(good), linewidth=0))
            ink = "#ffffff" if good < 0.13 or good > 0.83 else DARK
            lost = "▼" if row["ca_before"] - row["ca"] > LOST else ""
            below = f"{lost}{100 * row['ca']:.0f} · {100 * row['ra']:.0f}"
            text = f"{100 * row['asr']:.1f}"
            ax.text(x, y - 0.14, text, ha="center", va="center", fontsize=10, color=ink, fontweight="bold")
            ax.text(x, y + 0.26, below, ha="center", va="center", fontsize=7.6, color=ink)
    ax.set_xlim(-0.5, len(attacks) - 0.5)
    ax.set_ylim(len(defenses) - 0.5, -0.5)
    ax.set_xticks(range(len(attacks)), list(told_apart(attacks, partial(wrap, width=12)).values()))
    ax.set_yticks(range(len(defenses)), list(told_apart(defenses, partial(short, width=24)).values()))
    ax.xaxis.tick_top()
    bare(ax)
