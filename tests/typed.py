"""mypy over the packages under their import names, through a folder of links (`make check` runs it)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VIEW = ROOT / "build" / "view"


def main() -> int:
    """Link the five folders as robustsuite.* and run mypy --strict on them."""
    package = VIEW / "robustsuite"
    package.mkdir(parents=True, exist_ok=True)
    for link in package.iterdir():
        link.unlink()
    for entry in (ROOT / "robustsuite").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for folder in ("attacks", "defenses", "benchmarks", "reports"):
        (package / folder).symlink_to(ROOT / folder)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--exclude", "peers/", "-p"]
    return subprocess.run([*command, "robustsuite"], cwd=VIEW).returncode


if __name__ == "__main__":
    sys.exit(main())
