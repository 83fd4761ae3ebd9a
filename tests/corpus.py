"""Malformed sweeps, as texts and as mappings: each must end in one sentence. benchmarks/hostile.py measures them."""

from typing import Any

import yaml

from robustsuite.config.text import NODES

THREAT: dict[str, Any] = {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": ["fgsm"]}
BASE: dict[str, Any] = {
    "name": "tiny",
    "models": ["python:tests.nets:linear"],
    "data": [{"digits": {"first": 8}}],
    "threats": {"t": THREAT},
}
TEXT = yaml.safe_dump(BASE)
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
)

YAMLS = {
    "brackets": "[" * 100_000,
    "braces": "{a: " * 100_000,
    "dashes": "- " * 5000 + "x",
    "bomb": BOMB,
    "recursive": "a: &a [*a]",
    "recursive mapping": "&a {b: *a}",
    "long": "a" * 5_000_000,
    "many": f"seeds: [{'1,' * 300_000}]",
    "many keys": "{" + ",".join(f"k{i}: 1" for i in range(90_000)) + "}",
    "int": TEXT + "seeds: [!!int x]",
    "float": TEXT + "title: !!float x",
    "timestamp": "a: !!timestamp 2020-99-99",
    "bool": "a: !!bool maybe",
    "python": "a: !!python/object/apply:os.system [ls]",
    "python name": "!!python/name:os.x",
    "date": TEXT + "title: 2020-01-01",
    "binary": TEXT + "title: !!binary aGk=",
    "set": TEXT + "title: !!set {a}",
    "omap": "!!omap [a: 1]",
    "pairs": TEXT + "title: !!pairs [a: 1]",
    "twice": TEXT + "name: other",
    "threat twice": "threats: {a: {}, a: {}}",
    "deep twice": "a: [{b: 1, 'b': 2}]",
    "list key": "? [a]\n: b",
    "mapping key": "{a: 1}: b",
    "null key": TEXT + "~: 1",
    "number key": TEXT + "1: 1",
    "nul": "a\0b",
    "escape": "\x1b[31m",
    "quoted escape": TEXT + 'title: "\\x1b[31m"',
    "quoted nul": TEXT + 'title: "\\0"',
    "bidi": TEXT + "title: a\u202eb",
    "delete": TEXT + 'title: "\\x7f"',
    "surrogate": TEXT + "title: \ud800",
    "merge word": "<<: 3",
    "unknown alias": "a: *x",
    "tab": "\t- a",
    "two documents": TEXT + "---\na: 1",
    "empty": "",
    "comment": "# nothing",
    "word": "sweep",
    "number": "7",
    "list": "[1, 2]",
    "open quote": 'a: "b',
    "colon": "a: b: c",
    "directive": "%YAML 9.9\n--- a",
    "digits": TEXT + f"seeds: [{'9' * 5000}]",
    "tag": "!x y",
    "percent": "%",
    "at": "@a",
    "value key": "=: 1\n=: 2",
}


def changed(**more: Any) -> dict[str, Any]:
    return {**BASE, **more}


def threat(**more: Any) -> dict[str, Any]:
    return changed(threats={"t": {**THREAT, **more}})


def attack(name: Any, **given: Any) -> dict[str, Any]:
    return threat(attacks=[{name: given}])


def recursive() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


