"""From run folders to the files of a leaderboard: pages, records, example rows and leaderboard.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustsuite import __version__
from robustsuite.integrity.checks import PUBLISHED
from robustsuite.records.schema import plain

from ..measure.scores import Score, to_csv
from ..read.runs import Results, read
from . import site
from .leaderboard import Board, Standing, boards, union_name, union_rows
from .published import MARK, Published, read_published
from .write import put


def write_leaderboard(runs: Sequence[Path], out: Path, published: Sequence[Path] = ()) -> list[Path]:
    """Write the site of one or several run folders into `out`; returns the files, index.html first.

    published: RobustBench model_info files, or folders of them. The same runs give the same bytes. Raises BadData for
    what cannot be read, BadOutput where `out` cannot be written.
    """
    run, out = read(runs), Path(out)
    found = boards(run, read_published(published))
    pages = _page_names([board.threat for board in found])
    files: dict[str, str] = {"index.html": site.render(_index(run, found, pages))}
    links: dict[tuple[int, str], str] = {}
    cells: dict[str, str] = {}
    for i, board in enumerate(found):
        for standing in board.standings:
            cells |= dict.fromkeys([run_id for _, run_id, _ in standing.attacks], pages[board.threat])
            cells |= {standing.proof[1]: pages[board.threat]} if standing.proof[1] else {}
            united = bool(standing.attacks) and not board.metric
            if united:
                files |= _union(run, board, standing, pages[board.threat])
            links[i, standing.name] = f"unions/{union_name(board, standing)}.html" if united else ""
    for threat, page in pages.items():
        members = [(i, board) for i, board in enumerate(found) if board.threat == threat]
        files[page] = site.render(site.threat_page(threat, members, links))
    for run_id, page in cells.items():
        files |= _cell(run, run_id, page)
    files["leaderboard.json"] = _json({
        "robustsuite": __version__, "title": run.title, "note": run.note,
        "boards": [board_facts(board, links, i) for i, board in enumerate(found)],
    })  # fmt: skip
    return [put(out / name, content) for name, content in files.items()]


def _index(run: Results, found: Sequence[Board], pages: Mapping[str, str]) -> site.Page:
    counts = [score.n for b in found for s in b.standings if (score := s.upper if s.attacks else s.lower)]
    few = min(counts, default=PUBLISHED)
    cautions = [f"A screening: {few} images; publish from {PUBLISHED} on."] if few < PUBLISHED else []
    if run.skipped or run.absent:
        cautions.append(f"{len(run.skipped)} cells could not be read and {run.absent} planned ones are not there yet.")
    return site.index_page(run.title, run.note, found, pages, cautions)


def _page_names(threats: Sequence[str]) -> dict[str, str]:
    """A file name a threat: its letters and digits; a number keeps two threats apart that differ in signs alone."""
    names: dict[str, str] = {}
    taken = {"index"}
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
    html = site.render(site.union_page(board, standing, rows, page))
    return {f"unions/{name}.html": html, f"unions/{name}.csv": to_csv(rows)}


def _cell(run: Results, run_id: str, page: str) -> dict[str, str]:
    cell, rows = run.known[run_id], run.examples(run_id)
    html = site.render(site.cell_page(cell, rows, (cell["threat"], f"../{page}")))
    record = {name: None if site.empty(value) else plain(value) for name, value in cell.items() if name != "record"}
    return {f"cells/{run_id}.html": html, f"cells/{run_id}.json": _json(record), f"cells/{run_id}.csv": to_csv(rows)}


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
