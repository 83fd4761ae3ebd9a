"""scan: is this checkpoint trojaned? Every scanner that what is granted allows, and what they come to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robustsuite.app import commands_run, flags


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command()(scan)


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

    A probability is given where clean networks like it are known: of the calibration's task and architectures, or
    trained for it by --zoo. Elsewhere the numbers stand alone, and the answer is that it is not known.
    """
    from robustsuite.app import api, display
    from robustsuite.app.scanning import scanning, told

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
