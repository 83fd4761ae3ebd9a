"""docs/gpu.md says how often each attack makes host and device wait, and no attack waits more often than it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustsuite.config.registry import Card
from tests.device.battery import REAL
from tests.device.waits import measured, ours

PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
ROW = re.compile(r"^\| (\w+ \(\w+\)) \| \d+ \| ([\d.]+) \|", re.MULTILINE)
SAID = {name: float(waits) for name, waits in ROW.findall(PAGE)}

pytestmark = pytest.mark.skipif(bool(REAL), reason="counted on the pretended device")


@pytest.mark.parametrize(("card", "norm"), ours(), ids=lambda v: getattr(v, "name", v))
def test_an_attack_waits_no_more_often_than_the_page_says(card: Card, norm: str) -> None:
    row = measured(card, norm)
    assert row.name in SAID, "run python -m tests.device.waits and enter its table in docs/gpu.md"
    assert row.waits <= SAID[row.name] + 0.005, row.places.most_common(5)
