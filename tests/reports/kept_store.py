"""A small run with pictures, answers and class names: what galleries, classes and selective risk are read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report_store import Store

from robustsuite.records.pictures import Kept, write_pictures

CLASSES = ["cat", "<img src=x onerror=alert(1)>", "", "crane", "crane"]
"""Names that a report must get through: markup, none, one for two classes."""

LABEL = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
ANSWER = np.array([1, 1, 2, 0, 0, 1, -1, 2, 4, 4])
"""Under attack: image 6 ends without an answer; 3, 5 and 7 stand; 9 was wrong before it was attacked."""

PREDICTION = np.where(np.arange(10) == 9, 4, LABEL)


def answered(*, said: bool = True) -> pd.DataFrame:
    """The rows of ten attacked images of five classes; said: with what was answered."""
    clean, robust = PREDICTION == LABEL, (PREDICTION == LABEL) & (ANSWER == LABEL)
    rows = pd.DataFrame({
        "index": np.arange(10), "label": LABEL, "clean_ok": clean, "robust": robust, "in_budget": True,
        "fooled": clean & ~robust & (ANSWER >= 0), "distance": np.where(clean, 8 / 255, 0.0),
        "queries": 7, "rejected": ANSWER < 0,
    })  # fmt: skip
    return rows.assign(prediction=PREDICTION, answer=ANSWER) if said else rows


def pictures(ids: list[int], side: int = 8) -> Kept:
    """Pictures of these examples: noise, and one value of each moved by 8/255."""
    clean = np.random.default_rng(0).random((len(ids), 3, side, side)).astype(np.float32)
    attacked = clean.copy()
    attacked[:, 0, 0, 0] = np.where(clean[:, 0, 0, 0] > 0.5, -8 / 255, 8 / 255).astype(np.float32) + clean[:, 0, 0, 0]
    return Kept(np.array(ids), clean, attacked)


def keep(store: Store, run_id: str, kept: Kept) -> None:
    """Store these pictures with a cell."""
    folder = store.root / "pictures"
    folder.mkdir(exist_ok=True)
    n, digest = write_pictures(folder / f"{run_id}.parquet", [kept])
    record = store.root / "cells" / run_id / "run.json"
    facts = json.loads(record.read_text("utf-8")) | {"pictures": n, "pictures_sha256": digest}
    record.write_text(json.dumps(facts), "utf-8")


def name_classes(store: Store, classes: list[str], dataset: str = "scenes(n=200)") -> None:
    """Say in sweep.json what the classes are called."""
    file = store.root / "sweep.json"
    facts: dict[str, Any] = json.loads(file.read_text("utf-8"))
    facts["entries"] = {"dataset": {dataset: {"asked": dataset, "sha256": "ab", "classes": classes}}}
    file.write_text(json.dumps(facts), "utf-8")


def build(root: Path, *, side: int = 8, said: bool = True) -> Store:
    """An undefended model under one threat, with pictures of six broken images and of two that stand."""
    store = Store(root)
    run_id = store.add(answered(said=said), attack="pgd", n=10)
    keep(store, run_id, pictures([0, 1, 2, 3, 4, 5, 6, 8], side))
    name_classes(store, CLASSES)
    return store
