"""A synthetic run folder: every status, scenario and nasty name a report must get through, from a fixed seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.records.flat import flat
from robustsuite.records.schema import dumped
from robustsuite.records.v1 import upgraded

ATTACKS = [
    "fgsm",
    "pgd",
    "apgd",
    "square",
    "fmn",
    "<script>alert('x')</script>_50%&$",
]
DEFENSES = ["none", "adversarial_finetuning", "rift+randomized_smoothing", "crossmax"]
WORDS = {"pgd": "pgd(steps=50)", "apgd": "apgd(steps=100)", "fmn": "fmn(steps=200)",
         "adversarial_finetuning": "adversarial_finetuning(epochs=5)"}  # fmt: skip
"""What stands in full in the records; one of each, so that tables leave the parameters out."""
CORRUPTIONS = ["gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression"]
SEVERITIES = [1, 3, 5]
N = 200
EPS = 8 / 255
# Share of images a defense holds against the k-th attack, so that worst cases and ties are known by construction.
HOLDS = {"none": 0.02, DEFENSES[1]: 0.45, DEFENSES[2]: 0.43, "crossmax": 0.25}
CLEAN = {"none": 0.95, DEFENSES[1]: 0.85, DEFENSES[2]: 0.82, "crossmax": 0.9}
TITLE = "nightly <b>scenes</b> & friends"
NOTE = "made on the embedded scenes fixture"


class Store:
    """Writes cells the way the suite does, and remembers the rows it wrote under each run id."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, pd.DataFrame] = {}
        self.cells: dict[str, dict[str, Any]] = {}
        root.mkdir(parents=True)
        attacks, defenses = ([WORDS.get(name, name) for name in names] for names in (ATTACKS, DEFENSES))
        sweep = {"name": "nightly", "title": TITLE, "note": NOTE, "models": ["cnn"], "defenses": defenses,
                 "threats": {"linf": attacks, "proof": ["lirpa"]}, "data": ["scenes(n=200)"],
                 "shifts": ["clean", "scenes_c"]}  # fmt: skip
        (root / "sweep.json").write_text(json.dumps(sweep), "utf-8")

    def add(self, rows: pd.DataFrame | None, **cell: Any) -> str:
        """One cell folder; returns its run id.

        Attacks are ensembles of two families, so that no report of a test is about their strength, unless the test
        says `family` and `least`; their cards name no class, unless it says `nist` and `atlas`.
        """
        said = {"family": cell.pop("family", ("gradient", "score")), "least": cell.pop("least", {}),
                "nist": cell.pop("nist", ()), "atlas": cell.pop("atlas", ())}  # fmt: skip
        identity = (
            "threat",
            "model",
            "defense",
            "attack",
            "dataset",
            "shift",
            "corruption",
            "severity",
            "seed",
        )
        base: dict[str, Any] = {
            "sweep": "nightly", "threat": "linf", "scenario": "evasion", "access": "white_box", "goal": "untargeted",
            "budget": "linf(eps=8/255)", "model": "cnn", "defense": "none", "attack": None, "dataset": "scenes(n=200)",
            "shift": None, "corruption": None, "severity": None, "n": N, "seed": 0, "status": "done", "code": None,
            "sentence": None, "same_as": None, "traceback": None, "seconds": 1.25, "peak_bytes": 123456789,
            "forwards": 10000, "backwards": 5000, "queries": 0, "flags": [], "suite_version": "0.1.0",
            "commit": "abc1234", "dirty": False, "packages": {"torch": "2.14.1", "numpy": "2.4.6"}, "device": "cpu",
            "dtype": "float32", "weights_sha256": "ab" * 32, "data_sha256": "cd" * 32,
            "started": "2026-11-21T01:00:00Z", "canaries": {"clamp_gradient_at_bound": 0.0},
        }  # fmt: skip
        row = base | cell
        row["run_id"] = hashlib.sha256(json.dumps([row[k] for k in identity]).encode()).hexdigest()[:16]
        folder = self.root / "cells" / row["run_id"]
        folder.mkdir(parents=True)
        stored = row | {key: WORDS.get(row[key], row[key]) for key in ("attack", "defense")}
        record = upgraded(stored, _kinds(rows) if rows is not None else {})
        if record.attack is not None:
            record = record.model_copy(update={"attack": record.attack.model_copy(update=said)})
        (folder / "run.json").write_text(json.dumps(dumped(record)), "utf-8")
        if rows is not None:
            rows = rows.assign(run_id=row["run_id"])
            rows.to_parquet(folder / "examples.parquet")
            self.rows[row["run_id"]] = rows
        self.cells[row["run_id"]] = row
        return str(row["run_id"])


def _base(n: int = N) -> pd.DataFrame:
    return pd.DataFrame({"index": np.arange(n, dtype=np.int64), "label": np.arange(n) % 10})


def _strength(defense: str) -> tuple[np.ndarray, np.ndarray]:
    """Per image: is it right when clean, and how far (in the norm) its nearest error is."""
    generator = np.random.default_rng(DEFENSES.index(defense))
    order = np.random.default_rng(9).permutation(N)
    clean = order < CLEAN[defense] * N
    distance = EPS * np.where(order < HOLDS[defense] * N, 1.05 + generator.random(N), 0.95 * generator.random(N))
    return clean, distance


