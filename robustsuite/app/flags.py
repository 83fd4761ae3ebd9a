"""What flags say, as values; every one that does not fit is a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustsuite.serve.data import InputSpace


def entry(text: str, such: str = "{pgd: {steps: 50}}") -> Any:
    """A flag's value as yaml: 'pgd' or '{pgd: {steps: 50}}'. Raises BadValue."""
    from robustsuite.config.text import read_yaml
    from robustsuite.errors import BadData, BadValue, quoted

    try:
        return read_yaml(text, "a flag")[0]
    except BadData as error:
        raise BadValue(f"expected yaml such as '{such}', got {quoted(text)}; mend it: {error}") from error


def budget(text: str) -> Any:
    """A budget's flag: 'linf: 8/255', or a number alone for linf. Raises BadValue."""
    found = entry(text, "linf: 8/255")
    return {"linf": found} if isinstance(found, str | int | float) else found


def space(text: str) -> InputSpace:
    """Channels, height, width and classes, as 3x32x32x10. Raises BadValue."""
    from robustsuite.errors import BadValue, quoted
    from robustsuite.serve.data import InputSpace

    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and 0 < int(part) < 1 << 16 for part in parts):
        got = quoted(text) if text else "none"
        raise BadValue(f"expected data, or --space as channels x height x width x classes, got {got}; write 3x32x32x10")
    return InputSpace(*map(int, parts))


def device(name: str) -> str:
    """A device of this machine; the first GPU, else the CPU, for auto. Raises BadValue."""
    import torch

    from robustsuite.errors import BadValue, quoted

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there or (colon and not (index.isdecimal() and len(index) < 4)):
        raise BadValue(f"expected a device such as cpu, cuda, cuda:1 or mps, got {quoted(name)}; or leave it out")
    if not there[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise BadValue(f"expected a device of this machine, got {name!r}; use --device auto")
    return name
