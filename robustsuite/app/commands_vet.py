"""vet: one model on one data set, by a preset that says first what it will cost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from robustsuite.app import commands_run


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command()(vet)


def vet(
    model: Annotated[str, typer.Argument(help="Model spec, e.g. 'checkpoint:net.pth?arch=resnet18_cifar'.")],
    data: Annotated[str, typer.Argument(help="Data spec, e.g. imagefolder:DIR or '{cifar10: {root: DIR}}'.")],
    level: Annotated[str, typer.Option(help="screening (minutes), standard or publication.")] = "screening",
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

    sweep = vetting(model, commands_run._entry(data), level, tuple(host or ()))
    where = commands_run._device(device)
    commands_run._print_plan(plan(sweep, where))
    if dry_run:
        return
    watched = partial(display.progress, screen=commands_run.screen)
    by = None if workers is None else api.Workers(workers)
    done = api.run(sweep, out=out, device=where, watched=watched, by=by or api.Workers())
    commands_run._finish(done)
