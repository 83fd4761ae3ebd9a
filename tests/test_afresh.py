"""Asked in a process of its own, an honest system answers as ever, and one that remembers its questions is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.app.own import Data
from robustsuite.benchmarks.datasets.digits import digits
from tests.nets import linear


class Remembers(nn.Module):
    """The first answer given near a picture is given for all its neighbours; kept where no comparison looks."""

    def __init__(self) -> None:
        super().__init__()
        self.net, known = linear(), list[tuple[Tensor, Tensor]]()

        def recalled(x: Tensor, z: Tensor) -> Tensor:
            shown = []
            for at, own in zip(x.detach(), z, strict=True):
                first = next((kept for key, kept in known if float((key - at).abs().amax()) <= 0.11), None)
                if first is None:
                    known.append((at.clone(), own.detach().clone()))
                shown.append(own if first is None else first + 0.1 * (own - first))
            return torch.stack(shown)

        self.recalled = recalled

    def forward(self, x: Tensor) -> Tensor:
        shown: Tensor = self.recalled(x, self.net(x))
        return shown


def swept(folder: Path, **changed: Any) -> list[dict[str, Any]]:
    """The audits of an audited sweep's cells."""
    threats = {
        "t": {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": [{"pgd": {"steps": 5}}]},
        "s": {"scenario": "evasion", "access": "scores", "budget": {"linf": 0.1, "queries": 41},
              "attacks": [{"square": {"steps": 40}}]},
    }  # fmt: skip
    sweep = {"name": "afresh", "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 24}}],
             "threats": threats, "shifts": [], **changed}  # fmt: skip
    rs.run(sweep, out=folder, audited=True)
    return [json.loads(file.read_text()) for file in sorted(folder.glob("cells/*/audit.json"))]


def test_an_honest_system_answers_as_ever(tmp_path: Path) -> None:
    audits = swept(tmp_path, defenses=["none", {"randomized_smoothing": {"sigma": 0.1}}])
    assert [audit["figures"].get("E36") for audit in audits] == [0] * 4
    assert not [flag for audit in audits for flag in audit["flags"] if flag["name"] == "remembers_questions"]


def test_answers_kept_for_what_comes_near_are_found(tmp_path: Path) -> None:
    for audit in swept(tmp_path, models=["python:tests.test_afresh:Remembers"]):
        flag = next(flag for flag in audit["flags"] if flag["name"] == "remembers_questions")
        assert (flag["check"], flag["level"]) == ("E36", "fail")
        assert audit["figures"]["E36"] >= 2


def test_what_cannot_be_served_elsewhere_is_said_to_be_unasked(tmp_path: Path) -> None:
    seen = digits().split("test").first(24)
    x = seen.images(torch.arange(24))
    few = {"t": {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": [{"pgd": {"steps": 5}}]}}
    (audit,) = swept(tmp_path, data=[Data.of(x, seen.y)], threats=few)
    assert "E36" not in audit["figures"]
    assert audit["figures"]["E36_not_asked"] > 0
