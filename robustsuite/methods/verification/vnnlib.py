"""Instances of the verification competition: .vnnlib text -> boxes of inputs and the outputs that are unsafe there.

What is read of it: (declare-const X_i Real), the same of Y_j, and (assert F) with F made of and, or, <=, >= over
numbers, names and their sums, differences and multiples. The assertions together say what would break the property, so
"sat" is a counterexample (Brix et al., 2023, arXiv 2301.05815). A constraint speaks of one input or of outputs.
Text from outside may be anything: it is read within limits, and what is not of this form ends in one sentence.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustsuite.errors import BadData, quoted
from robustsuite.methods.verification.region import Unsafe

BYTES = 64 << 20
"""The longest text; the competition's longest of these networks have under 2 MiB."""
VARIABLES = 1 << 20
DEPTH = 20
"""Brackets inside one another."""
CASES = 10_000
"""Alternatives after all `or` are multiplied out."""
NUMBERS = 1 << 22
"""Rows of all alternatives, numbers of their boxes, and coefficients of their outputs: each at most so many."""
LARGEST = 1e30
"""Of a number: squares of larger ones are too near to the end of float32 to bound anything by."""
TOKEN = re.compile(r"[()]|[^\s()]+")
NAME = re.compile(r"([XY])_(0|[1-9][0-9]{0,6})")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")


class Part(NamedTuple):
    """A box of inputs, low and high (n,) float64, and what may not come out in it."""

    low: Tensor
    high: Tensor
    unsafe: Unsafe


Row = tuple[dict[str, float], float]
"""Coefficients by name and the number b of sum a . v <= b."""


