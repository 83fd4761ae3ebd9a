"""The kept pictures of a run as files: exact arrays (npz), or PNGs to look at, with a table of what each is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from robustsuite.errors import BadData, BadValue
from robustsuite.records.cells import FILE
from robustsuite.records.pictures import Kept

from ..read.runs import Results, read
from ..render.files import put
from ..render.pictures import magnified, png

FORMATS = ("png", "npz")
SAID = ("label", "prediction", "answer", "distance", FILE)
"""Columns of the rows that stand beside a picture's name in pictures.csv."""


def export(folder: Path, out: Path, formats: str = "png", cell: str = "") -> list[Path]:
    """Write a run's kept pictures into `out`: <run id>/<example>-{clean,adversarial,difference}.png, or <run id>.npz.

    PNGs hold 8 bits a value, so that a picture may be answered otherwise once it is saved (the column below_a_bit says
    which were): npz files hold `ids`, `clean` and `adversarial`, float32, as they were judged. cell: the beginning of
    one run id. Returns the files, pictures.csv the first. Raises BadValue for another format, BadData for no pictures.
    """
    if formats not in FORMATS:
        raise BadValue(f"expected png or npz as the format, got {formats!r}; write --format npz")
    run, files, rows = read([folder]), list[Path](), list[dict[str, object]]()
    for run_id in run.known:
        if not run_id.startswith(cell):
            continue
        for i, part in enumerate(run.pictures(run_id)):
            rows += _told(run, run_id, part)
            files += _saved(out, run_id, i, part, formats)
    if not files:
        raise BadData(f"expected kept pictures in {str(folder)!r}, got none; write keep: broken, or all, into a threat")
    return [put(out / "pictures.csv", pd.DataFrame(rows).to_csv(index=False)), *files]


def _saved(out: Path, run_id: str, i: int, part: Kept, formats: str) -> Iterator[Path]:
    if formats == "npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, ids=part.ids, clean=part.clean, adversarial=part.adversarial)
        yield put(out / f"{run_id}{f'-{i}' if i else ''}.npz", stream.getvalue())
        return
    for example, clean, adversarial in zip(part.ids, part.clean, part.adversarial, strict=True):
        shown = {"clean": clean, "adversarial": adversarial, "difference": magnified(clean, adversarial)[0]}
        for name, picture in shown.items():
            yield put(out / run_id / f"{example}-{name}.png", png(picture))


def _told(run: Results, run_id: str, part: Kept) -> Iterator[dict[str, object]]:
    rows, cell = run.examples(run_id).set_index("index"), run.known[run_id]
    for example in part.ids:
        row = rows.loc[example] if example in rows.index else {}
        yield {
            "cell": run_id, **{name: cell[name] for name in ("threat", "attack", "defense", "model", "dataset")},
            "example": int(example), **{name: row[name] for name in SAID if name in row},
        }  # fmt: skip
