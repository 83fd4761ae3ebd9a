"""The house rules as tests: who may import whom, how long a file may grow, what may not stand in the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("robustsuite", "attacks", "defenses", "benchmarks", "reports")
FILES = [f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py"))]
PLUGINS = [f for f in FILES if f.relative_to(ROOT).parts[0] in ("attacks", "defenses")]


def imports(file: Path, *, inside_functions: bool = True) -> set[str]:
    """Modules that a file imports, relative ones made absolute."""
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if inside_functions else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["robustsuite", *file.relative_to(ROOT).parent.parts] if node.level else []
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("file", [f for f in FILES if f.relative_to(ROOT).parts[0] == "robustsuite"], ids=str)
def test_the_core_imports_no_plugin(file: Path) -> None:
    plugins = tuple(f"robustsuite.{folder}" for folder in ("attacks", "defenses", "benchmarks"))
    assert not {m for m in imports(file) if m.startswith(plugins)}
    assert not {m for m in imports(file, inside_functions=False) if m.startswith("robustsuite.reports")}


ROOMS = (
    "", "maths", "records", "config", "serve", "methods", "methods.adaptation", "methods.evasion", "methods.backdoors",
    "methods.federated", "methods.verification", "integrity", "scenarios", "scenarios.adaptation", "scenarios.parsing",
    "scenarios.membership", "scenarios.extraction", "scenarios.scan", "scenarios.explanation", "engine",
    "reports.render", "reports.read", "reports.measure", "reports.sections", "reports.sections.every",
    "reports.sections.evasion", "reports.across", "reports.answers", "reports.examples", "reports.boards",
    "reports.publish", "reports", "app",
)  # fmt: skip
"""Bottom to top: a room imports itself and those before it, inside functions and for types too."""


def room_of(module: str) -> int:
    """The place of a module's room in that order; plugins have none and stand above."""
    parts = module.split(".")[1:]
    if parts[:1] in (["attacks"], ["defenses"], ["benchmarks"]):
        return len(ROOMS)
    return next(ROOMS.index(room) for n in range(len(parts), -1, -1) if (room := ".".join(parts[:n])) in ROOMS)


@pytest.mark.parametrize("file", [f for f in FILES if f not in PLUGINS], ids=lambda f: str(f.relative_to(ROOT)))
def test_no_room_imports_one_above_it(file: Path) -> None:
    folder = file.relative_to(ROOT).parent.parts
    own = room_of(".".join(folder if folder[0] == "robustsuite" else ("robustsuite", *folder)))
    assert not [m for m in imports(file) if m.split(".")[0] == "robustsuite" and room_of(m) > own]


def test_every_room_has_a_few_files_and_a_place_in_the_order() -> None:
    folders = {f.parent for f in FILES if f.relative_to(ROOT).parts[0] in ("robustsuite", "reports")}
    names = {".".join(p for p in folder.relative_to(ROOT).parts if p != "robustsuite"): folder for folder in folders}
    assert set(names) == set(ROOMS)
    for name, folder in names.items():
        files = [f for f in folder.glob("*.py") if f.name != "__init__.py"]
        assert name in ("", "reports") or 2 <= len(files) <= 16, f"{name}: {len(files)} files"


@pytest.mark.parametrize("file", PLUGINS, ids=str)
def test_a_plugin_imports_no_other_plugin(file: Path) -> None:
    theirs = [m for m in imports(file) if m.startswith(("robustsuite.attacks.", "robustsuite.defenses."))]
    own_private = f"robustsuite.{'.'.join(file.relative_to(ROOT).parent.parts)}._"
    assert not [m for m in theirs if not m.startswith(own_private) and not m.endswith(file.parent.name)
                and "._" not in m]  # fmt: skip


@pytest.mark.parametrize("file", sorted((ROOT / "reports").rglob("*.py")), ids=str)
def test_reports_import_no_torch(file: Path) -> None:
    assert not {m for m in imports(file) if m.split(".")[0] == "torch"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text()
    peers = "peers" in file.parts
    assert text.count("\n") <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= (80 if peers else 62), node.name
            if not file.name.startswith("commands_"):  # there a parameter is a flag
                assert len(node.args.args) <= 9, node.name


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_public_functions_say_what_they_do(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree) or not tree.body
    for node in tree.body:
        overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in getattr(node, "decorator_list", []))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not (node.name.startswith("_") or overload):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_global_randomness_no_unsafe_load_no_machine_path(file: Path) -> None:
    text = file.read_text()
    if "peers" not in file.parts and "fork_rng(" not in text:  # a peer that reads the global state gets a copy of it
        assert not re.search(r"torch\.manual_seed\(|np\.random\.(seed|rand|normal)|random\.seed\(", text)
        assert not re.search(r"\bshared\b.*(models|data)/", text)
    assert not re.search(r"torch\.load\((?![^)]*weights_only=True)", text.replace("\n", " "))
    assert not re.search(r"[\"'(= ]/(work|root|tmp|home)/", text)
    assert not re.search(r"\bTODO\b|\bFIXME\b|except:\s*$", text, re.MULTILINE)


def test_no_text_file_names_a_registry_or_a_machine() -> None:
    for file in [*ROOT.glob("*.*"), *ROOT.glob("docs/*"), ROOT / "Makefile"]:
        if file.is_file() and file.suffix not in (".png", ".zip"):
            text = file.read_text(errors="ignore")
            assert not re.search(r"files\.pythonhosted|/work/|index-url|/opt/pypi", text), file
