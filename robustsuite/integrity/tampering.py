"""What an attack may not touch, compared before and after it: networks, the names a judgement goes through, modes.

It is put back, and the attack that changed it is named. What peers' attacks are used to doing to a network (training
mode, requires_grad, hooks, buffers) is put back in silence, and so is what a network changes as it answers.
"""

from __future__ import annotations

import builtins
import copy
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.errors import UsageError
from robustsuite.integrity.modes import MODES, restored
from robustsuite.serve.models import services
from robustsuite.serve.oracle import preserved

ROOMS = ("errors", "maths", "records", "config", "serve", "methods", "integrity", "scenarios", "engine")
"""Of ours, those that a judgement goes through: everything below reports but the plugins."""

OTHERS: tuple[ModuleType, ...] = (
    builtins, copy, math, np, torch, torch.autograd, torch.linalg, nn, nn.functional, nn.modules.module,
)  # fmt: skip
CLASSES = (Tensor, torch._C.TensorBase, nn.Module, nn.Parameter)

SILENT = ("training", "rng", "_parameters", "_buffers", "_modules")
"""Attributes of a module that anybody may set, or that are compared by themselves."""

LAZY = ("__slotnames__", "__annotations__", "__doc__")
"""What Python adds to a class when it is first asked for."""

PLAIN = (bool, int, float, complex, str, bytes)
MISSING = object()


class Tampered(UsageError):
    """An attack changed what it is judged by."""


class _Table(NamedTuple):
    """Names with their values as they were. owner: a class, or the dictionary itself.

    over: where a new name would hide another; known: other names that are there, whose values do not matter.
    """

    what: str
    owner: Any
    saved: dict[str, Any]
    over: tuple[Mapping[str, Any], ...] = ()
    known: frozenset[str] = frozenset()

    def put_back(self) -> list[str]:
        """Give every name its value again; the names that had another."""
        now = vars(self.owner) if isinstance(self.owner, type) else self.owner
        lost = [k for k, v in self.saved.items() if now.get(k, MISSING) is not v]
        added = now.keys() - self.saved.keys() - self.known if self.over else ()
        new = [k for k in added if k not in LAZY and any(k in names for names in self.over)]
        for name in [*lost, *new]:
            if isinstance(self.owner, type):
                if name in self.saved:
                    type.__setattr__(self.owner, name, self.saved[name])
                else:
                    type.__delattr__(self.owner, name)
            elif name in self.saved:
                self.owner[name] = self.saved[name]
            else:
                del self.owner[name]
        return [f"{self.what}.{name}" for name in [*lost, *new]]


@contextmanager
def untampered(nets: Iterable[nn.Module], who: str, ask: Callable[[], object], **data: Tensor) -> Iterator[None]:
    """Put back what changes inside, of these networks and of what stands between them and a verdict.

    Raises Tampered, which names it, where `who` did that: what the networks change again when `ask` asks them is their
    own doing. data: tensors that nobody may write to, by what they are.
    """
    whole = nn.ModuleList(dict.fromkeys(nets))
    tables = [*_of_nets(whole), *_of_rooms(), *_of_others(whole)]
    classes = [(name, module, type(module)) for name, module in whole.named_modules()]
    codes = [(f, f.__code__, f.__defaults__, f.__kwdefaults__) for f in _functions(tables)]
    modes, own = [(name, mode, mode.get()) for name, mode in MODES.items()], _own(whole)
    contents, versions = [*_contents()], {name: tensor._version for name, tensor in data.items()}
    found: list[str] = []
    with preserved(whole) as weights:
        try:
            yield
        finally:
            for name, mode, before in modes:
                if mode.get() != before:
                    mode.put(before)
                    found.append(name)
            for name, module, kind in classes:
                if type(module) is not kind:
                    module.__class__ = kind
                    found.append(f"the class of {_layer(name)}")
            found += [name for table in tables for name in table.put_back()]
            found += [name for name, held, before in contents if _refilled(held, before)]
            found += [f.__qualname__ for f, *parts in codes if _mended(f, parts)]
            changed = _reset(own)
    changed += [name for name in weights if name in dict(whole.named_parameters())]
    if changed:
        with preserved(whole) as weights:
            ask()
        by_itself = {*weights, *_reset(own)}
        found += [f"{_layer(name)}" for name in changed if name not in by_itself]
    found += [f"the {name} in place" for name, tensor in data.items() if tensor._version != versions[name]]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise Tampered(
            f"expected {who} to leave alone what it is judged by, got changes of {', '.join(found[:3])}{more}; all was "
            f"put back, and the cell has no number: mend the attack, or the network that does it when asked"
        )


@contextmanager
def put_back(*, others: bool = False) -> Iterator[None]:
    """Put back in silence what a network does to torch's modes and to our functions while it is loaded or first asked.

    others: and to torch's, numpy's and Python's, where no library is imported meanwhile that may have to.
    """
    whole = [*_of_rooms(), *(_of_others(nn.Identity()) if others else ())]
    tables = [_Table(one.what, one.owner, {k: v for k, v in one.saved.items() if callable(v)}) for one in whole]
    codes = [(f, [f.__code__, f.__defaults__, f.__kwdefaults__]) for f in _functions(tables)]
    try:
        with restored():
            yield
    finally:
        for table in tables:
            table.put_back()
        for function, parts in codes:
            _mended(function, parts)


