"""What a number depends on besides weights and pictures: sources of plugins and factories, versions of libraries.

A plugin or a network is known by the source of its module where that is somebody's working copy, and by its
distribution's version where it is installed. A source is hashed once, when it is first asked for: a file that is edited
afterwards is not yet what runs.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any

from torch import nn

from robustsuite import __version__

GROUP = "robustsuite.plugins"
"""The entry points by which packages name their plugins."""

_hashed: dict[int, tuple[object, str]] = {}


def source_of(module: str) -> str:
    """16 hex digits of the sha256 of a module's source, '' where there is none to read.

    Kept for as long as the module stays loaded: a reload makes a new spec and so a new hash.
    """
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None or not str(spec.origin or "").endswith(".py"):
        return ""
    if id(spec) not in _hashed:
        try:
            text = Path(str(spec.origin)).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        digest = hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
        _hashed[id(spec)] = spec, digest  # the spec is kept, so that its id stays its own
    return _hashed[id(spec)][1]


@cache
def plugins() -> dict[str, str]:
    """Every installed distribution that brings plugins, with its version."""
    found = {"robustsuite": __version__}
    for point in entry_points(group=GROUP):
        if point.dist is not None:
            found.setdefault(point.dist.name, point.dist.version)
    return dict(sorted(found.items()))


@cache
def distribution_of(module: str) -> str:
    """'name version' of the distribution whose plugins a module holds; '' for a function from anywhere else."""
    if module.partition(".")[0] == "robustsuite":
        return f"robustsuite {__version__}"
    for point in entry_points(group=GROUP):
        root = point.value.partition(":")[0]
        if point.dist is not None and (module == root or module.startswith(f"{root}.")):
            return f"{point.dist.name} {point.dist.version}"
    return ""


def behaviour_of(net: nn.Module, modules: Iterable[str] = ()) -> dict[str, str]:
    """What the answers of `net` depend on besides its weights, by module or package.

    For each class of its layers and each of `modules`: the package's version where it is installed, else the hash of
    the module's source. A network that carries its own code (a traced graph, a script) is known by that as well.
    """
    found: dict[str, str] = {}
    for module in {type(layer).__module__ for layer in net.modules()} | set(modules):
        root = module.partition(".")[0]
        if root != "torch":  # every row names its version of torch
            found |= {module: source} if (source := _working_copy(module)) else {root: installed(root)}
    code = [str(layer.code) for layer in net.modules() if isinstance(getattr(layer, "code", None), str)]
    if code:
        found["code"] = hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]
    return dict(sorted(found.items()))


def _working_copy(module: str) -> str:
    """The hash of a module's source, '' where it lies among the installed packages."""
    origin = str(getattr(getattr(sys.modules.get(module), "__spec__", None), "origin", None) or "")
    if any(origin.startswith(f"{folder}/") for folder in _installed_in()):
        return ""
    return source_of(module)


@cache
def _installed_in() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({str(Path(paths[name])) for name in ("purelib", "platlib", "stdlib")})


@cache
def installed(package: str) -> str:
    """'name version' of what an importable package belongs to; its own name where nothing says."""
    for name in _distributions().get(package, [package]):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return package


@cache
def _distributions() -> dict[str, Any]:
    return dict(packages_distributions())
