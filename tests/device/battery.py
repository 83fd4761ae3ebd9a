"""The whole registry as small sweeps: each plugin in one cell or two, whatever its kind, played on any device.

A plugin that is registered has its sweep here by its card alone: its place, what it needs, its norms and goals. Numbers
of steps, queries, epochs and samples that its parameters name are cut to a few.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq

from robustsuite.config.registry import Card, cards
from robustsuite.engine import audit
from robustsuite.engine.execute import Progress, execute, ordered
from robustsuite.engine.plan import plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from robustsuite.methods.federated import fedsgd
from robustsuite.records.cells import read_cell
from robustsuite.records.flat import flat
from robustsuite.serve.data import load_data
from tests.device.pretended import Pretended
from tests.toys import present

REAL = os.environ.get("ROBUSTSUITE_DEVICE", "")
"""A real device's name: then the battery runs there. Otherwise on the pretended one."""

FEW = {
    "steps": 5, "iterations": 4, "epochs": 1, "queries": 60, "searches": 1, "draws": 6, "n": 200, "n0": 32,
    "max_iterations": 4, "binary_search_steps": 2, "n_queries": 20, "rounds": 1, "updates": 2, "overlays": 8,
    "mask_epochs": 1, "surrogate_epochs": 1, "auxiliary_epochs": 1, "ascent_epochs": 1, "head_epochs": 1,
    "isolation_epochs": 1, "teacher_epochs": 1,
    "nb_sample": 8, "num_iter_set": 2, "pictures": 64, "inf_batch": 16, "popsize": 4, "fpr": 0.1, "probes": 20,
    "n_targets": 2, "severities": [3], "masks": 12, "mse_epochs": 1, "stability_epochs": 1, "components": 12,
    "nodes": 16,
}  # fmt: skip
"""What parameters of these names are cut to."""

RECIPE = "recipe:scenes_resnet?epochs=1"
OWN = {
    "fmn": {"steps": 8}, "autoattack": {"version": "standard"}, "foolbox:hopskipjump": {"queries": 200},
    "foolbox:hopskipjump_targeted": {"queries": 200}, "torchattacks:JSMA": {"theta": 0.5},
    **{name: {"queries": 250} for name in ("cgba", "cgba_h", "rays", "surfree", "geoda")},
    "imagenet_c": {"corruptions": "all"},
    "mga_transfer": {"surrogates": RECIPE}, "quscore": {"surrogates": RECIPE}, "randomized_smoothing": {"n": 8},
    "transfer": {"surrogates": RECIPE, "transforms": ["ni", "di", "ti", "si", "admix", "vt"]}, "csgld": {"samples": 1},
    "cema": {"teacher": RECIPE, "batch": 4, "low": 0.0, "high": 1.0, "different": 2.0}, "cotta": {"views": 2},
    "eata": {"samples": 16, "batch": 8}, "rmt": {"samples": 16, "batch": 8}, "rotta": {"size": 8, "every": 4},
}  # fmt: skip
"""What single plugins need besides."""

EPS = {"linf": "8/255", "l2": 0.5, "l1": 4.0, "l0": 12, "patch": 0.05, "frame": 1, "spatial": 30, "flow": 0.5,
       "elastic": 1.0, "colour": 0.1, "fog": 0.4, "snow": 0.3, "jpeg": 0.5}  # fmt: skip
DATA = {"scenes": {"train": 160, "val": 300, "test": 8}}
OF_ONE = {"cifar10_c", "shortcuts"}
"""Shift sets made of one data set's own pictures alone, which is not the battery's."""

NEEDS_A_FILE = {"adversarial_distillation"}  # a file of similarities; its twin without one is played
TOGETHER = 12
"""Attacks in one sweep."""

LONG = {"autoattack", "torchattacks.AutoAttack", "torchattacks.SparseFool", "bab"}
"""Played alone, as heavier checks."""