def _layer(name: str) -> str:
    """A module's, parameter's or attribute's name without the place of its network in the list."""
    return name.partition(".")[2] or "the network"


def _of_nets(whole: nn.Module) -> Iterator[_Table]:
    """What each module is made of, and what it has in place of its class's methods."""
    for name, module in whole.named_modules():
        for part in ("_parameters", "_buffers", "_modules"):
            if isinstance(held := vars(module).get(part), dict):
                yield _Table(_layer(name), held, dict(held))
        methods = {k: v for k, v in vars(module).items() if isinstance(v, dict) or callable(v)}
        yield _Table(_layer(name), vars(module), methods, tuple(map(vars, type(module).__mro__)),
                     frozenset(vars(module)))  # fmt: skip


def _rooms() -> list[tuple[str, ModuleType]]:
    """Our own modules that a judgement goes through, those imported so far."""
    begins = tuple(f"robustsuite.{room}" for room in ROOMS)
    own = [(name, module) for name, module in list(sys.modules.items()) if name.startswith("robustsuite.")]
    return [(name, module) for name, module in own if name.startswith(begins)]


def _of_rooms() -> Iterator[_Table]:
    """Every name of our own modules, the contents of their constants, and every class that is made there."""
    for name, module in _rooms():
        names = dict(vars(module))
        yield _Table(name, vars(module), names, (vars(builtins),))
        for key, value in names.items():
            if isinstance(value, type) and value.__module__ == name:
                yield _of_class(value)
            elif isinstance(value, dict) and key.isupper():
                yield _Table(f"{name}.{key}", value, dict(value), (value,))


def _contents() -> Iterator[tuple[str, Any, Any]]:
    """The sets and lists among our constants, and what they hold."""
    for name, module in _rooms():
        for key, value in vars(module).items():
            if isinstance(value, set | list) and key.isupper():
                yield f"{name}.{key}", value, type(value)(value)


def _refilled(held: Any, before: Any) -> bool:
    """Whether a set or list had to be given back what it held."""
    if held == before:
        return False
    held.clear()
    (held.update if isinstance(held, set) else held.extend)(before)
    return True


def _of_others(whole: nn.Module) -> Iterator[_Table]:
    """What can be called in torch, numpy and Python; the classes of the network's modules; hooks of all modules."""
    for module in OTHERS:
        yield _Table(module.__name__, vars(module), {k: v for k, v in vars(module).items() if callable(v)})
    theirs = {c for module in whole.modules() for c in type(module).__mro__[:-1]}
    for kind in {*theirs, *CLASSES}:
        yield _of_class(kind)
    for key, value in vars(nn.modules.module).items():
        if key.startswith("_global_") and isinstance(value, dict):
            yield _Table(f"torch.nn.modules.module.{key}", value, dict(value), (value,))


def _of_class(kind: type) -> _Table:
    return _Table(kind.__qualname__, kind, dict(vars(kind)), tuple(vars(base) for base in kind.__mro__[1:]))


def _functions(tables: Iterable[_Table]) -> set[FunctionType]:
    """The Python functions in these tables, those inside decorators too."""
    found: set[FunctionType] = set()
    for table in tables:
        for value in table.saved.values():
            one = getattr(value, "__func__", value) if isinstance(value, classmethod | staticmethod) else value
            one = one.fget if isinstance(one, property) else one
            while isinstance(one, FunctionType) and one not in found:
                found.add(one)
                one = vars(one).get("__wrapped__")
    return found


def _mended(function: FunctionType, parts: list[Any]) -> bool:
    """Whether the function's inside had to be put back."""
    now: Any = function
    if now.__code__ is parts[0] and now.__defaults__ is parts[1] and now.__kwdefaults__ is parts[2]:
        return False
    now.__code__, now.__defaults__, now.__kwdefaults__ = parts
    return True


def _own(whole: nn.Module) -> dict[str, tuple[nn.Module, str, object]]:
    """The plain attributes of modules; none of a service's, which keeps books as it is asked."""
    if services(whole):
        return {}
    return {
        f"{name}.{key}": (module, key, value) for name, module in whole.named_modules()
        for key, value in vars(module).items()
        if key not in SILENT and not isinstance(value, dict) and not callable(value)
    }  # fmt: skip


def _reset(own: dict[str, tuple[nn.Module, str, object]]) -> list[str]:
    """Put attributes back; the names of those that had changed."""
    found = []
    for name, (module, key, before) in own.items():
        now = vars(module).get(key, MISSING)
        if now is not before and not (type(now) is type(before) and isinstance(before, PLAIN) and now == before):
            vars(module)[key] = before
            found.append(name)
    return found
