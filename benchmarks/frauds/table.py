"""Frauds, cheats and lying defenses against the suite: what each reads, with which grade, and what it is truly worth.

    python -m benchmarks.frauds.table --data FOLDER [--out FOLDER] [-j 2] [--again] [NAMES ...]

FOLDER holds models/ and data/cifar10/. A process each; `table.json` in --out is resumed, `table.md` is made of it.
A number is MISSED where it is ranked, or doubted only as every single attack is, and lies more than ten points above
the honest network's under the same attack; so is that network's own, asked after the fraud in the same process. (A
cheat's: below an honest attack's, or an honest attack reads otherwise after it.)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from robustsuite.benchmarks.frauds import cheats_forging  # noqa: F401  it lists its cheats
from robustsuite.benchmarks.frauds.cheats import CHEATS
from robustsuite.benchmarks.frauds.cheats_reading import FOLDER
from robustsuite.benchmarks.frauds.declared import DECLARED
from robustsuite.benchmarks.frauds.measure import AFTER, ATTACKS, asked, listed
from robustsuite.benchmarks.frauds.tricks import FRAUDS

USUAL = {"one_family", "weak_alone"}
"""Flags of every single attack."""

ABOVE, PATIENCE = 0.1, 600.0
Row = dict[str, Any]
Table = dict[str, Row]


def told_apart(row: Row) -> list[str]:
    """The flags that doubt this number besides those of any single attack."""
    return [name for name in row.get("flags", []) if name not in USUAL]


def trusted(row: Row) -> bool:
    """Whether a reader would take this number for what it says."""
    graded = row.get("grade") in ("SOUND", "CERTIFIED") or (row.get("grade") == "PROVISIONAL" and not told_apart(row))
    return graded and "raised" not in row and row.get("value") is not None


def missed(rows: list[Row], honest: dict[str, float]) -> list[str]:
    """The attacks whose numbers are trusted and too high."""
    return [row["attack"] for row in rows if trusted(row) and row["value"] > honest.get(row["attack"], 0) + ABOVE]


def cheat_missed(row: Row) -> list[str]:
    """What a cheat got away with."""
    before, after = row.get("before"), row.get("after")
    found = ["after it, an honest attack reads otherwise"] if before != after else []
    if trusted(row) and isinstance(before, float) and row["value"] < before - ABOVE:
        found.append("a low reading")
    return found


def verdict(entry: Row, honest: dict[str, float]) -> str:
    """MISSED with what; else caught, or harmless where nothing high or low was read."""
    rows = entry["rows"]
    found = cheat_missed(rows[0]) if entry["what"] == "cheat" and rows else missed(rows, honest)
    own = [row for row in rows if row["attack"] != AFTER]
    spoilt = [f"the honest network after it: {_reading(row)}" for row in rows if row not in own and not trusted(row)]
    if found:
        said = f"MISSED ({', '.join(found)})"
    elif not own:
        said = entry["ended"] or "nothing"
    else:
        said = "caught" if any("raised" in row or told_apart(row) for row in own) else "harmless"
    return "; ".join([said, *spoilt])


def child(what: str, name: str, data: Path, work: Path) -> tuple[list[Row], str]:
    """The rows of a process of its own, and why it ended, where not by itself."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", FOLDER: str(data), "PYTHONPATH": os.pathsep.join(sys.path)}
    module = "robustsuite.benchmarks.frauds.measure"
    command = [sys.executable, "-m", module, what, name, "--data", str(data), "--work", str(work)]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, timeout=PATIENCE)
        out, why = done.stdout, "" if done.returncode == 0 else f"rc {done.returncode}: {done.stderr[-400:].decode()}"
    except subprocess.TimeoutExpired as error:
        out, why = error.stdout or b"", f"ended after {PATIENCE:g} s"
    return [json.loads(line[4:]) for line in out.decode().splitlines() if line.startswith("ROW ")], why


def measured(name: str, data: Path, work: Path) -> Row:
    """One entry of the table."""
    if name in CHEATS or name in DECLARED:
        what = "cheat" if name in CHEATS else "declared"
        kind: str = CHEATS[name].gain if name in CHEATS else "declared"
        trick = CHEATS[name].trick if name in CHEATS else (DECLARED[name].__doc__ or "").split("\n")[0]
        rows, ended = child(what, name, data, work)
        return {"what": what, "kind": kind, "trick": trick, "truth": None, "rows": rows, "ended": ended}
    facts = FRAUDS.get(name)
    told, why = child("truth", name, data, work)
    rows, ended = child("fraud", name, data, work)
    kind, trick = (facts.kind, facts.trick) if facts else ("–", "Nothing is done.")
    return {"what": "fraud", "kind": kind, "trick": trick, "truth": told[0] if told else None, "rows": rows,
            "ended": ended or why}  # fmt: skip


def markdown(table: Table) -> str:
    """The table, in the order of the kinds."""
    honest = {row["attack"]: row.get("value", 0.0) for row in table.get("honest", {}).get("rows", [])}
    heads = ["name", "kind", "trick", "true: clean / attacked %", *ATTACKS, "flags", "verdict"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, entry in table.items():
        rows, true = entry["rows"], entry["truth"]
        cells = [name, entry["kind"], entry["trick"], f"{_percent(true, 'clean')} / {_percent(true, 'attacked')}"]
        if entry["what"] == "cheat":
            cells += [_reading(rows[0]) if rows else "–", *[""] * (len(ATTACKS) - 1)]
        else:
            cells += [_reading(next((r for r in rows if r["attack"] == attack), None)) for attack in ATTACKS]
        flags = list(dict.fromkeys(flag for row in rows if row["attack"] != AFTER for flag in told_apart(row)))
        cells += [", ".join(flags), verdict(entry, honest)]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(row: Row | None, key: str) -> str:
    return "–" if not row else f"{100 * row[key]:.0f}"


def _reading(row: Row | None) -> str:
    if row is None:
        return "–"
    if "raised" in row:
        return f"failed: {row['raised'][:70]}"
    return str(row.get("status")) if row.get("value") is None else f"{100 * row['value']:.0f} {row['grade']}"


def main(words: list[str] | None = None) -> Table:
    """Every name, or those that are not in the table yet; the table."""
    listed()
    kinds = list(dict.fromkeys(fraud.kind for fraud in FRAUDS.values()))
    everybody = ["honest", *sorted(FRAUDS, key=lambda name: kinds.index(FRAUDS[name].kind)), *DECLARED, *CHEATS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAMES")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/frauds"))
    parser.add_argument("-j", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args(words)
    if unknown := [name for name in given.names if name not in everybody]:
        parser.error(f"expected names of the table, got {', '.join(unknown)}; it has {', '.join(everybody)}")
    out, data, lock = given.out.resolve(), given.data.resolve(), Lock()
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    asked(data, work)
    file = out / "table.json"
    table: Table = json.loads(file.read_text("utf-8")) if file.exists() else {}

    def one(name: str) -> None:
        entry = measured(name, data, work)
        with lock:
            table[name] = entry
            ordered = {n: table[n] for n in everybody if n in table}
            file.write_text(json.dumps(ordered, indent=1), "utf-8")
            (out / "table.md").write_text(markdown(ordered), "utf-8")
            sys.stdout.write(markdown({"honest": table.get("honest", entry), name: entry}).splitlines()[-1] + "\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(given.j) as pool:
        list(pool.map(one, [n for n in given.names or everybody if given.again or n not in table]))
    return {name: table[name] for name in everybody if name in table}


if __name__ == "__main__":
    main()
