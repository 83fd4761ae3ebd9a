"""Somebody else's plugin: one file in a package of its own, installed beside ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWEEP = """
name: outside
models: ["python:tests.nets:linear"]
data: [{digits: {first: 40}}]
defenses: [none, shrink, {shrink: {factor: 0.8}}]
threats:
  linf: {scenario: evasion, budget: {linf: 0.1}, attacks: [straight, {straight: {steps: 5}}, fgsm]}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed, as a user would: by its build backend."""
    folder = tmp_path_factory.mktemp("outside")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    for name in ("pyproject.toml", "robustsuite_outside.py"):
        (source / name).write_text((ROOT / "tests" / "outside" / name).read_text())
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def cli(*words: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "robustsuite.cli", *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_and_shown(installed: dict[str, str]) -> None:
    names = {entry["name"] for entry in json.loads(cli("list", "attacks", "--json", env=installed))}
    assert {"straight", "pgd"} <= names
    assert "Steps of the whole budget" in cli("show", "straight", env=installed)


def test_it_sweeps(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    cli("run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "run"), env=installed)
    rows = [json.loads(f.read_text()) for f in (tmp_path / "run" / "cells").glob("*/run.json")]
    done = {(row["attack"], row["defense"]) for row in rows if row["status"] == "done" and row["attack"]}
    assert done == {
        (attack, defense)
        for attack in ("straight", "straight(steps=5)", "fgsm")
        for defense in ("none", "shrink", "shrink(factor=0.8)")
    }


def test_it_passes_the_conformance_suite(installed: dict[str, str]) -> None:
    suite = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_conformance.py",
        "-k",
        "straight or shrink",
    ]
    done = subprocess.run(suite, cwd=ROOT, capture_output=True, text=True, env=installed, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count(".") >= 10
