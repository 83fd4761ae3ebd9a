"""What the suite does on a GPU: its conformance tests, agreement with the CPU, and speed beside its peers.

    python benchmarks/gpu.py --device cuda --out FOLDER [--only NAME[,NAME]]
    python benchmarks/gpu.py --device cpu --tiny --out FOLDER

NAME is a section, or speed for all that are timed. FOLDER gets gpu.json, gpu.md and the output of the tests. Each
section has a time box and the whole run has one, under eight minutes; what fails becomes a row with its sentence, the
rest is measured all the same, and the exit code is 1. `-` is what could not be measured; why stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

from robustsuite import __version__
from robustsuite.benchmarks import gpu_rows
from robustsuite.benchmarks.gpu_agreement import agreement
from robustsuite.benchmarks.gpu_bench import Bench, Row, Span, sentence
from robustsuite.benchmarks.gpu_workers import workers_rows
from robustsuite.engine import provenance

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 450.0
"""Seconds of the whole run: imports and the last row's end come on top, and eight minutes are promised."""

TESTS = 140
"""Of these, what the tests may take."""

PEERS = ("torchvision", "torchattacks", "pyautoattack", "auto-LiRPA", "foolbox", "imagecorruptions")


class Late(BaseException):
    """A section's time is over; no plugin takes it for an error of its own."""


class Section(NamedTuple):
    """A name, the group it belongs to, the seconds it may take, and what it measures."""

    name: str
    group: str
    box: float
    rows: Callable[[Bench], Iterable[Row]]


class Meter:
    """The card's load, asked of nvidia-smi in a thread; without one, every reading is None."""

    def __init__(self, device: torch.device) -> None:
        self.samples: list[tuple[float, float, float]] = []
        self._ended = threading.Event()
        if device.type == "cuda" and shutil.which("nvidia-smi"):
            threading.Thread(target=self._watch, args=(card_id(device),), daemon=True).start()

    def __call__(self, spans: list[Span]) -> tuple[float | None, float | None]:
        """Mean per cent busy and most GiB used within the spans."""
        inside = [s for s in list(self.samples) if any(begin <= s[0] <= end for begin, end in spans)]
        if not inside:
            return None, None
        return sum(s[1] for s in inside) / len(inside), max(s[2] for s in inside) / 1024

    def close(self) -> None:
        """Ask no more."""
        self._ended.set()

    def _watch(self, card: str) -> None:
        while not self._ended.wait(0.2):
            begin = time.perf_counter()
            try:
                busy, memory = map(float, nvidia_smi(card, "utilization.gpu,memory.used"))
            except (OSError, ValueError, subprocess.SubprocessError):  # a card that does not say, as under MIG
                continue
            self.samples.append(((begin + time.perf_counter()) / 2, busy, memory))


def card_id(device: torch.device) -> str:
    """The card as nvidia-smi names it, whatever CUDA_VISIBLE_DEVICES makes of the numbers."""
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    return f"GPU-{uuid.removeprefix('GPU-')}" if uuid else str(device.index or 0)


