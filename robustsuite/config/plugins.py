"""The modules of installed plugin packages, found by their entry points; one that is broken takes nothing else down."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType

from robustsuite.config.identity import GROUP
from robustsuite.errors import cause


@dataclass(frozen=True)
class Broken:
    """A plugin module that is left out, and why."""

    package: str
    module: str
    why: str

    def __str__(self) -> str:
        return f"left out {self.module} of the plugin package {self.package}, got {self.why}; mend or uninstall it"


_broken: dict[str, Broken] = {}


def left_out() -> list[Broken]:
    """The plugin modules that could not be imported or whose cards do not fit, of those that were looked for."""
    return list(_broken.values())


def plugins() -> list[ModuleType]:
    """Every module of every installed plugin package that can be imported; `left_out` are the others."""
    points = sorted(entry_points(group=GROUP), key=lambda p: p.value)
    return [module for point in points for module in _modules(point.name, point.value)]


def leave_out(module: str, why: str) -> None:
    """Say that a module that was found is of no use."""
    _broken.setdefault(module, Broken(module.partition(".")[0], module, why))


def _modules(package: str, name: str) -> Iterator[ModuleType]:
    """The module of this name and those below it; what cannot be imported is left out, and said."""
    if name in _broken:  # what failed once is not run again
        return
    try:
        module = importlib.import_module(name)
        below = list(pkgutil.iter_modules(getattr(module, "__path__", []), name + "."))
    except (Exception, SystemExit) as error:  # anybody's code
        _broken[name] = Broken(package, name, cause(error))
        return
    yield module
    for info in below:
        if not info.name.rsplit(".", 1)[-1].startswith("_") and ".peers" not in info.name:
            yield from _modules(package, info.name)
