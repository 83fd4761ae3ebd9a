"""The page on paper: printed by a browser without a window, where one is there; nothing is fetched or left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from robustsuite.errors import BadValue

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
    "microsoft-edge-stable", "msedge",
)  # fmt: skip
"""What a Chromium is called on PATH."""

FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-extensions",
    "--disable-sync", "--disable-background-networking", "--disable-component-update", "--no-pdf-header-footer",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
)  # fmt: skip
"""No window, no profile of anybody's, no name that is looked up, no line of date and file on each sheet."""

PATIENCE = 180.0
"""Seconds that a page may take to print."""


def printed(page: str) -> bytes:
    """The page (html that needs nothing beside it) as a PDF of A4 sheets; the same page gives the same bytes.

    Raises BadValue where no Chromium, Chrome or Edge is on PATH, or where the one that is prints nothing.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise BadValue(
            "expected a Chromium, Chrome or Edge on PATH to print report.pdf, got none; install one, or write "
            "--format html, open report.html in any browser and print it there"
        )
    with tempfile.TemporaryDirectory(prefix="robustsuite-pdf-", ignore_cleanup_errors=True) as folder:
        file, out = Path(folder, "report.html"), Path(folder, "report.pdf")
        file.write_text(page, "utf-8")
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        command = [browser, *FLAGS, *root, f"--user-data-dir={folder}/profile", f"--print-to-pdf={out}", file.as_uri()]
        said = _run(command)
        if not out.is_file() or not out.stat().st_size:
            raise BadValue(
                f"expected {Path(browser).name} to print report.pdf, got {said}; write --format html, open report.html "
                f"in any browser and print it there"
            )
        return _timeless(out.read_bytes())


def _run(command: list[str]) -> str:
    """Run the browser to its end; what became of it, in words."""
    try:
        quiet = subprocess.DEVNULL
        done = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"nothing within {PATIENCE:.0f} s"
    except OSError as error:
        return str(error.strerror)
    return f"no file and exit code {done.returncode}"


def _timeless(pdf: bytes) -> bytes:
    """The same without the time it was printed at, byte for byte as long: tables of offsets stay right."""
    return re.sub(rb"\(D:\d{14}", lambda found: b"(D:" + b"19700101000000", pdf)
