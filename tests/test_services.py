"""A classifier behind HTTP has the rows of the same network in this process, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.app.api import Workers
from robustsuite.benchmarks.models.endpoint import read_endpoint
from robustsuite.engine.execute import overdrawn
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadModel, BadValue, Stopped, UsageError
from robustsuite.reports import write_report
from robustsuite.reports.answers.opening import cautions
from robustsuite.reports.measure.worst import worst_case
from robustsuite.reports.read.runs import read
from tests.nets import linear
from tests.services import Served, serving

SCORES = {"scenario": "evasion", "access": "scores", "budget": {"linf": "64/255"},
          "attacks": [{"square": {"steps": 20}}]}  # fmt: skip
LABELS = {"scenario": "evasion", "access": ["labels", "aux_data"], "budget": {"l2": 1.0},
          "attacks": [{"cgba": {"queries": 40, "n0": 10}}]}  # fmt: skip


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return linear()


def sweep(model: str, host: str = "", threat: dict[str, Any] = SCORES, n: int = 12) -> dict[str, Any]:
    return {"name": "service", "models": [model], "data": [{"digits": {"first": n}}], "threats": {"t": threat},
            "hosts": [host] if host else []}  # fmt: skip


def described(host: str, **more: Any) -> str:
    facts = {"name": "shop", "url": f"http://{host}/v1", "rate": 5000, "timeout": 0.5, **more}
    Path("shop.yaml").write_text(yaml.safe_dump(facts))
    return "http:shop.yaml"


def rows(folder: Path) -> pd.DataFrame:
    tables = [pd.read_parquet(f).drop(columns="run_id") for f in sorted(folder.glob("cells/*/examples.parquet"))]
    (attacked,) = [table for table in tables if "distance" in table]
    return attacked


def billed(folder: Path) -> dict[str, int]:
    count: dict[str, int] = {}
    for file in folder.glob("ledger/*/*.jsonl"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            count[entry["is"]] = count.get(entry["is"], 0) + len(entry["keys"])
    return count


def bill() -> str:
    """What the report's page of costs says."""
    write_report([Path("http")], Path("report"), ["md"])
    return Path("report/costs.md").read_text()


def test_floats_over_http_have_the_rows_of_the_network_itself_and_each_picture_is_asked_once(net: nn.Module) -> None:
    rs.run(sweep("python:tests.nets:linear"), out=Path("plain"))
    served = Served(net)
    with serving(served) as host:
        rs.run(sweep(described(host, batch=8, concurrency=3), host), out=Path("http"))
        looked = served.looked
        pd.testing.assert_frame_equal(rows(Path("http")), rows(Path("plain")))
        count = billed(Path("http"))
        assert looked == count["sent"] == count["answered"] + count["again"]
        assert max(served.seen.values()) <= 2
        assert rs.run(sweep(described(host, batch=8), host), out=Path("http")).computed == 0
        assert served.looked == looked


@pytest.mark.parametrize(
    ("protocol", "body"), [("oip", "float"), ("json", "png"), ("oip", "uint8"), ("json", "uint8")]
)
def test_each_way_to_write_a_picture(net: nn.Module, protocol: str, body: str) -> None:
    with serving(Served(net)) as host:
        spec = described(host, protocol=protocol, body={"picture": body}, batch=4)
        if body == "uint8" and protocol == "json":
            net[0] = nn.Sequential(nn.Flatten(), Scaled())  # type: ignore[operator]
        rs.run(sweep(spec, host), out=Path("http"))
    got = rows(Path("http"))
    fell = got[got["clean_ok"] & ~got["robust"]]
    assert len(fell) >= 1
    if body == "float":
        rs.run(sweep("python:tests.nets:linear"), out=Path("plain"))
        pd.testing.assert_frame_equal(got, rows(Path("plain")))
        return
    assert (fell["distance"] * 255 - (fell["distance"] * 255).round()).abs().max() < 1e-4  # judged on what was sent
    assert fell["distance"].max() <= 64 / 255 + 1e-6


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 255


