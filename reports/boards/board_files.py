"""From run folders to the files of a leaderboard: pages, records, example rows and leaderboard.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from robustsuite import __version__
from robustsuite.integrity.checks import PUBLISHED
from robustsuite.records.schema import plain

from ..measure.scores import Score, to_csv
from ..read.runs import Results, read
from ..render.files import put
from . import site
from .cell_pages import MANY, browse_page, cell_page
from .leaderboard import Board, Standing, boards
from .published import MARK, Published, read_published
from .unions import union_name, union_page, union_rows

OURS = ("record", "share")
"""Of a cell's facts those that are no part of its record as a file."""


def write_leaderboard(runs: Sequence[Path], out: Path, published: Sequence[Path] = ()) -> list[Path]:
    """Write the site of one or several run folders into `out`; returns the files, index.html first.

    published: RobustBench model_info files, or folders of them. The same runs give the same bytes. Raises BadData for
    what cannot be read, BadOutput where `out` cannot be written.
    """
    run, out = read(runs), Path(out)
    found = boards(run, read_published(published))
    pages = _page_names([board.threat for board in found])
    links = {
        (i, s.name): f"unions/{union_name(board, s)}.html" if s.attacks and not board.metric else ""
        for i, board in enumerate(found) for s in board.standings
    }  # fmt: skip
    files = chain(
        _board_pages(run, found, pages, links).items(),
        (file for i, board in enumerate(found) for s in board.standings if links[i, s.name]
         for file in _union(run, board, s, pages[board.threat]).items()),
        (file for run_id in run.known for file in _cell(run, run_id, pages).items()),
    )  # fmt: skip
    return [put(out / name, text) for name, text in files]  # one after the other: together they may be gigabytes


def _board_pages(
    run: Results, found: Sequence[Board], pages: Mapping[str, str], links: Mapping[tuple[int, str], str]
) -> dict[str, str]:
    """What stands at the top of the site: boards, the list of cells, what pages in folders share, the numbers."""
    files = site.files("index.html", site.index_page(run.title, run.note, found, pages, _cautions(run, found), links))
    for threat, page in pages.items():
        members = [(i, board) for i, board in enumerate(found) if board.threat == threat]
        files |= site.files(page, site.threat_page(threat, members, links))
    files |= site.files(site.CELLS, browse_page(run)) | site.assets()
    return files | {"leaderboard.json": _json({
        "robustsuite": __version__, "title": run.title, "note": run.note,
        "boards": [board_facts(board, links, i) for i, board in enumerate(found)],
    })}  # fmt: skip


def _cautions(run: Results, found: Sequence[Board]) -> list[str]:
    """What holds for all of the site, and nothing that holds for a part of it."""
    counts = [score.n for b in found for s in b.standings if (score := s.upper if s.attacks else s.lower)]
    most = max(counts, default=PUBLISHED)
    some = f"{most}" if min(counts, default=most) == most else f"{min(counts)} to {most}"
    cautions = [f"Screenings: every number here rests on {some} images; publish from {PUBLISHED} on."]
    cautions = cautions if most < PUBLISHED else []
    if run.skipped or run.absent:
        cautions.append(f"{len(run.skipped)} cells could not be read and {run.absent} planned ones are not there yet.")
    return cautions


def _page_names(threats: Sequence[str]) -> dict[str, str]:
    """A file name a threat: its letters and digits; a number keeps two threats apart that differ in signs alone."""
    names: dict[str, str] = {}
    taken = {"index", "cells"}
    for threat in dict.fromkeys(threats):
        stem = slug = re.sub(r"[^a-z0-9]+", "-", threat.lower()).strip("-") or "threat"
        for k in range(2, len(threats) + 3):
            if stem not in taken:
                break
            stem = f"{slug}-{k}"
        taken.add(stem)
        names[threat] = f"{stem}.html"
    return names


def _union(run: Results, board: Board, standing: Standing, page: str) -> dict[str, str]:
    rows, name = union_rows(run, standing), union_name(board, standing)
    html = site.render(union_page(board, standing, rows, page, len(run.known) > MANY))
    return {f"unions/{name}.html": html, f"unions/{name}.csv": to_csv(rows)}


def _cell(run: Results, run_id: str, pages: Mapping[str, str]) -> dict[str, str]:
    cell = run.known[run_id]
    html = site.render(cell_page(run, run_id, pages.get(cell["threat"], "")))
    record = {name: None if empty(value) else plain(value) for name, value in cell.items() if name not in OURS}
    files = {f"cells/{run_id}.html": html, f"cells/{run_id}.json": _json(record)}
    rows = cell["status"] == "done" and len(run.known) <= MANY
    return files | ({f"cells/{run_id}.csv": to_csv(run.examples(run_id))} if rows else {})


def empty(value: Any) -> bool:
    """Whether a record has nothing to say here: None, "", NaN."""
    return value is None or value == "" or (isinstance(value, float) and pd.isna(value))


def board_facts(board: Board, links: Mapping[tuple[int, str], str], i: int) -> dict[str, Any]:
    """One board as leaderboard.json holds it: numbers in full, rates in [0, 1]."""
    return {
        "threat": board.threat, "scenario": board.scenario, "access": board.access, "budget": board.budget,
        "goal": board.goal, "dataset": board.dataset, "metric": board.metric,
        "rows": [_standing(s, links[i, s.name]) for s in board.standings] + [_published(p) for p in board.published],
        "pairs": [{"a": a, "b": b, "difference": test.difference, "only_a": test.only_a, "only_b": test.only_b,
                   "n": test.n, "p_holm": p} for a, b, test, p in board.pairs],
    }  # fmt: skip


def _standing(s: Standing, examples: str) -> dict[str, Any]:
    proof = {"certifier": s.proof[0], "record": f"cells/{s.proof[1]}.json"} if s.proof[1] else None
    return {
        "source": "measured", "model": s.model, "defense": s.defense, "seed": s.seed,
        "rank": list(s.ranks) if s.ranks[0] else None, "unranked": s.unranked,
        "grade": s.grade, "screening": s.screening,
        "attacked_at_most": _score(s.upper),
        "proven_at_least": _score(s.lower), "clean": _score(s.clean), "strongest": s.strongest, "missing": s.missing,
        "flags": s.flags, "inert": s.inert, "proof": proof, "examples": examples,
        "attacks": [{"attack": a, "leaves": left, "record": f"cells/{run_id}.json"} for a, run_id, left in s.attacks],
    }  # fmt: skip


def _published(row: Published) -> dict[str, Any]:
    return {
        "source": MARK, "model": row.model, "title": row.title, "authors": row.authors, "venue": row.venue,
        "link": row.link, "architecture": row.architecture, "eps": row.eps, "rank": None,
        "attacked_at_most": {"value": row.robust}, "clean": {"value": row.clean}, "notes": list(row.notes),
    }  # fmt: skip


def _score(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {"value": score.value, "lo": score.lo, "hi": score.hi, "k": score.k, "n": score.n}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
