"""One sweep over sets of every kind, from yaml to its report: the embedded one, on a network that is there at once."""

from pathlib import Path

import pytest
import yaml

import robustsuite as rs
from robustsuite.reports import write_report
from robustsuite.reports.across.threats import over_threats
from robustsuite.reports.read.runs import read
from robustsuite.reports.read.verified import verify
from tests.stored import rows as rows_of

FILE = Path(__file__).parents[1] / "benchmarks" / "sweeps" / "beyond.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = yaml.safe_load(FILE.read_text())
    asked |= {"models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 12}}]}
    asked["defenses"] = ["none"]
    few = {"transform_pgd": {"steps": 5}, "grid": {"angles": 5, "shifts": 3}, "region_pgd": {"steps": 5},
           "universal": {"steps": 3}, "adversarial_patch": {"steps": 3}, "worst_of": {"draws": 3}}  # fmt: skip
    for threat in asked["threats"].values():
        threat["attacks"] = [{name: few[name]} if name in few else name for name in threat["attacks"]]
    return rs.run(asked, out=tmp_path_factory.mktemp("beyond") / "run").folder


def test_every_cell_has_a_number_and_the_rows_agree_with_themselves(run: Path) -> None:
    rows = rows_of(run)
    assert {row["status"] for row in rows} == {"done"}
    assert len([row for row in rows if row["scenario"] == "evasion"]) == 22
    assert not verify(run).found


def test_the_report_names_what_each_adversary_does_and_unites_them(run: Path, tmp_path: Path) -> None:
    (row,) = over_threats(read([run])).to_dict("records")
    assert row["threats"].count(";") == 11
    assert row["k"] <= row["n"] == 12
    write_report([run], tmp_path, formats=("md", "csv"))
    text = (tmp_path / "report.md").read_text()
    for words in ("turning the picture by up to 30 degrees", "one square of 2 % of the picture", "a border of 1 pixel",
                  "Every threat at once", "bending the picture"):  # fmt: skip
        assert words in text
    assert (tmp_path / "all_threats.csv").exists()