LATER = {
    *LONG, "self_ensemble", "strip", "scaleup", "rift", "crossmax", "badexpert", "fine_pruning", "neural_cleanse",
    "randomized_smoothing", "spectral_signatures", "activation_clustering", "coin", "soteria", "lgv", "csgld", "top_k",
    "score_noise", "reverse_sigmoid", "smoothadv", "consistency", "denoised_smoothing", "accelat", "prototype_network",
    "latent_quantisation", "bn_adapt", "tent", "eata", "cotta", "sar", "rotta", "rmt", "cema", "anp", "nad",
    "ibau", "ebyd", "abl", "nab", "ibd_psc", "sentinet",
    "window_cascade", "elr", "cutmix", "adversarial_training", "shortcut_augmentation", "last_layer_ensemble",
    "last_layer_retraining",
}  # fmt: skip
"""Played behind the marker for heavier checks, as are the packages' attacks, those on gradients that are shared,
parsing, membership, extraction and adaptation, and on the pretended device evasion, where tests/device/waits.py plays
each attack of ours, and poisoning."""


def given(card: Card) -> Any:
    """The plugin's yaml entry, its numbers cut to a few."""
    few = {key: FEW[key] for key in card.parameters if key in FEW}
    few |= {"surrogate": RECIPE} if "surrogate" in card.parameters else {}
    return {card.name: {**few, **OWN.get(card.name, {})}}


def threat(card: Card, norm: str = "") -> dict[str, Any]:
    """The threat that grants the attack what it needs and no more."""
    access = [str(kind.name).lower() for kind in card.needs]
    goal = {"untargeted": "untargeted", "targeted": "targeted", "ordered_topk": {"ordered_topk": 2}}[card.goals[0]]
    ball = {norm: "inf" if card.minimum_norm and norm == "l2" else EPS.get(norm)}
    budgets: dict[str, dict[str, Any]] = {
        "poisoning": {"poison_rate": 0.1}, "unlearnable": {"poison_rate": 1.0}, "scan": {},
        "explanation": {},
        "inversion": {"batch": 2, "trained": False}, "parsing": {"linf": "8/255"}, "membership": {"queries": 500},
        "extraction": {"linf": "8/255", "queries_total": 96},
        "adaptation": {norm: EPS[norm], "share": 0.5} if norm else {},
        "certification": {norm: {"linf": "0.5/255", "l2": 0.1}.get(norm)},
    }  # fmt: skip
    keys: dict[str, dict[str, Any]] = {
        "poisoning": {"target": 0}, "evasion": {"goal": goal}, "extraction": {"clone": "recipe:cnn_3_relu"},
        "membership": {"pool": 60, "subjects": 20, "shadows": 4},
        "parsing": {"evasion": "fgsm", "shadows": "recipe:cnn_{kernel}_{activation}?epochs=1", "pictures": 60},
        "adaptation": {"batch": 4, "shift": {"imagenet_c": {"corruptions": ["fog", "contrast"]}}},
    }  # fmt: skip
    return {"scenario": card.place, "access": access, "budget": budgets.get(card.place, ball),
            "attacks": [given(card)], **keys.get(card.place, {})}  # fmt: skip