SWEEPS: dict[str, Any] = {
    **{
        f"name {i}": changed(name=n)
        for i, n in enumerate(
            (
                "..",
                ".",
                "",
                "a/b",
                "a\\b",
                "/etc",
                "../x",
                "a\0b",
                "con",
                "NUL",
                "com1.x",
                "a" * 101,
                "ä" * 150,
                "a.",
                "-a",
                " a",
                "a\n",
                "~",
                3,
                None,
                ["a"],
                {"a": 1},
                True,
                b"a",
            )
        )
    },
    **{
        f"title {i}": changed(title=n)
        for i, n in enumerate((3, None, ["a"], "\x1b[2J", "a\0", "x" * 20_000, {1, 2}, object()))
    },
    **{
        f"seeds {i}": changed(seeds=n)
        for i, n in enumerate(
            (
                [],
                0,
                None,
                [-1],
                [True],
                [1.0],
                [1.5],
                ["1"],
                [None],
                [float("nan")],
                [float("inf")],
                [1 << 63],
                [1 << 200],
                ["1e400"],
                [[1]],
                {"a": 1},
                list(range(10_001)),
                range(3),
                [0] * (NODES + 1),
            )
        )
    },
    **{
        f"models {i}": changed(models=n)
        for i, n in enumerate(
            (
                [],
                None,
                [None],
                [3],
                [[]],
                [["a"]],
                [{}],
                [{"a": 1, "b": 2}],
                [""],
                [":"],
                ["::"],
                ["python"],
                ["python:"],
                ["python::"],
                ["python:..:x"],
                ["python:a b:c"],
                ["python:tests.nets:"],
                ["python:sys:exit"],
                ["python:os:abort"],
                ["python:os:_exit"],
                ["python:tests.nets:ünder"],
                ["python:tests.nets:linear?mean=1&mean=2"],
                ["nope:x"],
                ["python:tests.nets:linear + "],
                [" + "],
                [{"python:tests.nets:linear": {"nope": 1}}],
                ["x" * 9000],
                ["a\nb"],
            )
        )
    },
    **{
        f"data {i}": changed(data=n)
        for i, n in enumerate(
            (
                [],
                None,
                [None],
                [3],
                [[["a"]]],
                [{"digits": 3}],
                [{"digits": {"first": -1}}],
                [{"digits": {"first": 1e9}}],
                [{"digits": {"first": True}}],
                [{"digits": {"split": ["test"]}}],
                [{"digits": {"split": None}}],
                [{"digits": {1: 2}}],
                [{None: {}}],
                ["nope"],
                [{"scenes": {"train": [1, 2]}}],
                [{"scenes": {"train": 1 << 70}}],
            )
        )
    },
    **{
        f"shifts {i}": changed(shifts=[{"imagenet_c": n}])
        for i, n in enumerate(
            (
                {"corruptions": [["fog"]]},
                {"corruptions": 3},
                {"corruptions": {"fog": 1}},
                {"severities": [9]},
                {"severities": ["x"]},
                {"severities": [[1]]},
                {"root": 3},
                {"jpeg_roundtrip": [85]},
                3,
                [1],
            )
        )
    },
    **{
        f"defenses {i}": changed(defenses=n)
        for i, n in enumerate(
            (
                [],
                None,
                [None],
                [[]],
                [[[]]],
                [{"stack": []}],
                ["nope"],
                [{"randomized_smoothing": {"sigma": [1, 2]}}],
                [{"randomized_smoothing": {"nope": 1}}],
                [3],
                [{"none": 3}],
            )
        )
    },
    **{
        f"threats {i}": changed(threats=n)
        for i, n in enumerate(
            (
                [],
                3,
                "t",
                {"t": None},
                {"t": []},
                {"t": 3},
                {"t": {}},
                {"": THREAT},
                {"a" * 200: THREAT},
                {"a\nb": THREAT},
                {" a": THREAT},
                {"\x1b[31m": THREAT},
                {"t": {**THREAT, "x": 1}},
                {3: 4},
                {None: THREAT},
                {("a",): THREAT},
            )
        )
    },
    **{f"scenario {i}": threat(scenario=n) for i, n in enumerate((None, 3, "nope", ["evasion"], {"a": 1}))},
    **{f"access {i}": threat(access=n) for i, n in enumerate((None, 3, "root", [3], [["scores"]], {"scores": 1}))},
    **{
        f"budget {i}": threat(budget=n)
        for i, n in enumerate(
            (
                None,
                3,
                [],
                {},
                {"linf": None},
                {"linf": "x"},
                {"linf": [1]},
                {"linf": "1/0"},
                {"linf": -1},
                {"l9": 1},
                {"linf": float("nan")},
                {"linf": True},
                {"linf": 1, "l2": 1},
                {1: 2},
                {"linf": 1, "queries": 0},
                {"linf": 1, "queries": 1.5},
                {"linf": 1, "queries": [1]},
                {"linf": "9" * 400},
                {"linf": {}},
            )
        )
    },
    **{
        f"goal {i}": threat(goal=n)
        for i, n in enumerate(
            (None, 3, "nope", [], {"target": "x"}, {"target": -1}, {"target": True}, {"ordered_topk": 0}, {"a": 1})
        )
    },
    **{
        f"attacks {i}": threat(attacks=n)
        for i, n in enumerate(
            (
                [],
                None,
                [None],
                [3],
                [[["pgd"]]],
                [{}],
                ["nope"],
                [{"pgd": 3}],
                [{"pgd": [1]}],
                [{"pgd": {1: 2}}],
                [{"pgd": {None: 2}}],
                [{"pgd": {"steps": 3}, "as": "\x1b"}],
                [{"pgd": {}, "as": 3}],
            )
        )
    },
    **{
        f"pgd {i}": attack("pgd", **n)
        for i, n in enumerate(
            (
                {"steps": [1, 5]},
                {"steps": "5"},
                {"steps": 1.5},
                {"steps": None},
                {"steps": True},
                {"steps": {"a": 1}},
                {"steps": 1 << 63},
                {"rel_step": [0.1]},
                {"rel_step": "x"},
                {"loss": 3},
                {"loss": ["ce"]},
                {"eot": 0},
                {"eot": True},
                {"eot": [1]},
                {"eot": 1.5},
                {"first": 0},
                {"first": [1]},
                {"first": True},
                {"nope": 1},
            )
        )
    },
    "other lists": attack("apgd", order=["logit", "malt"]),
    "literal": changed(
        threats={"t": {"scenario": "certification", "budget": {"linf": 0.1}, "attacks": [{"lirpa": {"method": "IBP"}}]}}
    ),
    **{f"stream {i}": changed(stream=n) for i, n in enumerate((None, 3, {"order": "x"}, {"batch": 0}, {"batch": "x"}))},
    "cells": changed(
        seeds=list(range(10_000)), defenses=[{"randomized_smoothing": {"sigma": i / 9}} for i in range(25)]
    ),
    "itself": {**BASE, "title": recursive()},
}
