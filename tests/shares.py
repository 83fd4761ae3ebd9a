"""Small sweeps with every scenario, and what of a run must be the same bytes whoever computed it."""

from pathlib import Path
from typing import Any

EVERY: dict[str, Any] = {
    "name": "every",
    "models": ["recipe:cnn_2c2f?epochs=40"],
    "data": [{"digits": {"first": 40}}],
    "defenses": ["none", {"randomized_smoothing": {"sigma": 0.1, "n": 4, "alpha": 0.2}}],
    "threats": {
        "linf": {
            "scenario": "evasion", "budget": {"linf": 0.05},
            "attacks": ["fgsm", {"pgd": {"steps": 5, "restarts": 2}}, {"apgd": {"steps": 5}}],
        },
        "scores": {
            "scenario": "evasion", "access": "scores", "budget": {"linf": 0.05}, "attacks": [{"square": {"steps": 10}}],
        },
        "labels": {
            "scenario": "evasion", "access": "labels", "budget": {"l2": 0.5, "queries": 30},
            "attacks": [{"cgba": {"queries": 30, "n0": 5, "first": 20}}],
        },
        "near": {"scenario": "evasion", "budget": {"l2": 0.5}, "attacks": [{"fmn": {"steps": 5}}]},
        "proof": {
            "scenario": "certification", "budget": {"l2": 0.1}, "attacks": [{"smoothing": {"n": 64, "n0": 10}}],
        },
        "backdoor": {
            "scenario": "poisoning", "access": "train_set", "budget": {"poison_rate": 0.1}, "attacks": ["badnets"],
        },
        "useless": {
            "scenario": "unlearnable", "access": "train_set", "budget": {"poison_rate": 1.0}, "attacks": ["cuda"],
        },
        "leak": {
            "scenario": "inversion", "access": ["weights", "update"],
            "budget": {"batch": 3, "trained": False}, "attacks": [{"idlg": {"iterations": 3, "first": 20}}],
        },
    },
}  # fmt: skip


SHIFTED: dict[str, Any] = {
    "name": "shifted",
    "models": ["recipe:conv_small?epochs=2"],
    "data": [{"scenes": {"first": 40, "train": 200}}],
    "shifts": [{"imagenet_c": {"corruptions": ["gaussian_noise"], "severities": [3]}}],
    "defenses": ["none", {"randomized_smoothing": {"sigma": 0.1, "n": 4, "alpha": 0.2}}],
    "threats": {},
}  # fmt: skip
"""The one scenario that digits are too small for."""


def rows(run: Path) -> dict[str, bytes]:
    """Every examples.parquet, and the scores of the report, by name."""
    found = {f.parent.name: f.read_bytes() for f in sorted((run / "cells").glob("[!.]*/examples.parquet"))}
    return found | {"scores.csv": (run / "report" / "scores.csv").read_bytes()}
