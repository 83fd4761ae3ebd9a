"""What a number was made with: versions, commit, framework canaries."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustsuite import __version__
from robustsuite.config.identity import plugins
from robustsuite.integrity import probes
from robustsuite.records.schema import Made, plain

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "pyautoattack", "torchattacks", "auto-LiRPA", "scipy")


def collect() -> Made:
    """Suite version, commit and whether the checkout was changed, versions of plugins and packages, canaries."""
    packages = {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}}
    return Made(
        suite_version=__version__, **commit(), packages=packages, plugins=plugins(), canaries=plain(probes.canaries())
    )


def commit() -> dict[str, Any]:
    """The suite's own commit where it runs from a checkout; None from an installed wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        head = _git(root, "rev-parse", "HEAD")
        return {"commit": head, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def installed(name: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
