"""Frozen statistics of every corruption, severity and parameter set: a change of distribution shows here.

After a change that is meant, write them anew: `python tests/benchmarks/shifts/test_corruption_golden.py`.
"""

import json
from pathlib import Path

import pytest
import torch

from robustsuite.benchmarks.shifts.engine import corrupt
from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA
from robustsuite.maths.randomness import Rng

FILE = Path(__file__).with_name("golden.json")
SIDES = {"imagenet": 112, "tiny_imagenet": 64, "cifar": 32}


def scene(n: int, side: int) -> torch.Tensor:
    """Gradients, stripes and a disk, from formulas."""
    t = torch.linspace(0, 1, side)
    v, u = t[:, None], t[None]
    phase = torch.arange(n).view(-1, 1, 1) * 0.7
    stripes = 0.5 + 0.5 * torch.sin(phase + 12 * u + 5 * v)
    disk = ((u - 0.55) ** 2 + (v - 0.4) ** 2 < 0.06).float()
    x = torch.stack([0.2 + 0.6 * stripes, (0.8 * u + 0 * v).expand_as(stripes), 0.9 - 0.7 * v * stripes], 1)
    return x * (1 - disk) + disk * torch.tensor([0.85, 0.3, 0.2]).view(3, 1, 1)


def statistics(name: str, parameters: str) -> list[list[float]]:
    """By severity: mean, standard deviation, mean absolute change, in levels of 255."""
    x = scene(8, SIDES[parameters])
    rng = Rng.of(0, "golden", torch.arange(8))
    rows = []
    for severity in range(1, 6):
        y = corrupt(name, x, severity, rng=rng, parameters=parameters)
        rows.append([round(v.item() * 255, 2) for v in (y.mean(), y.std(), (y - x).abs().mean())])
    return rows


@pytest.mark.parametrize("parameters", SIDES)
@pytest.mark.parametrize("name", CORRUPTIONS + EXTRA)
def test_statistics_stay(name, parameters):
    frozen = json.loads(FILE.read_text())[parameters][name]
    for now, then in zip(statistics(name, parameters), frozen, strict=True):
        assert now == pytest.approx(then, rel=0.01, abs=0.15)


if __name__ == "__main__":
    table = {p: {name: statistics(name, p) for name in CORRUPTIONS + EXTRA} for p in SIDES}
    text = json.dumps(table, indent=1)
    FILE.write_text(text.replace("\n    ", " ").replace("[ ", "[").replace("\n   ]", "]") + "\n")