def test_labels_and_top_answers(net: nn.Module) -> None:
    rs.run(sweep("python:tests.nets:linear", threat=LABELS), out=Path("plain"))
    names = [f"class {k}" for k in range(10)]
    with serving(Served(net, "label")) as host:
        spec = described(host, batch=8, classes=names, answer={"labels": "predictions.*.0.label"})
        rs.run(sweep(spec, host, LABELS), out=Path("label"))
        refused = {d.sentence for c, d in plan(sweep_of(sweep(spec, host), "x")) if c.attack}
        assert refused == {"square needs scores; http:shop shows labels alone, to anybody"}
    same = ["clean_ok", "robust", "distance", "queries"]
    pd.testing.assert_frame_equal(rows(Path("label"))[same], rows(Path("plain"))[same])
    with serving(Served(net, "top3")) as host:
        answer = {"labels": "predictions.*.label", "scores": "predictions.*.score"}
        spec = described(host, batch=8, classes=names, answer=answer)
        rs.run(sweep(spec, host), out=Path("top"))
    rs.run(sweep("python:tests.nets:linear"), out=Path("scores"))
    assert (rows(Path("top"))["clean_ok"] == rows(Path("scores"))["clean_ok"]).all()


def test_a_torn_path_changes_no_row_and_the_bill_is_exact(net: nn.Module) -> None:
    rs.run(sweep("python:tests.nets:linear", n=6), out=Path("plain"))
    served = Served(net, too_many=0.2, drops=0.1, torn=0.1, late=0.02)
    with serving(served) as host:
        spec = described(host, batch=8, concurrency=4, retries=20)
        rs.run(sweep(spec, host, n=6), out=Path("http"))
        time.sleep(0.7)  # those that were late are looked at all the same
    pd.testing.assert_frame_equal(rows(Path("http")), rows(Path("plain")))
    count = billed(Path("http"))
    assert count["sent"] == count["answered"] + count["again"] + count["refused"] + count["lost"]
    assert count["answered"] + count["again"] <= served.looked <= count["sent"] - count["refused"]
    assert count["refused"] > 0
    assert count["lost"] > 0


