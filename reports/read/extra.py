"""What a scenario's plugin adds to reports: functions it marks, named by records as 'module:function'.

A record is untrusted, so a name is followed only into packages that are installed as plugins of this suite, and only to
a function that carries the mark.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from robustsuite.errors import BadData

F = TypeVar("F", bound=Callable[..., Any])


def part(function: F) -> F:
    """Mark a function that reports may call: (run, scores) -> Part for sections, (rows) -> float for a score."""
    function.for_reports = True  # type: ignore[attr-defined]
    return function


def trusted(name: str) -> Callable[..., Any]:
    """The marked function 'module:function' of an installed plugin. Raises BadData for anything else."""
    module, _, attribute = name.partition(":")
    roots = {"robustsuite", *(point.value.partition(":")[0] for point in entry_points(group="robustsuite.plugins"))}
    if not any(module == root or module.startswith(f"{root}.") for root in roots):
        raise BadData(f"expected the plugin that {name!r} belongs to, got none installed; install it")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise BadData(f"expected {module!r} to import, got {error}; reinstall the plugin") from error
    if not getattr(function, "for_reports", False):
        raise BadData(f"expected a function under @part at {name!r}, got none; update the plugin")
    return function  # type: ignore[return-value]