def read_instance(file: Path, inputs: int, outputs: int) -> list[Part]:
    """The parts of an instance (.vnnlib, .vnnlib.gz) for a network of these sizes. Raises BadData."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            blob = stream.read(BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadData(f"expected a .vnnlib file, got {quoted(str(file))}: {error}; name another") from error
    if len(blob) > BYTES:
        raise BadData(f"expected {BYTES >> 20} MiB of text at most in {quoted(file.name)}, got more; split it")
    return parsed(blob.decode("ascii", "replace"), inputs, outputs, file.name)


def parsed(text: str, inputs: int, outputs: int, where: str) -> list[Part]:
    """The parts that a text describes, one for each different box; `where` names it in errors. Raises BadData."""
    declared: dict[str, int] = {"X": 0, "Y": 0}
    plain: list[Row] = []
    cases: list[list[Row]] = [[]]
    for form in _forms(text, where):
        match form:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                kind, index = _variable(name, where)
                if index != declared[kind]:
                    due = f"{kind}_{declared[kind]}"
                    raise BadData(f"expected {due} to be declared next in {where}, got {quoted(name)}")
                declared[kind] += 1
            case ["assert", formula]:
                found = _alternatives(formula, where)
                if len(found) == 1:
                    plain += found[0]
                    continue
                cases = _multiplied(cases, found, where)
            case _:
                raise BadData(f"expected declare-const or assert in {where}, got {_brief(form)}; leave it out")
    if (declared["X"], declared["Y"]) != (inputs, outputs):
        raise BadData(
            f"expected {inputs} inputs and {outputs} outputs in {where}, as the network has, got {declared['X']} and "
            f"{declared['Y']}; name the network that it was made for"
        )
    return _grouped(plain, cases, inputs, outputs, where)


def _forms(text: str, where: str) -> Iterator[Any]:
    """The bracketed forms of a text, as lists of lists and words; what follows ; on a line is a comment."""
    stack: list[list[Any]] = []
    for token in (match[0] for match in TOKEN.finditer(re.sub(r";[^\n]*", "", text))):
        if token == "(":
            if len(stack) >= DEPTH:
                raise BadData(f"expected at most {DEPTH} brackets inside one another in {where}, got more")
            stack.append([])
        elif not stack:
            raise BadData(f"expected an opening bracket in {where}, got {quoted(token)}")
        elif token == ")":
            done = stack.pop()
            if not stack:
                yield done
            else:
                stack[-1].append(done)
        else:
            stack[-1].append(token)
    if stack:
        raise BadData(f"expected every bracket of {where} to be closed, got the end of the text; is the file complete?")


def _variable(name: str, where: str) -> tuple[str, int]:
    found = NAME.fullmatch(name)
    if not found or int(found[2]) >= VARIABLES:
        raise BadData(f"expected names X_0, X_1 ... and Y_0, Y_1 ... in {where}, got {quoted(name)}")
    return found[1], int(found[2])


def _alternatives(formula: Any, where: str) -> list[list[Row]]:
    """A formula as alternatives, each a list of rows that hold together."""
    match formula:
        case ["or", *parts] if parts:
            found = [case for part in parts for case in _alternatives(part, where)]
        case ["and", *parts] if parts:
            always: list[Row] = []
            found = [[]]
            for more in (_alternatives(part, where) for part in parts):
                if len(more) == 1:  # kept apart: copied once, not once for each row after it
                    always += more[0]
                else:
                    found = _multiplied(found, more, where)
            found = _multiplied(found, [always], where)
        case ["<=", left, right]:
            found = [[_row(left, right, where)]]
        case [">=", left, right]:
            found = [[_row(right, left, where)]]
        case _:
            raise BadData(f"expected and, or, <= or >= in an assertion of {where}, got {_brief(formula)}")
    if len(found) > CASES:
        raise BadData(f"expected at most {CASES} alternatives in {where}, got {len(found)}")
    return found


def _multiplied(cases: list[list[Row]], more: list[list[Row]], where: str) -> list[list[Row]]:
    """Every one of these alternatives together with every one of those."""
    if len(cases) * len(more) > CASES:
        raise BadData(f"expected at most {CASES} alternatives in {where}, got {len(cases) * len(more)}; split it")
    _few(len(more) * sum(map(len, cases)) + len(cases) * sum(map(len, more)), "rows in all alternatives", where)
    return [[*case, *other] for case in cases for other in more]


def _few(count: int, what: str, where: str) -> None:
    if count > NUMBERS:
        raise BadData(f"expected at most {NUMBERS} {what} of {where}, got {count}; split it")


def _row(small: Any, large: Any, where: str) -> Row:
    """small <= large as a row."""
    left, right = _term(small, where), _term(large, where)
    names = dict.fromkeys([*left, *right])
    row = {name: left.get(name, 0.0) - right.get(name, 0.0) for name in names if name}
    bound = right.get("", 0.0) - left.get("", 0.0)
    for number in (bound, *row.values()):
        if not abs(number) <= LARGEST:
            raise BadData(f"expected numbers up to {LARGEST:g} in {where}, got {number:g}; scale the constraint")
    return row, bound


def _term(term: Any, where: str) -> dict[str, float]:
    """A linear term: coefficients by name, and the constant under ''."""
    match term:
        case str() if NUMBER.fullmatch(term) and math.isfinite(float(term)):
            return {"": float(term)}
        case str():
            _variable(term, where)
            return {term: 1.0}
        case ["-", only]:
            return {name: -a for name, a in _term(only, where).items()}
        case ["+" | "-" as sign, first, *others] if others:
            found = _term(first, where)
            for other in others:
                for name, a in _term(other, where).items():
                    found[name] = found.get(name, 0.0) + (a if sign == "+" else -a)
            return found
        case ["*", first, second]:
            left, right = _term(first, where), _term(second, where)
            factor, scaled = (left, right) if set(left) == {""} else (right, left)
            if set(factor) == {""}:
                return {name: factor[""] * a for name, a in scaled.items()}
    raise BadData(f"expected numbers, names and linear terms of them in {where}, got {_brief(term)}")


def _brief(form: Any) -> str:
    return quoted(re.sub(r"[\[\]',]", "", str(form)[:80]))


def _grouped(plain: list[Row], cases: list[list[Row]], inputs: int, outputs: int, where: str) -> list[Part]:
    """Alternatives with the same box as one part."""
    low, high, always = _boxed(plain, [-math.inf] * inputs, [math.inf] * inputs, where)
    _few(sum(any(map(_of_inputs, case)) for case in cases) * inputs, "numbers in the boxes of all alternatives", where)
    found: dict[tuple[tuple[float, ...], tuple[float, ...]], list[list[Row]]] = {}
    for case in cases:
        mine = _boxed(case, low, high, where) if any(_of_inputs(row) for row in case) else (low, high, case)
        found.setdefault((tuple(mine[0]), tuple(mine[1])), []).append([*always, *mine[2]])
    parts = []
    for (lows, highs), rows in found.items():
        open_ = next((i for i in range(inputs) if max(-lows[i], lows[i], -highs[i], highs[i]) > LARGEST), None)
        if open_ is not None:
            raise BadData(f"expected every input of {where} between two numbers, got no such pair for X_{open_}")
        if any(a > b for a, b in zip(lows, highs, strict=True)):
            continue  # no input lies in an empty box
        parts.append(Part(torch.tensor(lows, dtype=torch.float64), torch.tensor(highs, dtype=torch.float64),
                          _unsafe(rows, outputs, where)))  # fmt: skip
    return parts


def _of_inputs(row: Row) -> bool:
    return any(name[0] == "X" for name in row[0])


def _boxed(
    rows: list[Row], low: list[float], high: list[float], where: str
) -> tuple[list[float], list[float], list[Row]]:
    """The box after these rows of one input each, and the rows of outputs."""
    low, high, others = list(low), list(high), []
    for row in rows:
        a, b = row
        if not _of_inputs(row):
            others.append(row)
            continue
        if len(a) != 1:
            raise BadData(f"expected constraints of one input each in {where}, got one of {', '.join(sorted(a)[:4])}")
        ((name, factor),) = a.items()
        _, i = _variable(name, where)
        if i >= len(low) or not factor:
            raise BadData(f"expected X_0 to X_{len(low) - 1} with a factor in {where}, got {factor:g} of {name}")
        if factor > 0:
            high[i] = min(high[i], b / factor)
        else:
            low[i] = max(low[i], b / factor)
    return low, high, others


def _unsafe(cases: list[list[Row]], outputs: int, where: str) -> Unsafe:
    """Cases of rows about outputs, the shorter ones filled up by their last row."""
    most = max(1, *(len(case) for case in cases))
    _few(len(cases) * most * outputs, "coefficients of outputs, with every alternative as long as the longest,", where)
    a = torch.zeros(len(cases), most, outputs, dtype=torch.float64)
    b = torch.zeros(len(cases), most, dtype=torch.float64)
    for d, case in enumerate(cases):
        for r in range(most if case else 0):  # no row at all holds anywhere: 0 <= 0
            coefficients, b[d, r] = case[min(r, len(case) - 1)]
            for name, factor in coefficients.items():
                _, j = _variable(name, where)
                if j >= outputs:
                    raise BadData(f"expected Y_0 to Y_{outputs - 1} in {where}, got {name}")
                a[d, r, j] = factor
    return Unsafe(a, b)


def written(x: Tensor, z: Tensor) -> str:
    """A counterexample in the competition's form: inputs (n,) and the outputs (k,) that they lead to."""
    pairs = [f"(X_{i} {v!r})" for i, v in enumerate(x.double().tolist())]
    pairs += [f"(Y_{j} {v!r})" for j, v in enumerate(z.double().tolist())]
    return "sat\n(" + "\n ".join(pairs) + ")\n"
