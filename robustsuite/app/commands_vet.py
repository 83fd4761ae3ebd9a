"""vet: one model on one data set, by a preset that says first what it will cost; scan: is it trojaned?

certify: does it keep the properties of VNN-COMP instances?
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robustsuite.app import commands_run, flags

if TYPE_CHECKING:
    from torch import nn

    from robustsuite.engine.execute import Planned, Progress
    from robustsuite.engine.store import Store


SOON = 600.0
"""Seconds that somebody waits for."""
MOST = 10_000
"""Rows of a list of instances."""
WORDS = ("verified", "falsified", "unknown")


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(vet)
    app.command()(scan)
    app.command()(certify)


def vet(
    model: Annotated[str, typer.Argument(help="Model spec, e.g. 'checkpoint:net.pth?arch=resnet18_cifar'.")],
    data: Annotated[str, typer.Argument(help="Data spec, e.g. imagefolder:DIR or '{cifar10: {root: DIR}}'.")],
    level: Annotated[str, typer.Option(help="screening (minutes), standard or publication.")] = "screening",
    first: Annotated[int | None, typer.Option(min=1, help="On the first N pictures, instead of the level's.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option("--budget", "-b", help="A linf radius; 8/255, or 4/255 above 64 pixels.")
    ] = None,
    host: Annotated[list[str] | None, typer.Option(help="host:port that may be asked, for an http: model.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/vet-... by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, compute nothing.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a GPU or core if left out.")] = None,
) -> None:
    """Vet one model: every adversary that what it shows allows, corruptions, proofs; its cost first, a report last."""
    from robustsuite.app import api, display
    from robustsuite.app.vetting import vetting
    from robustsuite.engine.plan import plan

    radii = tuple(map(_radius, budget or ()))
    sweep = vetting(model, flags.entry(data, "imagefolder:DIR"), level, tuple(host or ()), first, radii)
    where = flags.device(device)
    if dry_run:
        planned = plan(sweep, where)
        _priced(planned)
        commands_run.warn(planned)
        return

    @contextmanager
    def watched(cells: list[Planned], store: Store, count: int) -> Iterator[Progress]:
        _priced(cells)  # of the plan that is run, which need not be made a second time for it
        with display.progress(cells, store, count, screen=commands_run.screen) as progress:
            yield progress

    commands_run.finish(api.run(sweep, out=out, device=where, watched=watched, by=api.Workers(workers)))


def _priced(cells: list[Planned]) -> None:
    """Print the plan, and on how many pictures it would take some minutes where it takes long."""
    seconds = commands_run.print_plan(cells)
    n = max((len(cell.split) for cell, _ in cells), default=0)
    few = max(8, int(n * SOON / max(seconds, 1.0)) // 8 * 8)
    if seconds > 2 * SOON and few < n:
        commands_run.screen.print(f"--first {few} would take at most {few / n * seconds / 60:.0f} min")


def _radius(text: str) -> str:
    """A linf radius from '4/255' or 'linf: 4/255'. Raises BadValue."""
    from robustsuite.errors import BadValue, quoted

    found = flags.budget(text)
    if not isinstance(found, dict) or set(found) != {"linf"}:
        raise BadValue(f"expected a linf radius such as 4/255, got {quoted(text)}; l2 is asked besides")
    return str(found["linf"])


def scan(
    checkpoint: Annotated[str, typer.Argument(help="Model spec, e.g. 'checkpoint:net.pth?arch=resnet18_cifar'.")],
    data: Annotated[
        str, typer.Argument(help="Data spec, e.g. imagefolder:DIR; without it only what needs no picture scans.")
    ] = "",
    zoo: Annotated[
        int, typer.Option(min=0, help="Train so many clean networks of this task to compare with; 8 or more say.")
    ] = 0,
    space: Annotated[str, typer.Option(help="Without data: channels, height, width and classes: 3x32x32x10.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/scan-... by default.")
    ] = None,
) -> None:
    """Is this network trojaned? What each scanner says, its rank among clean networks, and the recovered triggers.

    A probability is given where the calibration has networks like it. Elsewhere the answer is that it is not known;
    --zoo then trains clean networks of this task, for ranks and to tell natural triggers. Exit code 3 where one failed.
    """
    from robustsuite.app import api, display
    from robustsuite.app.vetting import scanning, told

    screen = commands_run.screen
    watched = partial(display.progress, screen=screen)
    done = api.run(scanning(checkpoint, data, zoo, space, seed), out=out, device=flags.device(device), watched=watched)
    report = done.report()
    rows, sentences = told(done.folder)
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(rows[0]):
        table.add_column(escape(name), justify="right" if 0 < i < len(rows[0]) - 1 else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    screen.print(table)
    for sentence in sentences:
        screen.print(sentence, markup=False)
    screen.print(f"report: {report / 'report.html'}", markup=False)
    if any(row[1] == "failed" for row in rows):
        raise typer.Exit(3)


def certify(
    model: Annotated[str, typer.Argument(help="Model spec, e.g. 'checkpoint:net.pth?arch=resnet2b'.")],
    instances: Annotated[list[Path], typer.Argument(help=".vnnlib or .vnnlib.gz files, or a list instances.csv.")],
    space: Annotated[str, typer.Option(help="Channels, height, width and classes.")] = "3x32x32x10",
    normalised: Annotated[
        bool, typer.Option("--normalised", help="The inputs stand behind the model's normalisation.")
    ] = False,
    only: Annotated[str, typer.Option(help="Of a list, the rows whose network's name holds this.")] = "",
    nodes: Annotated[int, typer.Option(min=1, help="Parts that may be bounded, an instance.")] = 8000,
    first: Annotated[int | None, typer.Option(min=1, help="The first N instances.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for counterexamples.")] = None,
) -> None:
    """Verify VNN-COMP instances of a network: verified, falsified with a counterexample, or unknown; and seconds.

    The limit is a number of bounded parts, so that an answer does not follow the machine. A counterexample was asked of
    the network itself; --out writes it in the competition's form. Exit code 3 where an instance stays unknown.
    """
    from robustsuite.errors import BadValue, quoted
    from robustsuite.methods.verification.branching import Limits
    from robustsuite.methods.verification.properties import decided
    from robustsuite.methods.verification.vnnlib import read_instance, written
    from robustsuite.serve.models import load_model

    sizes = flags.space(space)
    loaded = load_model(model, sizes)
    if not loaded.pretrained:
        raise BadValue(f"expected a model with its weights, got the recipe {quoted(model)}; name a checkpoint")
    if out:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            got = f"{quoted(str(out))}: {error.strerror}"
            raise BadValue(f"expected a folder for --out, got {got}; name another") from error
    net = _behind(loaded.net, normalised).to(flags.device(device)).eval()
    counts = dict.fromkeys(WORDS, 0)
    screen = commands_run.screen
    for file in _present(list(listed(instances, only))[:first]):
        start = time.perf_counter()
        answer = decided(net, read_instance(file, math.prod(sizes.shape), sizes.classes), sizes.shape, Limits(nodes))
        seconds = time.perf_counter() - start
        counts[answer.status] += 1
        screen.print(line(file.name, answer.status, answer.nodes, seconds), markup=False, highlight=False)
        if out and answer.x is not None and answer.z is not None:
            (out / f"{file.name}.counterexample").write_text(written(answer.x.flatten(), answer.z))
    screen.print(", ".join(f"{n} {status}" for status, n in counts.items()), markup=False, highlight=False)
    if counts["unknown"]:
        raise typer.Exit(3)


def _behind(net: nn.Module, normalised: bool) -> nn.Module:
    """The network, without its normalisation where the instances' inputs are normalised already. Raises BadValue."""
    from robustsuite.errors import BadValue
    from robustsuite.serve.models import Normalised

    if not normalised:
        return net
    if not isinstance(net, Normalised):
        raise BadValue("expected a model with a normalisation in front, got none; leave --normalised out")
    return net.net


