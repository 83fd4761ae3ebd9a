"""The GPU measurement script, rehearsed on the CPU: its rows, its two files, and what it does where a section fails."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from robustsuite.benchmarks import gpu
from robustsuite.benchmarks.gpu_bench import Bench, Counted, Row, Stand, paired, survivors
from robustsuite.config.threats import Linf
from robustsuite.maths.numerics import float32

CPU = torch.device("cpu")


def run(out: Path, only: str = "") -> int:
    return gpu.main(["--device", "cpu", "--tiny", "--out", str(out), "--only", only])


def rows_of(out: Path) -> list[Row]:
    return [Row(**row) for row in json.loads((out / "gpu.json").read_text())["rows"]]


def raising(bench: Bench) -> Iterator[Row]:
    yield Row("first", "kept", ours=1.0)
    raise ValueError("expected a kernel, got none\nand more lines")


def sleeping(bench: Bench) -> Iterator[Row]:
    yield Row("second", "kept", ours=2.0)
    time.sleep(5)


def last(bench: Bench) -> Iterator[Row]:
    yield Row("third", "measured all the same", ours=3.0)


def test_the_cheap_sections_run_and_both_files_say_the_same(tmp_path, capsys):
    assert run(tmp_path, "about,conformance,corruptions") == 0
    about = json.loads((tmp_path / "gpu.json").read_text())["about"]
    rows, report = rows_of(tmp_path), (tmp_path / "gpu.md").read_text()
    assert {"card", "driver", "cuda", "cudnn", "python", "torch", "torchvision", "date", "robustsuite"} <= set(about)
    assert about["card"] == "cpu"
    assert all(f"{name} {value}" in report for name, value in about.items())
    assert [row.section for row in rows] == ["about", "conformance", *["corruptions"] * 16]
    table = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    assert table == [list(gpu.HEAD), *(gpu.cells(row) for row in rows)]
    assert all(row.ours and row.peer and row.ratio for row in rows[2:])
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[2:])) <= 80


def test_a_section_that_raises_or_is_late_is_a_row_and_the_others_are_measured(tmp_path, monkeypatch):
    sections = [gpu.Section(f.__name__, "speed", box, f) for f, box in ((raising, 5), (sleeping, 0.3), (last, 5))]
    monkeypatch.setattr(gpu, "SECTIONS", tuple(sections))
    assert run(tmp_path) == 1
    rows = rows_of(tmp_path)
    assert [(row.section, row.ours) for row in rows if not row.error] == [("first", 1), ("second", 2), ("third", 3)]
    failed = {row.section: row.error for row in rows if row.error}
    assert failed == {"raising": "ValueError: expected a kernel, got none", "sleeping": "stopped after 0.3 s"}
    report = (tmp_path / "gpu.md").read_text()
    assert "| raising | the rows after | - | - | - | - | - | - | - | FAILED: ValueError: expected a kernel" in report


def test_no_section_begins_once_the_time_of_the_whole_run_is_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT", 1.0)
    assert run(tmp_path, "about") == 1
    assert "not begun" in rows_of(tmp_path)[0].error


def test_what_is_unknown_is_a_dash_and_never_zero():
    assert gpu.cells(Row("pgd", "TF32", note="why"))[2:] == ["-", "-", "-", "-", "-", "-", "-", "why"]
    assert [gpu.number(v) for v in (None, 0.0, 0.01234, 12.345, 1234.5)] == ["-", "0", "0.0123", "12.3", "1,234"]
    assert gpu.Meter(CPU)([(0.0, 1e12)]) == (None, None)


def test_the_card_is_watched_while_a_row_is_measured(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '97, 3072'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(gpu, "card_id", lambda device: "GPU-0")
    meter, begin = gpu.Meter(torch.device("cuda")), time.perf_counter()
    while not meter.samples and time.perf_counter() - begin < 5:
        time.sleep(0.05)
    meter.close()
    now = time.perf_counter()
    assert meter([(begin, now)]) == (97.0, 3.0)
    assert Bench(CPU, tmp_path, usage=meter).used([(begin, now)], [(now, now)]) == "97 / - %, 3.0 GiB"


def test_an_unknown_section_and_a_missing_device_end_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments in (["--device", "cuda"], ["--device", "cpu", "--only", "pdg"]):
        with pytest.raises(SystemExit) as ended:
            gpu.main([*arguments, "--out", str(tmp_path)])
        assert ended.value.code == 2
    assert "expected sections of" in capsys.readouterr().err


def test_the_output_of_the_tests_is_read_in_both_of_pytests_manners(tmp_path, monkeypatch):
    lines = (
        "tests/device/test_a.py::test_b[x y] PASSED [ 50%]\n[gw1] [ 75%] FAILED tests/device/test_a.py::test_c[z] \n"
        "FAILED tests/device/test_a.py::test_c[z] - said twice\ntests/device/test_a.py::test_d SKIPPED (no card)\n"
    )
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(fake))
    row = gpu.tested(Bench(CPU, tmp_path), Row("conformance", "tests/device"))
    assert (row.ours, row.n, row.error) == (1.0, 3, "test_a.py::test_c[z]")
    assert row.note == "1 passed, 1 failed, 0 error, 1 skipped"


def test_a_peer_cannot_switch_the_attacked_network_to_train_mode(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)).eval()
    asked, x = Counted(net), torch.rand(4, 3, 2, 2)
    asked.eval().train()
    assert not net.training
    asked(x.clone().requires_grad_()).sum().backward()
    assert (asked.forwards, asked.backwards) == (4, 4)
    stand = Stand(net, x, net(x).argmax(1), Linf(0.1))
    far = x + 0.5  # beyond the budget: no break, whatever it does
    assert survivors(Bench(CPU, tmp_path), stand, x).all()
    assert survivors(Bench(CPU, tmp_path), stand, far).all()
    net.train()
    with pytest.raises(RuntimeError, match="eval mode"):
        survivors(Bench(CPU, tmp_path), stand, x)


def test_each_side_is_warmed_up_and_the_median_of_three_is_kept(tmp_path):
    calls: list[tuple[str, int]] = []
    row, results = paired(
        Bench(CPU, tmp_path), Row("a", "b", n=6), lambda k: calls.append(("ours", k)) or 1,
        lambda k: calls.append(("peer", k)) or 2, warm=1, full=9,
    )  # fmt: skip
    assert calls == [("ours", 1), ("peer", 1), *[("ours", 9), ("peer", 9)] * 3]
    assert results == (1, 2)
    assert row.note == "median of 3"
    assert row.ratio == pytest.approx(row.ours / row.peer)


def test_the_flags_of_tf32_are_put_back():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with float32(tf32=True):
        assert torch.backends.cuda.matmul.allow_tf32
        with float32():
            assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.slow
def test_every_section_is_rehearsed_without_a_failure(tmp_path):
    assert run(tmp_path) == 0
    rows = rows_of(tmp_path)
    assert {row.section for row in rows} == {section.name for section in gpu.SECTIONS}
    assert all(row.ours == 100 for row in rows if row.unit == "% equal")
    for row in rows:
        assert row.ours is not None or row.note
        if row.section in ("pgd", "apgd", "square") and row.survivors:
            ours, peer = map(int, row.survivors.split(" / "))
            assert abs(ours - peer) <= 0.1 * (row.n or 0)
    assert {row.survivors for row in rows if row.section == "pgd"} - {None}
