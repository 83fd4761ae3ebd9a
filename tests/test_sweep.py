"""A sweep in yaml: what is wrong is said with its line, what came, and the nearest name."""

import pytest

from robustsuite.config.threats import Access, Linf
from robustsuite.engine.sweep import default_sweep, parse_sweep
from robustsuite.errors import UsageError

GOOD = """\
name: toy
models: [a]
data: [scenes]
threats:
  linf:
    scenario: evasion
    budget: {linf: 8/255, queries: 100}
    attacks: [pgd, {square: {steps: 5}}]
"""


def test_a_sweep_is_read() -> None:
    sweep = parse_sweep(GOOD, "s.yaml")
    threat = sweep.threats["linf"].threat("linf")
    assert threat.budget == Linf(8 / 255)
    assert threat.queries == 100
    assert threat.access == Access.WHITE_BOX
    assert threat.facts().budget.words() == "linf(eps=8/255) queries(100)"
    assert sweep.defenses == ["none"]


def test_the_embedded_sweep_is_valid() -> None:
    assert parse_sweep(default_sweep(), "default").threats


@pytest.mark.parametrize(
    ("was", "is_", "says"),
    [
        ("models: [a]", "modells: [a]", "s.yaml line 2: .*'modells'; did you mean 'models'"),
        ("scenario: evasion", "scenari: evasion", "line 6: .*'scenari'; did you mean 'scenario'"),
        ("8/255", "8/0", "8/0"),
        ("linf: 8/255", "lin: 8/255", "'lin'; did you mean 'linf'"),
        ("scenario: evasion", "scenario: evade", "line 6: .*'evasion'.*got 'evade'"),
        ("models: [a]\n", "", "'models', got none"),
        ("name: toy", "name: 'a/b'", "line 1"),
        ("queries: 100", "queries: 0", "queries >= 1.*got 0|queries >= 1"),
        ("attacks: [pgd", "attacks: [pgd}", "line 8"),
        ("budget: {linf: 8/255, queries: 100}", "budget: {}", "expected one of linf"),
        ("budget:", "access: whitebox\n    budget:", "did you mean 'white_box'"),
    ],
)
def test_errors_are_sentences(was: str, is_: str, says: str) -> None:
    assert was in GOOD
    with pytest.raises(UsageError, match=says):
        parse_sweep(GOOD.replace(was, is_, 1), "s.yaml")


@pytest.mark.parametrize("text", ["", "- a", "just words", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_sweep(text, "s.yaml")
