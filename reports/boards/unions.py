"""What one system holds under all attacks of a board at once, image by image: its rows and their page."""

from __future__ import annotations

import hashlib

import pandas as pd

from ..read.runs import Results
from ..render.document import Entry, Section, Table, counted, words
from .cell_pages import FEW, SHOWN, rows_of
from .leaderboard import Board, Standing
from .site import Page


def union_name(board: Board, standing: Standing) -> str:
    """A file name for one system on one board, the same from one run of the command to the next."""
    words = (board.threat, board.budget, board.goal, board.dataset, standing.name)
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:12]


def union_rows(run: Results, standing: Standing) -> pd.DataFrame:
    """The images every attack has met: index, label, no attack, a column an attack, all at once (True: stands).

    Foreign pictures, where any breaks one, have a column of their own.
    """
    first = run.examples(standing.attacks[0][1]).set_index("index")
    columns = {"no attack": first["clean_ok"].astype(bool)}
    for attack, run_id, _ in standing.attacks:
        columns[attack] = run.examples(run_id).set_index("index")["robust"].astype(bool)
    table = pd.concat(columns, axis=1, join="inner").sort_index()
    own = {run_id for _, run_id, _ in standing.attacks}
    fell = [example for pair in run.transfers if pair.target in own for example in pair.broken]
    if fell:
        table["foreign pictures"] = ~table.index.isin(fell)
    table["all at once"] = table.drop(columns="no attack").all(axis=1)
    table.insert(0, "label", first["label"].loc[table.index])
    return table.rename_axis("index").reset_index()


def union_page(board: Board, standing: Standing, robusts: pd.DataFrame, page: str, many: bool = False) -> Page:
    """The images behind one union: a row an image, a column an attack. `robusts` is what `union_rows` returned.

    many: the page is one of very many.
    """
    names = [column for column in robusts.columns if column not in ("index", "label")]
    links = {attack: run_id for attack, run_id, _ in standing.attacks}
    rows = tuple(
        (counted(row["index"], str(row["index"])), words(row["label"]), *(_mark(bool(row[name])) for name in names))
        for row in robusts.head(FEW if many else SHOWN).to_dict("records")
    )  # fmt: skip
    table = Table("examples", "Images", rows_of(robusts, many), ("index", "label", *names), rows, "")
    left = standing.upper
    stand = f"{left.k} of {left.n} stand under all of them at once" if left else ""
    lead = f"Right without attack, and under each attack alone; {stand}."
    cells = tuple((attack, f"../cells/{run_id}.html") for attack, run_id in links.items())
    return Page(f"{board.threat}: {standing.name}", "Examples", (Section("rows", "", (), (table,)),),
                (("All boards", "../index.html"), (board.threat, f"../{page}")), "", (lead,),
                (("all rows (csv)", f"{union_name(board, standing)}.csv"), *cells), beside=True)  # fmt: skip


def _mark(stands: bool) -> Entry:
    return Entry("stands", 1.0, kind="won") if stands else Entry("falls", 0.0, kind="lost")
