"""Names for eyes: `as` beside an entry, else the shortest form; no two entries of one axis are called alike."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import robustsuite as rs
from robustsuite.app.described import titles_of
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import parse_sweep
from robustsuite.errors import BadValue
from robustsuite.records.flat import flat
from robustsuite.records.labels import labels, shortest
from robustsuite.records.schema import CellRecord, DataFacts, ModelFacts, ScenarioFacts, Used
from robustsuite.reports import write_report
from robustsuite.reports.measure.compare import compare
from robustsuite.reports.read.runs import read

SWEEP = """\
name: named
models: [{"python:tests.nets:linear": , as: MLP}]
data:
  - {digits: {first: 20}, as: twenty}
  - digits: {first: 30}
defenses:
  - none
  - {jpeg: {quality: 50}, as: JPEG-50}
  - {stack: [{jpeg: {quality: 50}}, grayscale], as: filtered}
  - [{jpeg: {quality: 75}}, grayscale]
threats:
  linf:
    scenario: evasion
    budget: {linf: 8/255}
    attacks: [{noise: {draws: 2}, as: two draws}, {noise: {draws: 3}}, fgsm]
"""


def test_a_cell_that_is_not_there_yet_has_a_name_of_its_own() -> None:
    """With the model, the data set and the seed where the sweep has several, and by what the user calls its entries."""
    said = titles_of(plan(parse_sweep(SWEEP + "seeds: [0, 1]\n", "x")))
    assert len(set(said.values())) == len(said)
    assert "linf: two draws on JPEG-50, digits(first=20), seed 1" in said.values()
    assert "linf: fgsm, digits(first=30), seed 0" in said.values()
    assert not any("tests.nets" in title for title in said.values())


@pytest.mark.parametrize(
    ("was", "is_", "says"),
    [
        ("as: MLP", "as: 5", "line 2: expected a name of 1 to 40 characters after `as`.* got 5, in models"),
        ("as: JPEG-50", "as: filtered", "expected another name for each entry after `as`, got 'filtered' twice"),
        ("as: JPEG-50", f"as: {'x' * 41}", "a name of 1 to 40 characters"),
        ("as: JPEG-50", "as: ''", "a name of 1 to 40 characters after `as`.* got '', in defenses"),
        ("as: JPEG-50", "as: ", "a name of 1 to 40 characters after `as`.* got None, in defenses"),
        ("as: JPEG-50", "as: none", "none of a table's own words, got 'none'"),
        ("as: JPEG-50", "as: a;b", "none of ; and"),
        ("as: JPEG-50", "as: FILTERED", "another name for each entry"),
        ("  - none", "  - {none: , as: bare}", "expected no name for none, which tables call undefended, got 'bare'"),
        ("[{jpeg: {quality: 50}}, grayscale], as", "[], as", "expected one defense or more in a stack, got none"),
        ("as: two draws", "ass: two draws", "expected a name for the attack, got"),
    ],
)
def test_a_bad_name_is_a_sentence(was: str, is_: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=says):
        rs.run(parse_sweep(SWEEP.replace(was, is_), "s.yaml"), out=tmp_path)


def test_an_entry_that_is_repeated_has_the_name_of_either(tmp_path: Path) -> None:
    sweep = parse_sweep(SWEEP.replace("  - none", "  - none\n  - {jpeg: {quality: 50}}"), "s.yaml")
    assert "JPEG-50" in set(read([rs.run(sweep, out=tmp_path / "run").folder]).cells["defense"])


def test_one_entry_has_one_name_in_all_threats(tmp_path: Path) -> None:
    twice = SWEEP.replace("fgsm]", "fgsm]\n  l2:\n    scenario: evasion\n    budget: {l2: 1}\n    attacks: [ENTRY]")
    with pytest.raises(BadValue, match=r"expected one name for noise.draws=2., got 'two draws' and 'other'"):
        rs.run(parse_sweep(twice.replace("ENTRY", "{noise: {draws: 2}, as: other}"), "s.yaml"), out=tmp_path)
    with pytest.raises(BadValue, match="another name for each attack after `as`, got 'two draws' for several"):
        rs.run(parse_sweep(twice.replace("ENTRY", "{noise: {draws: 9}, as: two draws}"), "s.yaml"), out=tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rs.run(parse_sweep(SWEEP, "s.yaml"), out=tmp_path_factory.mktemp("named") / "run").folder


def test_tables_use_the_names_and_say_what_they_stand_for(folder: Path, tmp_path: Path) -> None:
    cells = read([folder]).cells
    assert set(cells["model"]) == {"MLP"}
    assert set(cells["dataset"]) == {"twenty", "digits(first=30)"}
    assert set(cells["defense"]) == {"none", "JPEG-50", "filtered", "jpeg(quality=75)+grayscale"}
    assert set(cells["attack"]) == {"", "two draws", "noise(draws=3)", "fgsm"}
    write_report([folder], tmp_path)
    table = (tmp_path / "names.csv").read_text()
    assert "attack,two draws,noise(draws=2)\n" in table
    assert "defense,filtered,jpeg(quality=50)+grayscale\n" in table
    assert "Names in full" in (tmp_path / "report.html").read_text()


def test_a_new_name_computes_nothing_and_compares_with_the_old(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    stamps = {f: f.stat().st_mtime_ns for f in copy.rglob("run.json")}
    renamed = SWEEP.replace("two draws", "noise twice").replace(", as: MLP", "")
    rs.run(parse_sweep(renamed, "s.yaml"), out=copy)
    assert {f: f.stat().st_mtime_ns for f in copy.rglob("run.json")} == stamps
    new = read([copy])
    assert "noise twice" in set(new.cells["attack"])
    assert set(new.cells["model"]) == {"python:tests.nets:linear"}
    found = compare(read([folder]), new)
    assert not found.unpaired
    assert set(found.cells["outcome"]) == {"same"}


VALUES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=3)
USES = st.lists(st.tuples(st.sampled_from(["p", "q"]), VALUES), min_size=1, max_size=3)


SAID = st.sampled_from(["", "p", "p(a=1)", "one", "two", "p = p(a=1)"])


@given(st.lists(USES, min_size=1, max_size=8), st.lists(SAID, min_size=8, max_size=8))
def test_no_two_entries_are_called_alike(stacks: list[list[tuple[str, dict[str, int]]]], named: list[str]) -> None:
    records = [
        CellRecord(
            run_id="x", status="done", scenario=ScenarioFacts(name="evasion"), model=ModelFacts(name="m"),
            data=DataFacts(name="d", n=1), defenses=tuple(Used(name=name, given=given) for name, given in stack),
        )
        for stack in stacks
    ]  # fmt: skip
    words = [record.defense_words() for record in records]
    said = {word: name for word, name in zip(words, named, strict=False) if name}
    found = labels(map(flat, records), {"defense": said})["defense"]
    assert set(found) == set(words)
    assert len(set(found.values())) == len(found)
    alone = shortest({record.defense_words(): record.defenses for record in records[:1]})
    assert list(alone.values()) == ["+".join(name for name, _ in stacks[0])]


def test_models_that_differ_in_parameters_alone_are_two_rows(tmp_path: Path) -> None:
    net = "python:tests.nets:linear"
    sweep = {"name": "twins", "models": [{net: {"mean": 0.5, "std": 0.25}, "as": "sharp"}, net, f"{net}?mean=0&std=1"],
             "data": [{"digits": {"first": 10}}]}  # fmt: skip
    cells = read([rs.run(sweep, out=tmp_path / "run").folder]).cells
    assert set(cells["model"]) == {"sharp", net, f"{net}?mean=0&std=1"}
    assert not any(flag["name"] == "bad_denominator" for flags in cells["flags"] for flag in flags)


def test_rows_that_no_name_could_tell_apart_are_refused(tmp_path: Path) -> None:
    attacks = "[{noise: {draws: 2}, as: two draws}, {noise: {draws: 3}}, fgsm]"
    twice = SWEEP.replace(attacks, "[fgsm, {fgsm: {first: 5}}]")
    with pytest.raises(BadValue, match="expected fgsm once in the threat 'linf', got it with first None and 5"):
        rs.run(parse_sweep(twice, "s.yaml"), out=tmp_path)