ASKED = {
    "pgd": {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": [{"pgd": {"steps": 4, "restarts": 2}}]},
    "square": {"scenario": "evasion", "access": "scores", "budget": {"linf": "8/255"},
               "attacks": [{"square": {"steps": 6}}]},
}  # fmt: skip
"""Whom a defense is asked by: one attack with gradients, one without."""

POISON = {"scenario": "poisoning", "access": "train_set", "budget": {"poison_rate": 0.1}, "target": 0,
          "attacks": ["badnets"]}  # fmt: skip
LEAK = {"scenario": "inversion", "access": ["weights", "update"], "budget": {"batch": 2, "trained": False},
        "attacks": [{"inverting_gradients": {"iterations": 3}}]}  # fmt: skip
STREAM = {"scenario": "adaptation", "batch": 4, "shift": {"imagenet_c": {"corruptions": ["fog", "contrast"]}}}
FIRST = {"crossmax": [{"self_ensemble": {"epochs": 1}}],
         "randomized_smoothing": [{"gaussian_augmentation": {"epochs": 1}}],
         "window_cascade": [{"lgv": {"epochs": 1, "snapshots": 2}}]}  # fmt: skip
"""The stage before, for defenses that are published with one."""


def sweeps() -> Iterator[tuple[str, dict[str, Any]]]:
    """(title, what it adds to the base sweep): every plugin whose package is here, several in a sweep where they can.

    Attacks that meet the same served system share one sweep, so that it is served and probed once.
    """
    here = [c for c in cards().values() if present(c)]
    for place in dict.fromkeys(c.place for c in here if c.kind == "attack"):
        mine = [c for c in here if c.kind == "attack" and c.place == place and c.name not in NEEDS_A_FILE]
        threats = [(f"{c.name}-{norm}".rstrip("-").replace(":", "."), threat(c, norm)) for c in mine
                   for norm in c.norms or ("",)]  # fmt: skip
        for part in batched([t for t in threats if t[0].split("-")[0] not in LONG], TOGETHER):
            yield f"{place} {part[0][0]} to {part[-1][0]}", {"threats": dict(part)}
        for name, one in (t for t in threats if t[0].split("-")[0] in LONG):
            yield name, {"threats": {name: one}}
    for card in here:
        if card.kind == "defense":
            threats_of = {"leak": LEAK} if card.place == "share" else ASKED
            threats_of = {"stream": STREAM} if card.adapts else threats_of
            threats_of |= {"p": POISON} if (card.learns and not card.adapts) or card.place == "harden" else {}
            yield card.name, {"defenses": [[*FIRST.get(card.name, []), given(card)]], "threats": threats_of}
    yield "shifts", {"shifts": [given(c) for c in here if c.kind == "shift" and c.name not in OF_ONE]}


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def later(title: str) -> bool:
    """Whether this sweep is a heavier check."""
    heavy = ("evasion torchattacks.", "inversion", "parsing", "membership", "extraction", "adaptation")
    return title.split("-")[0] in LATER or title.startswith(heavy if REAL else ("evasion", "poisoning", *heavy))


def base() -> dict[str, Any]:
    """A net trained for an epoch on a few scenes."""
    return {"name": "battery", "models": [RECIPE], "data": [DATA], "defenses": ["none"], "threats": {}}


LOADED = cache(lambda spec: load_data(json.loads(spec)))
"""A data set by its yaml entry, read once for both devices."""

SMALL_AUDIT = {"DRAWS": 5, "AUDITED": 6}
"""How much of an audit's search is played."""


def played(
    sweep: dict[str, Any], device: str, folder: Path, *, audited: bool = False
) -> dict[str, tuple[dict[str, Any], dict[str, list[Any]]]]:
    """run_id -> the cell's row, its audit in it if there was one, and its columns. Planned on the CPU, as ever."""
    store = Store(folder)
    with patch("robustsuite.engine.axes.load_data", lambda spec: LOADED(json.dumps(spec))):
        cells = list(ordered(plan(sweep_of({**base(), **sweep}, "the battery"), device, None)))
    there = Pretended() if device != "cpu" and not REAL else nullcontext()
    with there, patch.object(fedsgd, "Rounds", partial(fedsgd.Rounds, rounds=1)):
        execute(cells, store, Progress(), width=16)
        with patch.multiple(audit, **SMALL_AUDIT):
            audit.audit(cells if audited else [], store, width=16)
    found = {}
    for file in sorted(store.cells.glob("*/run.json")):
        table = file.with_name("examples.parquet")
        columns = pq.read_table(table).to_pydict() if table.is_file() else {}
        row = {k: v for k, v in flat(read_cell(file.parent)).items() if k != "record"}
        if (checked := file.with_name("audit.json")).is_file():
            row["audit"] = json.loads(checked.read_text())
        found[row["run_id"]] = row, columns
    return found


def cache_at(folder: Path) -> AbstractContextManager[Any]:
    """Trainings are kept in this folder inside."""
    return patch.dict(os.environ, ROBUSTSUITE_CACHE=str(folder))
