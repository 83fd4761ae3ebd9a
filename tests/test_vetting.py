"""What vet asks for: every adversary that a model's openness allows, at the level that was asked."""

from pathlib import Path

import pytest

from robustsuite.app.vetting import LEVELS, vetting
from robustsuite.engine.plan import plan
from robustsuite.errors import UnknownName

NETS = """
import torch
from torch import nn

def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Votes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = plain()
    def forward(self, x):
        with torch.no_grad():
            return self.inside(x).argmax(1)
"""


@pytest.mark.parametrize(
    ("net", "threats"), [("plain", {"linf", "l2", "scores", "labels", "proof"}), ("Votes", {"labels"})]
)
def test_what_a_model_shows_decides_who_attacks(
    net: str, threats: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vetted_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    for level in LEVELS:
        sweep = vetting(f"python:vetted_nets:{net}", "digits", level)
        assert set(sweep.threats) == threats
        assert {d.status for _, d in plan(sweep)} == {"run"}
    with pytest.raises(UnknownName, match="did you mean 'screening'"):
        vetting(f"python:vetted_nets:{net}", "digits", "screning")
