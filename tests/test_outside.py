"""Somebody else's plugin: one file in a package of its own, installed beside ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stored import rows as rows_of

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
    for name in ("pyproject.toml", "robustsuite_outside.py", "robustsuite_outside_scenario.py"):
        (source / name).write_text((ROOT / "tests" / "outside" / name).read_text())
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def cli(*words: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "robustsuite.app.cli", *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from robustsuite.app.cli import main
said = []
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    said.append([code or 0, out.getvalue()])
print(json.dumps(said))
"""


def session(*commands: list[str], env: dict[str, str]) -> list[tuple[int, str]]:
    """What each of these commands ends in and prints; in one process, whose start is most of their price."""
    words = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


def test_it_is_listed_and_shown(installed: dict[str, str]) -> None:
    asked = session(["list", "attacks", "--json"], ["show", "straight"], env=installed)
    (_, listed), (_, shown) = asked
    assert {"straight", "pgd"} <= {entry["name"] for entry in json.loads(listed)}
    assert "Steps of the whole budget" in shown


def test_it_sweeps(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    cli("run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "run"), env=installed)
    rows = rows_of(tmp_path / "run")
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


GUESS = """
name: guess
models: ["python:tests.nets:linear"]
data: [{digits: {first: 40}}]
defenses: [none, shrink, {shrink: {factor: 0.8}}]
threats:
  who: {scenario: guessing, access: scores, most: 30, budget: {queries_total: LIMIT}, attacks: [confident, fgsm]}
"""


def test_a_scenario_in_one_file_is_listed_shown_swept_resumed_reported_and_compared(
    installed: dict[str, str], tmp_path: Path
) -> None:
    for name, limit in (("a", "60"), ("b", "60"), ("short", "59")):
        (tmp_path / f"{name}.yaml").write_text(GUESS.replace("LIMIT", limit))
    first, again, short = (tmp_path / name for name in ("a", "b", "short"))
    a, b, c = ([str(folder.with_suffix(".yaml")), "--out", str(folder)] for folder in (first, again, short))
    codes, (listed, shown, planned, _, resumed, _, compared, _, refused) = zip(*session(
        ["list", "scenarios", "--json"], ["show", "guessing"], ["run", a[0], "--dry-run"], ["run", *a], ["run", *a],
        ["run", *b], ["compare", str(first), str(again)],
        ["leaderboard", str(first), "--out", str(tmp_path / "site")], ["run", *c], env=installed,
    ), strict=True)  # fmt: skip
    assert codes == (0,) * 8 + (3,), "one question more than the threat grants in all"
    assert "guessing" in {entry["name"] for entry in json.loads(listed)}
    assert "Shokri" in shown
    assert "9 cells, 6 to compute" in planned
    assert "(0 computed now)" in resumed
    assert "0 significantly worse" in compared
    assert "59 queries" in refused
    rows = {(row["attack"], row["defense"]): row for row in rows_of(first) if row["threat"]}
    assert {row["status"] for (attack, _), row in rows.items() if attack == "confident"} == {"done"}
    assert {row["code"] for (attack, _), row in rows.items() if attack == "fgsm"} == {"scenario"}
    report = (first / "report" / "report.md").read_text()
    assert "Who was in the training set" in report
    scores = (first / "report" / "scores.csv").read_text()
    assert "membership_auc" in scores
    assert "tpr_at_5_percent" in scores
    (board,) = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["boards"]
    assert (board["scenario"], board["metric"], len(board["rows"])) == ("guessing", "membership_auc", 3)
    assert all(row["rank"] for row in board["rows"])
    assert "membership auc" in (tmp_path / "site" / "who.html").read_text()