@pytest.mark.slow
def test_killed_in_the_middle_it_never_asks_again_what_was_answered(net: nn.Module) -> None:
    rs.run(sweep("python:tests.nets:linear"), out=Path("plain"))
    served, environment = Served(net), {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with serving(served) as host:
        Path("sweep.yaml").write_text(yaml.safe_dump(sweep(described(host, batch=1, rate=60), host)))
        command = [sys.executable, "-m", "robustsuite.app.cli", "run", "sweep.yaml", "--out", "http"]
        for answered in (20, 60):
            head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while served.looked < answered and head.poll() is None:
                time.sleep(0.01)
            head.send_signal(signal.SIGKILL)
            head.wait()
        assert served.looked >= 60
        before = billed(Path("http"))
        assert served.looked - before["answered"] - before["again"] <= 2  # under way at a kill
        Path("sweep.yaml").write_text(yaml.safe_dump(sweep(described(host, batch=8), host)))
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "under way when a process was killed" in ended.stdout or "lost" in ended.stdout
    pd.testing.assert_frame_equal(rows(Path("http")), rows(Path("plain")))
    assert sum(times - 1 for times in served.seen.values()) <= billed(Path("http"))["again"] + 2


def test_a_bill_has_a_hard_stop_and_a_larger_one_goes_on(net: nn.Module) -> None:
    served = Served(net)
    with serving(served) as host:
        with pytest.raises(Stopped, match="expected at most 50 pictures sent to shop"):
            rs.run(sweep(described(host, batch=8, queries_total=50), host), out=Path("http"))
        assert served.looked <= 50
        stopped, count = read([Path("http")]), billed(Path("http"))
        assert any(line.endswith("1 of 2 planned cells are not there yet: t: square(steps=20).")
                   for line in cautions(stopped, worst_case(stopped)))  # fmt: skip
        answered = count["answered"] + count["again"]
        assert f"Service shop: {count['sent']} pictures sent, {answered} answered, 0 refused" in bill()
        done = rs.run(sweep(described(host, batch=8, queries_total=5000), host), out=Path("http"))
        assert done.computed > 0
        assert f"shop: {served.looked} pictures sent, {served.looked} answered, 0 refused, 0 lost" in bill()
        assert len(read([Path("http")]).bills) == 1
        assert max(served.seen.values()) <= 2


def test_one_that_answers_otherwise_is_invalid_and_one_that_refuses_ends_the_run(net: nn.Module) -> None:
    with serving(Served(net, changes=0.5)) as host:
        run = rs.run(sweep(described(host, batch=1), host), out=Path("http"))
        scores = run.scores.query("metric == 'robust_accuracy'")
        assert "randomised" in str(scores["flags"].tolist())
        assert set(scores["grade"]) == {"INVALID"}
    with serving(Served(net, forbidden=1)) as host, pytest.raises(Stopped, match="403 Forbidden"):
        rs.run(sweep(described(host), host), out=Path("refused"))


def test_a_host_must_be_named_and_a_foreign_one_authorised(net: nn.Module) -> None:
    spec = described("127.0.0.1:1")
    with pytest.raises(UsageError, match="among the sweep's hosts, got none"):
        plan(sweep_of(sweep(spec), "x"))
    with pytest.raises(BadValue, match="expected one worker where a service is asked"):
        rs.run(sweep(spec, "127.0.0.1:1"), out=Path("http"), by=Workers(2))
    described("example.com")
    with pytest.raises(BadValue, match="expected authorisation"):
        read_endpoint(Path("shop.yaml"))
    described("example.com", authorisation={"by": "A. Owner", "until": "2020-01-01", "scope": "robustness"})
    with pytest.raises(BadValue, match="expected an authorisation of"):
        read_endpoint(Path("shop.yaml"))


@pytest.mark.parametrize("change", [
    {"url": "ftp://127.0.0.1/x"}, {"url": "http://me:secret@127.0.0.1/x"}, {"rate": 0}, {"batch": -1},
    {"protocol": "x"}, {"protocol": "custom"}, {"unknown": 1}, {"body": {"picture": "jpeg"}}, {"name": "../x"},
    {"body": {"picture": "raw"}, "batch": 2}, {"headers": {"Authorization": "Bearer $NOT_SET_ANYWHERE"}},
])  # fmt: skip
def test_a_wrong_description_is_a_sentence(net: nn.Module, change: dict[str, Any]) -> None:
    spec = described("127.0.0.1:1", **change)
    with pytest.raises((BadModel, BadValue)) as caught:
        plan(sweep_of(sweep(spec, "127.0.0.1:1"), "x"))
    assert "secret" not in str(caught.value)


def test_nothing_is_asked_before_a_cell_needs_it(net: nn.Module) -> None:
    served = Served(net)
    with serving(served) as host:
        from robustsuite.engine.estimate import estimate

        planned = plan(sweep_of(sweep(described(host), host), "x"))
        assert sum(estimate(planned).values()) > 0
        assert served.looked == 0
    assert torch.is_grad_enabled()


def test_a_plan_that_its_bill_does_not_cover_says_so(net: nn.Module) -> None:
    with serving(Served(net)) as host:
        asked = [plan(sweep_of(sweep(described(host, queries_total=most), host), "x")) for most in (1, 10**9)]
    said, covered = ([*overdrawn(cells)] for cells in asked)
    assert not covered
    assert len(said) == 1
    assert "of a service that allows 1 (queries_total)" in said[0]


def test_what_an_attack_asks_of_nets_of_its_own_is_on_no_bill(net: nn.Module) -> None:
    own = {"scenario": "evasion", "access": ["aux_data"], "budget": {"linf": 0.1},
           "attacks": [{"transfer": {"surrogates": "python:tests.nets:another"}}]}  # fmt: skip
    with serving(Served(net)) as host:
        cells = plan(sweep_of(sweep(described(host, queries_total=100), host, threat=own), "x"))
    assert sum(cell.cost().forwards for cell, _ in cells if cell.attack) > 500
    assert list(overdrawn(cells)) == []
