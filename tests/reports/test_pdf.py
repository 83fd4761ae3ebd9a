"""The printed page: by a browser where one is installed, else one sentence; the other formats stand either way."""

import shutil
import subprocess
from pathlib import Path

import pytest
from report_store import Store

from robustsuite.errors import BadValue
from robustsuite.reports import write_report
from robustsuite.reports.publish import pdf

PAGE = "<!doctype html><title>a page</title><p>twice the same"


def test_without_a_browser_one_sentence_says_what_prints_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadValue, match=r"expected a Chromium, Chrome or Edge on PATH.* in any browser"):
        write_report([store.root], tmp_path, ["html", "pdf"])
    assert (tmp_path / "report.html").is_file(), "what can be written is"
    assert not (tmp_path / "report.pdf").exists()


def fake(folder: Path, script: str) -> None:
    """A program called chromium that does this."""
    file = folder / "chromium"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_a_browser_that_fails_or_hangs_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    fake(tmp_path, "exit 3")
    with pytest.raises(BadValue, match=r"expected chromium to print report.pdf, got no file and exit code 3"):
        pdf.printed(PAGE)
    fake(tmp_path, "exec /bin/sleep 30")
    monkeypatch.setattr(pdf, "PATIENCE", 0.2)
    with pytest.raises(BadValue, match="got nothing within 0 s"):
        pdf.printed(PAGE)


def test_pdf_is_written_by_name_alone(written: Path) -> None:
    assert not (written / "report.pdf").exists()


@pytest.mark.slow
def test_the_same_page_gives_the_same_bytes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = pdf.printed(PAGE)
    assert first.startswith(b"%PDF-")
    assert first == pdf.printed(PAGE)
    assert not list(tmp_path.iterdir())
    assert b"20260" not in first[:2000]


def test_the_flags_ask_nothing_of_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def run(command: list[str], **_: object) -> "subprocess.CompletedProcess[bytes]":
        seen.append(command)
        Path(next(part for part in command if part.startswith("--print-to-pdf="))[15:]).write_bytes(
            b"%PDF-1.4 (D:20261128045111+00'00')"
        )
        return subprocess.CompletedProcess(command, 0)

    fake(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    assert pdf.printed(PAGE) == b"%PDF-1.4 (D:19700101000000+00'00')"
    (command,) = seen
    assert "--host-resolver-rules=MAP * ~NOTFOUND" in command
    assert any(part.startswith("--user-data-dir=") for part in command)
    assert command[-1].startswith("file://")
