"""The data set `shortcuts` under every combination of its shortcuts: which of them carry the other class's sign.

(Li et al., 2023, arXiv:2212.04825.) Paired with the pictures as they are distributed: the gap of a combination is its
accuracy less theirs. A mitigation that closes one gap and opens another is the paper's Whac-A-Mole.
"""

from __future__ import annotations

from itertools import combinations

from robustsuite.benchmarks.datasets.shortcuts import SHORTCUTS
from robustsuite.benchmarks.shifts.counterparts import restyled
from robustsuite.errors import BadData
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant, shift

USUAL = "as usual"
FLIPPED = [frozenset(names) for n in range(len(SHORTCUTS) + 1) for names in combinations(SHORTCUTS, n)]


def named(flipped: frozenset[str]) -> str:
    """A combination in words: 'background + texture', or that none is flipped."""
    return " + ".join(name for name in SHORTCUTS if name in flipped) or USUAL


@shift(name="shortcuts", paper="Li et al., 2023, arXiv:2212.04825, section 3")
def every_combination(clean: Split, data: Dataset, *, seed: int) -> ShiftSet:
    """The same objects with each combination of shortcuts flipped, 'as usual' first; for the data `shortcuts` alone.

    Raises BadData for other data.
    """
    if data.name != "shortcuts" or clean.redrawn is None:
        raise BadData(f"expected the data shortcuts for the shift set shortcuts, got {data.name}; sweep both together")
    parts = {Variant(named(flipped)): restyled(clean, flipped) for flipped in FLIPPED}
    return ShiftSet("shortcuts", parts, reading=Reading(transform="drawn with these shortcuts flipped", hard=True))
