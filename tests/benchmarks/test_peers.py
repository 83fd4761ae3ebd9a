"""The scripts that play ours beside the peers': what they import of ours is there."""

import ast
import importlib
from pathlib import Path

import pytest

import robustsuite.benchmarks

SCRIPTS = sorted(Path(next(iter(robustsuite.benchmarks.__path__))).glob("**/*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_script_imports_of_ours_is_there(script: Path) -> None:
    asked = [
        (node.module, name.name)
        for node in ast.walk(ast.parse(script.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustsuite")
        for name in node.names
    ]
    for module, name in asked:
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")
