"""What malformed sweeps cost: each of tests/corpus.py in a process of its own, its seconds and peak memory.

    python -m benchmarks.hostile [first step]

Printed: how many ended in one sentence (exit code 2, one line on stderr), the slowest, the largest, a good sweep's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

COMMAND = [sys.executable, "-m", "robustsuite.app.cli", "run"]


def asked(folder: Path, *words: str) -> tuple[bool, float, float]:
    """Whether the command ends in one sentence; its seconds, its peak in MiB."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    with open(folder / "said", "w+b") as said:
        child = subprocess.Popen([*COMMAND, *words], cwd=folder, stdout=said, stderr=said, env=environment)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - started
        said.seek(0)
        text = said.read().decode(errors="replace")
    good = child.returncode == 2 and text.count("\n") == 1 and text.startswith("error: ") and "\x1b" not in text
    return good, took, used.ru_maxrss / 1024


def _dumped(mappings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Those mappings as texts that yaml can write."""
    for case, mapping in mappings.items():
        with suppress(yaml.YAMLError, UnicodeError):
            yield case, yaml.safe_dump(mapping)


def main(first: int = 0, step: int = 1) -> None:
    """Measure every `step`-th case from the `first` on, and print what does not end in a sentence."""
    corpus = import_module("tests.corpus")
    good_one, texts = corpus.TEXT, [*corpus.YAMLS.items(), *_dumped(corpus.SWEEPS)][first::step]
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), dict[str, tuple[bool, float, float]]()
        (folder / "s.yaml").write_text(good_one)
        _, seconds, base = asked(folder, "s.yaml", "--dry-run")
        sys.stdout.write(f"a good sweep, planned: {seconds:.1f} s, {base:.0f} MiB\n")
        for case, text in texts:
            (folder / "s.yaml").write_text(text, "utf-8", errors="surrogatepass")
            found[case] = asked(folder, "s.yaml")
            if not found[case][0]:
                sys.stdout.write(f"no sentence: {case}: {(folder / 'said').read_text(errors='replace')[:200]!r}\n")
    slow, large = max(found, key=lambda case: found[case][1]), max(found, key=lambda case: found[case][2])
    sys.stdout.write(f"{len(found)} tried, {sum(good for good, *_ in found.values())} sentences\n")
    sys.stdout.write(f"slowest: {slow} {found[slow][1]:.1f} s; largest: {large} {found[large][2]:.0f} MiB\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