def evasion_rows(defense: str, attack: int) -> pd.DataFrame:
    """The rows of one attack: FMN finds every nearest error, the others miss a seeded share of them."""
    clean, distance = _strength(defense)
    generator = np.random.default_rng(100 + attack)
    minimum_norm = ATTACKS[attack].startswith("fmn")
    fooled = ~clean | (distance < (3 if minimum_norm else 1) * EPS) & (generator.random(N) < 0.7 + 0.05 * attack)
    moved = np.where(clean, distance if minimum_norm else EPS, 0.0)
    in_budget = moved <= EPS * (1 + 1e-9)
    rows = _base().assign(clean_ok=clean, robust=clean & ~(fooled & in_budget), in_budget=in_budget, fooled=fooled)
    return rows.assign(
        distance=moved,
        queries=100 * (attack + 1),
        rejected=False,
        overturned=(generator.random(N) < 0.01) & (defense == DEFENSES[2]) & (attack == 0),
    )


def _evasion(store: Store) -> None:
    for defense in DEFENSES:
        for i, attack in enumerate(ATTACKS):
            cell: dict[str, Any] = {"defense": defense, "attack": attack}
            if defense == "crossmax" and attack.startswith("apgd"):
                sentence = "crossmax hides gradients and ships no surrogate; the number would flatter it"
                store.add(None, **cell, status="unmeasured", code="no_surrogate", sentence=sentence)
            elif defense == "crossmax" and attack == "square":
                store.add(None, **cell, status="failed", code="RuntimeError", sentence="the attack raised RuntimeError",
                          traceback="Traceback\n  RuntimeError: <b>boom</b>")  # fmt: skip
            elif defense == DEFENSES[2] and attack == "fgsm":
                flag = {
                    "name": "zero_gradients",
                    "detail": "31 % of the pixels have gradient 0 & <i>saturate</i>",
                }
                store.add(evasion_rows(defense, i), **cell, flags=[flag])
            else:
                store.add(evasion_rows(defense, i), **cell)


def _shift(store: Store) -> None:
    for d, defense in enumerate(DEFENSES):
        clean, _ = _strength(defense)
        shift: dict[str, Any] = {
            "threat": "shift",
            "scenario": "shift",
            "access": "none",
            "budget": None,
            "goal": None,
        }
        shift["defense"] = defense
        store.add(_base().assign(clean_ok=clean, robust=clean), **shift, shift="clean")
        for c, corruption in enumerate(CORRUPTIONS):
            for severity in SEVERITIES:
                generator = np.random.default_rng(1000 * d + 10 * c + severity)
                keeps = clean & (generator.random(N) < 1 - 0.03 * severity * (c + 1) * (0.6 + 0.2 * d))
                store.add(_base().assign(clean_ok=clean, robust=keeps), **shift, shift="scenes_c",
                          corruption=corruption, severity=severity)  # fmt: skip


def _certification(store: Store) -> None:
    for defense in DEFENSES[:3]:
        clean, distance = _strength(defense)
        abstained = np.arange(N) % 20 == 0
        radius = np.where(clean & ~abstained, 0.6 * distance, 0.0)
        label = np.arange(N) % 10
        rows = _base().assign(clean_ok=clean, radius=radius, abstained=abstained)
        rows["prediction"] = np.where(abstained, -1, np.where(clean, label, (label + 1) % 10))
        store.add(rows, threat="proof", scenario="certification", defense=defense, attack="lirpa")
    refusal = "lirpa needs the network's weights; crossmax serves three networks behind a vote"
    store.add(None, threat="proof", scenario="certification", defense="crossmax", attack="lirpa", status="refused",
              code="needs_weights", sentence=refusal)  # fmt: skip


def build(root: Path) -> Store:
    """The whole synthetic run under `root`, broken cells included."""
    store = Store(root)
    _evasion(store)
    _shift(store)
    _certification(store)
    leak = {"threat": "leak", "scenario": "membership", "budget": None, "attack": "lira", "access": "update"}
    twin = store.add(_base(8).assign(psnr=np.linspace(8, 30, 8), label_ok=np.arange(8) < 6), **leak, n=8)
    store.add(None, **leak, n=8, defense="crossmax", status="inert", same_as=twin, code="stage_not_passed",
              sentence="crossmax changes the served model; a shared update never passes it")  # fmt: skip
    store.add(None, **leak, n=8, defense=DEFENSES[1], status="failed", sentence="stopped after 600 s")
    cut = root / "cells" / "cutrunjson"
    cut.mkdir()
    (cut / "run.json").write_text('{"run_id": "cutrunj', "utf-8")
    lost = store.add(evasion_rows("none", 0), attack="lost", threat="linf", seed=7)
    parquet = root / "cells" / lost / "examples.parquet"
    parquet.write_bytes(parquet.read_bytes()[:200])
    (root / "cells" / ".writing-1").mkdir()
    return store


def cell_of(scenario: str, rows: pd.DataFrame, **facts: Any) -> dict[str, Any]:
    """A measured cell of version 0.1.0 as reports hold it."""
    row = {"run_id": "a", "status": "done", "scenario": scenario, "n": len(rows), **facts}
    return flat(upgraded(row, _kinds(rows)))


def _kinds(rows: pd.DataFrame) -> dict[str, str]:
    kinds = {"b": "bool", "i": "int", "f": "float"}
    return {str(name): kinds[kind.kind] for name, kind in rows.dtypes.items()}
