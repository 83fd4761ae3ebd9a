"""What malformed input costs: each case of tests/corpus.py and tests/malformed in a process of its own.

    python -m benchmarks.hostile [--only REGEX] [--every K] [--verbose]

Every case is the command that a user would type, in a folder of its own: what it says, its seconds, its peak memory. It
ends rightly in one sentence (exit code 2), in failed cells that say one (3), or, where a changed file still is one, in
a run (0). Wrong are a traceback, a signal, more than 10 seconds or 1 GiB above a good one's, and any file that code in
the input, or a program that it names, leaves behind. Processes are forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

SECONDS, MIB = 10.0, 1024.0
"""Above what a good one takes."""

KILLED = 60
"""Seconds after which a case is ended."""

SPACE = 8 << 30
"""Bytes of addresses that a case may ask for, so that a bomb harms nobody else."""

TOOLS = ("gs", "gswin32c", "gswin64c", "ghostscript", "magick", "convert", "inkscape", "rsvg-convert", "pdftoppm", "xv",
         "display", "unzip", "djpeg", "cwebp")  # fmt: skip
"""Programs that picture libraries call; those on PATH while a case runs only leave a mark."""


class Ended(NamedTuple):
    """How a case ended: '' where rightly, else what is wrong; its exit code, seconds, peak in MiB and words."""

    wrong: str
    code: int
    seconds: float
    mib: float
    text: str


def asked(words: Iterable[str], folder: Path) -> Ended:
    """The command line's words, asked in a forked process in this folder; RAN beside it would mean that code ran."""
    started = time.monotonic()
    if not (child := os.fork()):
        _child([*words], folder)
    _, status, used = os.wait4(child, 0)
    seconds, code = time.monotonic() - started, os.waitstatus_to_exitcode(status)
    text = (folder.parent / "said").read_bytes().decode(errors="replace")
    return Ended(_wrong(code, text, folder), code, seconds, used.ru_maxrss / 1024, text)


def _child(words: list[str], folder: Path) -> None:
    from robustsuite.app import cli

    code = 70
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(KILLED)
        resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
        os.chdir(folder)
        sys.path.insert(0, "")
        os.environ |= {"PATH": str(folder.parent.parent / "bin"), "ROBUSTSUITE_CACHE": str(folder.parent / "cache")}
        said, nothing = os.open("../said", os.O_RDWR | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
        for fd, end in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(fd, end)
        sys.argv = ["robustsuite", *words]
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wrong(code: int, text: str, folder: Path) -> str:
    if (folder.parent / "RAN").exists():
        return "code ran"
    if code < 0:
        return f"ended by signal {-code}"
    if "Traceback (most recent" in text or "\x1b" in text:
        return "a traceback" if "Traceback" in text else "control characters"
    if code == 2:
        usage = "Usage:" in text and "Error" in text  # a flag's own parser
        one = text.count("\n") == 1 and text.startswith("error: ") and len(text) < 3000
        return "" if usage or one else "no sentence"
    if code == 3:
        return "" if "failed: " in text and len(text) < 20_000 else "no failed cell"
    return "" if code == 0 else f"exit code {code}"


def sweeps() -> Iterator[Any]:
    """The malformed sweeps, those that yaml can write."""
    corpus, made = import_module("tests.corpus"), import_module("tests.malformed.made")
    texts = dict(corpus.YAMLS)
    for name, mapping in corpus.SWEEPS.items():
        with suppress(yaml.YAMLError, UnicodeError):
            texts[name] = yaml.safe_dump(mapping)
    for name, text in texts.items():
        yield made.Case("sweeps", name, ("run", "s.yaml"), made.put("s.yaml", text))


def tried(case: Any, place: Path) -> Ended:
    """A case in a fresh folder, cleared away afterwards."""
    made = import_module("tests.malformed.made")
    home = place / "case"
    folder = home / "here"
    folder.mkdir(parents=True)
    (folder / "nets.py").write_text(made.NETS)
    try:
        case.make(folder)
        return asked(case.words, folder)
    finally:
        shutil.rmtree(home)


def canaries(folder: Path) -> None:
    """Programs of those names that leave a mark where a case would see it."""
    folder.mkdir()
    for name in TOOLS:
        (folder / name).write_text("#!/bin/sh\n: > ../RAN\n")
        (folder / name).chmod(0o755)


def good(place: Path) -> tuple[float, float]:
    """Seconds and MiB of a run on plain pictures."""
    made, pictures = import_module("tests.malformed.made"), import_module("tests.malformed.pictures")
    case = made.Case("good", "one", made.of_pictures(), lambda folder: pictures.folders(folder, {}))
    ended = tried(case, place)
    assert (ended.wrong, ended.code) == ("", 0), ended
    return ended.seconds, ended.mib


def main() -> None:
    """Try them, tell what ends wrongly, and print the table."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--only", default="")
    flags.add_argument("--every", type=int, default=1)
    flags.add_argument("--verbose", action="store_true")
    chosen = flags.parse_args()
    _imported()
    found: dict[str, list[tuple[str, Ended]]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        canaries(place / "bin")
        seconds, mib = good(place)
        sys.stdout.write(f"a good one: {seconds:.1f} s, {mib:.0f} MiB\n")
        parts = (sweeps(), *(import_module(f"tests.malformed.{part}").cases() for part in ("models", "data")))
        every = (case for part in parts for case in part if re.search(chosen.only, f"{case.kind}: {case.name}"))
        for case in islice(every, 0, None, chosen.every):
            ended = tried(case, place)
            if not ended.wrong and (ended.seconds > seconds + SECONDS or ended.mib > mib + MIB):
                ended = ended._replace(wrong="too slow" if ended.seconds > seconds + SECONDS else "too large")
            found.setdefault(case.kind, []).append((case.name, ended))
            if ended.wrong or chosen.verbose:
                said = " ".join(ended.text.split())
                cost = f"{ended.code}, {ended.seconds:.1f} s, {ended.mib:.0f} MiB"
                sys.stdout.write(f"{ended.wrong or 'right'} [{cost}]: {case.kind}: {case.name}: {said[-400:]}\n")
                sys.stdout.flush()
    _table(found)


def _imported() -> None:
    """Everything that a command imports, on one thread: what is forked has no others."""
    import torch

    torch.set_num_threads(1)
    for module in ("robustsuite.app.cli", "robustsuite.app.api", "robustsuite.reports", "torchvision.transforms",
                   "torchvision.models", "timm", "yaml", "onnxruntime"):  # fmt: skip
        with suppress(ImportError):
            import_module(module)
    import_module("robustsuite.config.registry").cards()


def _table(found: dict[str, list[tuple[str, Ended]]]) -> None:
    out = ["| kind of input | tried | a sentence | still valid | wrong | slowest s | largest MiB |", f"|{'---|' * 7}"]
    for kind, all_ended in found.items():
        ends = [ended for _, ended in all_ended]
        wrong, valid = sum(bool(e.wrong) for e in ends), sum(not e.wrong and e.code == 0 for e in ends)
        out.append(f"| {kind} | {len(ends)} | {len(ends) - wrong - valid} | {valid} | {wrong} | "
                   f"{max(e.seconds for e in ends):.1f} | {max(e.mib for e in ends):.0f} |")  # fmt: skip
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