def nvidia_smi(card: str, query: str) -> list[str]:
    """Its answers, one for each name in the query."""
    command = ["nvidia-smi", "-i", card, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return [value.strip() for value in done.stdout.strip().split(",")]


def described(device: torch.device) -> dict[str, str]:
    """What the numbers were measured with; '-' for what this machine does not have."""
    about = dict.fromkeys(("card", "driver", "cuda", "cudnn"), "-") | {"card": "cpu"}
    if device.type == "cuda":
        about["card"] = torch.cuda.get_device_name(device)
        about["cuda"], about["cudnn"] = str(torch.version.cuda), str(torch.backends.cudnn.version())
        with suppress(OSError, subprocess.SubprocessError):
            about["driver"] = nvidia_smi(card_id(device), "driver_version")[0]
    about["threads"] = str(torch.get_num_threads())
    about |= {"python": sys.version.split()[0], "torch": torch.__version__}
    about |= {name: provenance.installed(name) or "-" for name in PEERS}
    return about | {
        "robustsuite": __version__, "commit": str(provenance.commit()["commit"] or "-")[:12],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def about(bench: Bench) -> Iterator[Row]:
    """The head of the table as a row."""
    facts = described(bench.device)
    yield Row("about", facts["card"], note=", ".join(f"{k} {v}" for k, v in facts.items() if k != "card"))


def conformance(bench: Bench) -> Iterator[Row]:
    """The tests of tests/device on this device, in a process of their own; what they print is kept."""
    folder, row = ROOT / "tests" / "device", Row("conformance", "tests/device", unit="passed")
    if bench.tiny and bench.device.type == "cpu":
        row.note = "not run in a rehearsal on the CPU, where `make test` runs them"
    elif not folder.is_dir():
        row.note = "no folder tests/device beside benchmarks: run this from a checkout"
    elif not list(folder.glob("test_*.py")):
        row.note = "tests/device holds no tests"
    else:
        row = tested(bench, row)
    yield row


def tested(bench: Bench, row: Row) -> Row:
    """The row with what passed; where the time runs out, with what had passed until then."""
    # -vvv outweighs this -q and the project's own: a line a test, so that a killed run still says much.
    command = [sys.executable, "-m", "pytest", "-q", "-vvv", "tests/device", "-p", "no:cacheprovider", "--tb=short"]
    workers = min(8, (os.cpu_count() or 1) // 2)
    command += ["-n", str(workers)] if workers > 1 and find_spec("xdist") else []
    output, code = bench.out / "conformance.txt", None
    there = {**os.environ, "ROBUSTSUITE_DEVICE": str(bench.device)}
    with output.open("w") as file:
        try:
            code = subprocess.run(command, cwd=ROOT, env=there, stdout=file, stderr=file, timeout=TESTS).returncode
        except subprocess.TimeoutExpired:
            row.error = f"stopped after {TESTS} s; "
    text, kinds = output.read_text(errors="replace"), "PASSED|FAILED|ERROR|SKIPPED"
    found = re.findall(rf"^(tests/device/\S+?::.+?) ({kinds})\b", text, re.M)  # one process says it in this order,
    spread = re.findall(rf"^\[gw\d+\].*? ({kinds}) (tests/device/\S+?::.+?) *$", text, re.M)  # several in this
    found += [(name, got) for got, name in spread]
    names = {kind: [name for name, got in found if got == kind] for kind in kinds.split("|")}
    counts = ", ".join(f"{len(names[kind])} {kind.lower()}" for kind in names)
    broken = [name.removeprefix("tests/device/") for name in (*names["FAILED"], *names["ERROR"])]
    row.ours, row.n, row.note = float(len(names["PASSED"])), len(found), counts
    if not found:
        row.ours, row.note = None, "no test came to its end; conformance.txt says more"
    if broken or code not in (0, 5):
        row.error += "; ".join(broken or ["see conformance.txt" if code is None else f"pytest ended with {code}"])
    return row


SECTIONS = (
    Section("about", "about", 15, about),
    Section("conformance", "conformance", 150, conformance),
    Section("agreement", "agreement", 75, agreement),
    Section("pgd", "speed", 90, gpu_rows.pgd_rows),
    Section("apgd", "speed", 30, gpu_rows.apgd_rows),
    Section("square", "speed", 30, gpu_rows.square_rows),
    Section("cgba", "speed", 30, gpu_rows.cgba_rows),
    Section("smoothing", "speed", 20, gpu_rows.smoothing_rows),
    Section("crown", "speed", 30, gpu_rows.crown_rows),
    Section("corruptions", "speed", 40, gpu_rows.corruption_rows),
    Section("training", "speed", 40, gpu_rows.training_rows),
    Section("imagenet", "speed", 30, gpu_rows.imagenet_rows),
    Section("workers", "workers", 150, workers_rows),
)


@contextmanager
def boxed(seconds: float) -> Iterator[None]:
    """Raises Late inside once the time is over; in a thread, where no signal comes, it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Late(f"stopped after {seconds:.3g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again, where the first was raised in a callback that drops it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measured(section: Section, bench: Bench, left: float) -> list[Row]:
    """The section's rows, as far as it came, and one more where it failed or ran out of time."""
    rows: list[Row] = []
    if left < 5:
        return [Row(section.name, "all rows", error=f"not begun: the {LIMIT:.0f} s of the whole run are spent")]
    try:
        with boxed(min(section.box, left)):
            for row in section.rows(bench):
                rows.append(row)
    except (Late, Exception) as error:
        words = str(error) if isinstance(error, Late) else sentence(error)
        rows.append(Row(section.name, "the rows after" if rows else "all rows", error=words))
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def number(value: float | None) -> str:
    """Three figures, or all before the point; '-' for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """The row as the table shows it."""
    words = "; ".join(filter(None, [f"FAILED: {row.error}" if row.error else "", row.note]))
    figures = [number(row.ours), number(row.peer), row.unit or "-", number(row.ratio)]
    rest = [row.survivors or "-", row.utilisation or "-", "-" if row.n is None else str(row.n), words or "-"]
    return [row.section, row.name, *figures, *rest]


LEGEND = "Survivors and utilisation: ours / peer (agreement: device / CPU). Ratio: ours over peer."
HEAD = ("section", "row", "ours", "peer", "unit", "ratio", "survivors", "utilisation", "n", "note")


def markdown(facts: dict[str, str], rows: list[Row]) -> str:
    """The whole report as gpu.md holds it."""
    lines = [f"# {facts['card']}, {facts['date']}", "", ", ".join(f"{k} {v}" for k, v in facts.items()), ""]
    lines += [LEGEND, "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    return "\n".join([*lines, *(f"| {' | '.join(c.replace('|', '/') for c in cells(row))} |" for row in rows), ""])


def printed(row: Row) -> str:
    """The row in 80 columns: its figures, and its sentence below."""
    section, name, ours, peer, unit, ratio, survivors, used, n, words = cells(row)
    figures = f"    {ours:>9} {peer:>9} {unit[:10]:10} x {ratio:>6}  n {n:>6}  left {survivors}"
    below = textwrap.wrap("; ".join(part for part in (used, words) if part != "-"), 76)
    return "\n".join([f"{section:12}{name[:68]}", figures[:80], *(f"    {line}" for line in below)])


def say(words: str) -> None:
    """A line, at once: whoever waits sees how far it is."""
    print(words, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure, write after every section, print; 1 where a row failed, 2 where the device is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to rehearse every section")
    parser.add_argument("--only", default="", help="sections or groups, with commas between them")
    given = parser.parse_args(arguments)
    names = [name for name in given.only.split(",") if name]
    known = {part for section in SECTIONS for part in section[:2]}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"expected sections of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("expected a CUDA device, got none that torch sees; write --device cpu --tiny to rehearse")
    begin, device = time.perf_counter(), torch.device(given.device)
    given.out.mkdir(parents=True, exist_ok=True)
    meter, facts, rows = Meter(device), described(device), list[Row]()
    bench = Bench(device, given.out, given.tiny, seconds=1.0 if given.tiny else 4.0, usage=meter)
    say(f"{facts['card']}, torch {facts['torch']}, {facts['date']}\n{LEGEND}")
    for section in SECTIONS:
        if names and not {section.name, section.group} & set(names):
            continue
        fresh = measured(section, bench, LIMIT - (time.perf_counter() - begin))
        rows += fresh
        record = {"about": facts, "rows": [asdict(row) for row in rows]}
        (given.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
        (given.out / "gpu.md").write_text(markdown(facts, rows))
        say("\n".join(map(printed, fresh)))
    meter.close()
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    # Beside this file stand folders such as `datasets`, which others import by that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    sys.exit(main())