def line(name: str, status: str, nodes: int, seconds: float) -> str:
    """One instance in 79 columns; a long name loses its middle."""
    short = name if len(name) <= 42 else f"{name[:20]}…{name[-21:]}"
    return f"{short:42} {status:9} {nodes:7} parts {seconds:8.1f} s"


def listed(given: list[Path], only: str) -> Iterator[Path]:
    """The instances' files: those given, and those that a list names beside itself. Raises BadData."""
    from robustsuite.errors import BadData, quoted

    for path in given:
        if path.suffix != ".csv":
            yield path
            continue
        try:
            with path.open(newline="") as stream:
                rows = [row for row, _ in zip(csv.reader(stream), range(MOST + 1), strict=False)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadData(f"expected a list of instances, got {quoted(str(path))}: {error}; name one") from error
        if len(rows) > MOST:
            raise BadData(f"expected {MOST} rows at most in {quoted(path.name)}, got more; split it")
        chosen = [row for row in rows if row and only in row[0]]
        if short := [row for row in chosen if len(row) < 2 or not row[1].strip()]:
            what = quoted(",".join(short[0])[:80])
            raise BadData(f"expected rows network,instance,seconds in {quoted(path.name)}, got {what}; mend that row")
        if len({row[0] for row in chosen}) != 1:
            nets = sorted({row[0] for row in chosen or rows if row})
            known = ", ".join(map(quoted, nets[:4])) + (f" and {len(nets) - 4} more" if len(nets) > 4 else "")
            got = (known or "no row") if chosen or not only else f"none whose name holds {quoted(only)} among {known}"
            raise BadData(f"expected instances of one network in {quoted(path.name)}, got {got}; say --only NAME")
        for row in chosen:
            file = path.parent / row[1]
            packed = f"{file}.gz"
            yield Path(packed) if os.path.exists(packed) and not os.path.exists(file) else file


def _present(files: list[Path]) -> list[Path]:
    """The files, all of which are there: a list is not found to be incomplete after an hour. Raises BadData."""
    from robustsuite.errors import BadData, quoted

    if absent := [file for file in files if not os.path.exists(file)]:  # what no system takes for a name is absent too
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise BadData(f"expected .vnnlib files that are there, got {quoted(str(absent[0]))}{more}; mend the path")
    return files
