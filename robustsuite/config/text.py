"""What comes from outside as text or values: yaml within limits, and of values the plain ones alone.

The limits stand in docs/limits.md. A sweep that keeps them is read in a second or so; what does not is one sentence.
"""

from __future__ import annotations

import os
import unicodedata
from itertools import chain
from typing import Any

import yaml

from robustsuite.errors import BadData, BadValue, brief

BYTES = 1 << 20
"""The longest yaml text."""

DEPTH = 40
"""Lists and mappings inside one another."""

NODES = 100_000
"""Values in all, each as often as an alias repeats it."""

CHARACTERS = 10_000
"""The longest word or text among the values."""

WHOLE = 1 << 63
"""Whole numbers lie below this, and above its negative: what torch can hold."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

UNSEEN = {"Cc", "Cs"}
BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def read_yaml(text: str, where: str, dates: bool = False) -> tuple[Any, yaml.Node | None]:
    """The value of a yaml text and its tree; `where` names it in errors. Raises BadData, BadValue.

    Refused are texts beyond the limits, keys written twice, and values other than words, numbers, lists and mappings.
    dates: those without quotes are words as well.
    """
    if len(text) > BYTES:
        raise BadData(f"expected at most {BYTES} characters of yaml in {where}, got {len(text)}; split it")
    try:
        _counted(text, where)
        loader = LOADER(text)
        tree = loader.get_single_node()
        if tree is None:
            return None, None
        _sized(tree, where, {})
        _unlike(tree, where, dates)
        return plain_value(loader.construct_document(tree), where), tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or error
        raise BadData(f"expected yaml in {where}{line}, got {brief(str(said))}; mend it") from error
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:  # a tag that misfits: !!int x
        raise BadData(f"expected yaml values in {where}, got one that cannot be read: {error}; mend it") from error


def _counted(text: str, where: str) -> None:
    """Raises BadData where the text is nested too deeply or has too many values; reads no further than that."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > DEPTH:
            line = f" line {event.start_mark.line + 1}" if event.start_mark else ""
            raise BadData(f"expected at most {DEPTH} levels of nesting in {where}{line}, got more; write it flat")
        if nodes > NODES:
            raise BadData(f"expected at most {NODES} values in {where}, got more; split it")


def _sized(node: yaml.Node, where: str, known: dict[int, int]) -> int:
    """How many values a tree stands for, aliases counted as often as they are used; raises BadData beyond NODES."""
    if known.get(id(node)) == 0:
        raise BadData(f"expected aliases of finished values in {where}, got one inside itself; write it out")
    if id(node) not in known:
        known[id(node)] = 0
        parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        inside = parts if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_sized(part, where, known) for part in inside)
    if known[id(node)] > NODES:
        raise BadData(f"expected at most {NODES} values in {where}, got more by its aliases; write fewer")
    return known[id(node)]


def _unlike(tree: yaml.Node, where: str, dates: bool) -> None:
    """Raises BadData for a key that a mapping has twice, with both lines; dates: makes words of them."""
    waiting, seen = [tree], set()
    while waiting:
        node = waiting.pop()
        if dates and node.tag == "tag:yaml.org,2002:timestamp":
            node.tag = "tag:yaml.org,2002:str"
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            waiting += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            waiting.append(value)
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise BadData(f"expected a word as a key in {where} line {line}, got a list or a mapping; mend it")
            if key.value in lines and key.value != "<<":
                both = f"in line {lines[key.value]} and again in line {line}"
                raise BadData(f"expected each key once in {where}, got {key.value!r} {both}; rename or remove one")
            lines[key.value] = line


def plain_value(value: Any, where: str) -> Any:
    """The value, if it is made of words, numbers, lists and mappings with words as keys, within the limits.

    Tuples and paths may stand for lists and words. Raises BadValue.
    """
    left = NODES

    def walk(part: Any, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEPTH:
            most = f"{NODES} values" if left < 0 else f"{DEPTH} levels of nesting"
            raise BadValue(f"expected at most {most} in {where}, got more; split it")
        if isinstance(part, dict):
            for key, inside in part.items():
                if key is None or isinstance(key, bool):  # what yaml takes `on`, `no` and `~` for
                    raise BadValue(f"expected a word as a key in {where}, got {key}; put it in quotes")
                _leaf(key, where, "a key")
                walk(inside, depth + 1)
        elif isinstance(part, list | tuple):
            for inside in part:
                walk(inside, depth + 1)
        else:
            _leaf(part, where, "a value")

    walk(value, 0)
    return value


def _leaf(part: Any, where: str, role: str) -> None:
    """Raises BadValue for what is no word and no number, or cannot be shown, stored or computed with."""
    if isinstance(part, str):
        if len(part) > CHARACTERS:
            raise BadValue(f"expected at most {CHARACTERS} characters as {role} in {where}, got {len(part)}; cut it")
        if odd := next((c for c in part if unprintable(c)), ""):
            got = f"U+{ord(odd):04X} in {brief(part)}"
            raise BadValue(f"expected {role} without control characters in {where}, got {got}; remove it")
    elif isinstance(part, int) and not -WHOLE < part < WHOLE:
        raise BadValue(f"expected whole numbers below 2^63 in {where}, got one of {part.bit_length()} bits; lower it")
    elif not isinstance(part, int | float | os.PathLike | None):
        kind = type(part).__name__
        raise BadValue(f"expected words, numbers, lists, mappings in {where}, got a {kind} as {role}; put it in quotes")


def unprintable(character: str) -> bool:
    """Whether a terminal would act on it, or nobody could see it; line ends and tabs are none."""
    return character not in "\n\t" and (unicodedata.category(character) in UNSEEN or character in BIDI)
