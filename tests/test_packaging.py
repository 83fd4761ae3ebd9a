"""What is installed is what is on disk: the package list, the wheel, the entry points, the lock."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from robustsuite.errors import ALONE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("attacks", "defenses", "benchmarks", "reports")


def on_disk() -> set[str]:
    """Every folder with an __init__.py, under its import name."""
    own = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "robustsuite").rglob("__init__.py")}
    plugins = {
        ".".join(("robustsuite", *p.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for p in (ROOT / folder).rglob("__init__.py")
    }
    return own | plugins


def test_every_package_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == on_disk()


def test_every_dependency_is_locked_and_the_lock_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    names = {re.split(r"[=<>\[ ;]", line)[0].lower().replace("_", "-") for line in lock.splitlines() if line[:1] != "#"}
    wanted = PROJECT["project"]["dependencies"] + list(ALONE.values())
    wanted += PROJECT["project"]["optional-dependencies"]["test"]
    assert {re.split(r"[=<>\[ ;]", w)[0].lower() for w in wanted} <= names
    assert "://" not in lock
    assert all("==" in line for line in lock.splitlines() if line and line[0] != "#")


@pytest.mark.slow
def test_the_wheel_holds_the_plugins_and_their_files(tmp_path: Path) -> None:
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # a wheel takes along what an earlier build left there
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in on_disk():
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert {"robustsuite/py.typed", "robustsuite/benchmarks/sweeps/default.yaml"} <= names
    assert "robustsuite/methods/backdoors/calibration.json" in names
    assert any(name.startswith("robustsuite/reports/render/templates/") for name in names)
    pages = {name.rpartition("/")[2] for name in names if "/share/robustsuite/docs/" in name}
    assert pages == {"README.md", *(page.name for page in (ROOT / "docs").iterdir())}
    assert not [name for name in names if name.startswith(("tests/", "attacks/", "robustsuite/benchmarks/peers"))]


OURS = ("attacks", "defenses", "benchmarks", "scenarios")


def test_our_plugins_come_in_by_the_door_of_third_parties() -> None:
    points = PROJECT["project"]["entry-points"]["robustsuite.plugins"]
    assert set(points.values()) == {f"robustsuite.{folder}" for folder in OURS}


def test_the_command_starts_without_torch() -> None:
    code = "import sys, robustsuite.app.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_plugins_are_listed_without_what_takes_seconds_to_load() -> None:
    slow = ("torchvision", "torch._dynamo", "auto_LiRPA", "foolbox", "matplotlib")
    code = f"import sys; from robustsuite.config.registry import names; names('attack'); names('defense'); " \
           f"sys.exit(', '.join(m for m in {slow!r} if m in sys.modules) or 0)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SWEEP = """
name: bare
models: ["python:tests.nets:linear"]
data: [{digits: {first: 4}}]
threats: {linf: {scenario: evasion, budget: {linf: 8/255}, attacks: [fgsm]}}
"""


def test_a_sweep_needs_none_of_the_extras(tmp_path: Path) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    needed = [need for name, needs in extras.items() if name not in ("test", "dev") for need in needs]
    absent = sorted({re.split(r"[^\w-]", need)[0].replace("-", "_") for need in [*needed, *ALONE]})
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    asked = ["run", str(tmp_path / "sweep.yaml"), "--workers", "1", "--out", str(tmp_path / "run")]
    lines = ["import sys", f"sys.modules.update(dict.fromkeys({absent!r}))", f"sys.argv[1:] = {asked!r}"]
    lines += ["from robustsuite.app.cli import main"]
    command = [sys.executable, "-c", "; ".join([*lines, "main()"])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
