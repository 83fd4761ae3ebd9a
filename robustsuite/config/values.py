"""Whether a value fits a plugin's parameter, as far as its annotation is made of plain types."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, Literal

from robustsuite.config.text import WHOLE

SEVERAL = ("list", "Sequence", "tuple", "Iterable", "dict", "Mapping", "Any", "object")

NUMBERS: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


@cache
def _hint(function: Callable[..., Any], key: str) -> Any:
    """The annotation, resolved; its text where that names what is not there."""
    parameter = inspect.signature(function).parameters[key]
    raw = parameter.annotation
    if raw is parameter.empty:
        return "one" if isinstance(parameter.default, int | float | str) else Any
    try:
        return typing.get_type_hints(inspect.unwrap(function)).get(key, Any)
    except Exception:  # a name for type checkers alone, in this annotation or another
        known: dict[str, Any] = {kind.__name__: kind for kind in (int, float, str, bool)}
        return known.get(str(raw), str(raw))


def _plain(hint: Any) -> list[Any] | None:
    """The plain types and literals that an annotation allows; None where it allows another."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_plain(part) for part in typing.get_args(hint)]
        return None if None in parts else [kind for part in parts for kind in part or ()]
    literal = typing.get_origin(hint) is Literal
    return [hint] if literal or hint in NUMBERS or hint in (None, types.NoneType) else None


def _one(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return any(value == word and type(value) is type(word) for word in typing.get_args(kind))
    if kind in (None, types.NoneType):
        return value is None
    return isinstance(value, NUMBERS[kind]) and (kind is bool or not isinstance(value, bool))


def _several(hint: Any, kind: type = Iterable) -> bool:
    """Whether an annotation names a collection of this kind, or anything at all."""
    if hint is Any or hint is object:
        return True
    if isinstance(hint, str):
        return any(word in hint for word in SEVERAL)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_several(part, kind) for part in typing.get_args(hint))
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, kind) and origin is not str


def fitting(value: Any, function: Callable[..., Any], key: str) -> bool:
    """Whether the function's keyword `key` takes the value; a bool is no number, an int may stand for a float."""
    if isinstance(value, int) and not -WHOLE < value < WHOLE:
        return False
    hint = _hint(function, key)
    if (kinds := _plain(hint)) is not None:
        return any(_one(value, kind) for kind in kinds)
    if isinstance(value, dict):
        return _several(hint, Mapping)
    return _several(hint) or not isinstance(value, list | tuple | set)


def takes(function: Callable[..., Any], key: str) -> str:
    """The annotation in words: 'int', 'float or None', "one of 'a', 'b'"."""
    hint = _hint(function, key)
    if (kinds := _plain(hint)) is None:
        return "one value" if not _several(hint) else "a value that torch can hold"
    return " or ".join(_words(kind) for kind in kinds)


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(kind)))}"
    return "None" if kind in (None, types.NoneType) else str(kind.__name__)


def among(values: object, known: Collection[str]) -> bool:
    """Whether these are words of the known ones."""
    return isinstance(values, tuple | list) and all(isinstance(v, str) and v in known for v in values)


def whole_by_word(values: object) -> bool:
    """Whether this is whole numbers by words."""
    return isinstance(values, Mapping) and all(isinstance(k, str) and type(v) is int for k, v in values.items())
