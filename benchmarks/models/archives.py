"""Archives that hold a network's graph: what in them would run or open anything is found before torch reads them.

torch.export.load unpickles without weights_only, follows names from the module torch and evaluates size expressions as
code; TorchScript can open files. What stands here lets through operators on tensors, arithmetic and plain tensors.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from robustsuite.errors import BadModel

MEMBERS = re.compile(
    r"[^/]+/(data/(weights|constants)/[\w.]+|models/model\.json|data/sample_inputs/model\.pt|extra/.*|archive_format"
    r"|archive_version|byteorder|version|\.data/[\w.]+|\.format_version|\.storage_alignment)"
)
"""What torch.export.save writes since torch 2.8, without pickled objects and compiled libraries."""

TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.(?!from_file|save|load)\w+\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|torch\.(sym_\w+|_sym_sqrt)|math\.\w+"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|abs|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)

SIZES = re.compile(
    r"[a-z]{1,4}\d+|oo|int_oo|True|False|Integer|Rational|Pow|PowByNatural|Add|Mul|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv"
    r"|IntTrueDiv|FloatTrueDiv|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Abs|ToFloat|TruncToInt|RoundToInt|FloorToInt|CeilToInt"
)
"""Words that size expressions are made of, s31 among them."""

SCRIPT = re.compile(
    r"\b(torch|aten|ops\.aten)\.(from_file|save|load)\b|__torch__\.torch\.classes\.(?!quantized\.)[\w.]*|\bops\.(?!aten|prims?|quantized|torchvision)\w+"
)
"""In TorchScript: operators that open files, classes and operators that come with other libraries. Torch's own packed
weights of 8 bits are tensors."""

HINT = "nothing in it was run; load the network as python:pkg.mod:factory where you trust its origin"


def checked_script(path: Path) -> io.BytesIO:
    """A TorchScript archive, packed anew. Raises BadModel where its code does more than compute on tensors."""
    members = _members(path)
    for name, content in members.items():
        if name.endswith(".py") and (found := SCRIPT.search(content.decode("utf-8", "replace"))):
            raise BadModel(f"expected a script that computes on tensors in {path.name}, got {found[0]!r}; {HINT}")
    return _packed(members)


def checked_export(path: Path) -> io.BytesIO:
    """An exported program, packed anew. Raises BadModel where it holds more than tensors and operators on them."""

    def refused(got: str) -> BadModel:
        return BadModel(f"expected an exported program of plain tensors in {path.name}, got {got[:80]}; {HINT}")

    members = _members(path)
    if any("serialized_exported_program" in name for name in members):
        raise BadModel(f"expected a program of torch 2.8 or later in {path.name}, got an older one; export it again")
    root = next(iter(members)).split("/")[0]
    if odd := next((n for n in members if not MEMBERS.fullmatch(n) or n.split("/")[0] != root), ""):
        raise refused(f"the member {odd!r}")
    for name, content in members.items():
        odd = ""
        try:
            if name.endswith("sample_inputs/model.pt"):
                buffer = io.BytesIO(content)
                torch.load(buffer, map_location="cpu", weights_only=True)
            elif name.endswith(".json"):
                odd = next(_odd(json.loads(content), ""), "")
        except Exception as error:  # pickle, torch and json raise classes of many kinds
            raise refused(f"{name.rpartition('/')[2]} that is no plain data") from error
        if odd:
            raise refused(odd)
    return _packed(members)


def _members(path: Path) -> dict[str, bytes]:
    """Every member, in their order, of the size and checksum that it declares."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise BadModel(f"expected an archive in {path.name}, got a damaged one; fetch or export it again") from error


def _packed(members: dict[str, bytes]) -> io.BytesIO:
    """An archive of these members, so that torch reads what was looked at, however the file was laid out."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    made.seek(0)
    return made


def _odd(value: Any, key: str) -> Iterator[str]:
    """What in a program's words is no name, operator or size; what stands under 'metadata' only tells of its origin."""
    if isinstance(value, dict):
        for inner, held in value.items():
            if inner == "use_pickle" and held:
                yield "a pickled object"
            if key == "range_constraints" and not _size(inner):
                yield f"the size {inner!r}"
            if inner != "metadata":
                yield from _odd(held, inner)
    elif isinstance(value, list):
        for held in value:
            yield from _odd(held, key)
    elif isinstance(value, str) and not WORDS.get(key, _word)(value):
        yield f"{value!r} as {key}"


def _size(text: str) -> bool:
    """Whether a size expression is arithmetic on sizes alone."""
    text = re.sub(r"Symbol\('[a-z]{1,4}\d+'(, \w+=(True|False))*\)", "s0", text)
    words = re.findall(r"[A-Za-z_]\w*", text)
    plain = re.fullmatch(r"[\w\s+\-*/().,<>=!&|~%]*", text) and not re.search(r"\.\s*[A-Za-z_]|[A-Za-z_)]\s*\.", text)
    return bool(plain) and all(SIZES.fullmatch(word) for word in words)


def _word(text: str) -> bool:
    """Nothing that could end a name or a string in the code that torch writes from it."""
    return bool(re.fullmatch(r"[\w.\-+*/(),<>= :\[\]]*", text))


WORDS: dict[str, Callable[[str], object]] = {
    "target": TARGETS.fullmatch,
    "path_name": re.compile(r"(weight|tensor)_\d+").fullmatch,
    "name": re.compile(r"[\w.]*").fullmatch,
    "expr_str": _size,
    "in_spec": lambda text: not re.search(r"defaultdict|Enum|partial|dataclass", text),
    "out_spec": lambda text: not re.search(r"defaultdict|Enum|partial|dataclass", text),
}
"""What the words under a key may be, where they are more or less than plain ones."""
