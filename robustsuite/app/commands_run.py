"""The commands that compute: run, and merge for what several machines computed of one plan."""

from __future__ import annotations

import json
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from robustsuite.app import flags
from robustsuite.app.terminal import console

if TYPE_CHECKING:
    from robustsuite.app.api import Run, Workers
    from robustsuite.engine.plan import Decision
    from robustsuite.engine.sweep import Sweep
    from robustsuite.scenarios.cell import Cell

screen = console()

Many = list[str] | None
HOUR = 3600.0


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    for command in (run, merge):
        app.command()(command)


def run(
    sweep: Annotated[Path | None, typer.Argument(help="A sweep in yaml; the embedded one if none is named.")] = None,
    model: Annotated[Many, typer.Option("--model", "-m", help="Model spec, e.g. torchvision:resnet50.")] = None,
    data: Annotated[Many, typer.Option("--data", "-D", help="Data spec, e.g. '{cifar10: {root: DIR}}'.")] = None,
    shift: Annotated[Many, typer.Option("--shift", "-s", help="Shift set, e.g. imagenet_c.")] = None,
    attack: Annotated[Many, typer.Option("--attack", "-a", help="Attack, e.g. '{pgd: {steps: 50}}'.")] = None,
    defense: Annotated[Many, typer.Option("--defense", "-d", help="Defense, e.g. randomized_smoothing.")] = None,
    budget: Annotated[str, typer.Option("--budget", "-b", help="Of --attack; 4/255 alone is linf's.")] = "linf: 8/255",
    access: Annotated[str, typer.Option(help="What --attack may see: white_box, scores, labels.")] = "white_box",
    first: Annotated[int | None, typer.Option(help="Judge on the first N examples of each data set.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Run seeds.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/<name> by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in flight.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, compute nothing.")] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Dearer checks, and every kept picture put to the run's other systems.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a GPU or core if left out.")] = None,
    executor: Annotated[
        str, typer.Option(help="Who starts them: local, ray, slurm, or '{slurm: {partition: gpu, time: 240}}'.")
    ] = "local",
    shard: Annotated[str | None, typer.Option(help="I/N: the I-th of N shares; `merge` puts them together.")] = None,
) -> None:
    """Run a sweep, resume it, and write its report. Flags replace its axes; without a sweep they are all there is."""
    from robustsuite.app import api, display
    from robustsuite.engine.plan import plan

    chosen = _chosen(sweep, model, data, shift, attack, defense, budget, access, seed)
    if dry_run:
        planned = plan(chosen, flags.device(device), first)
        print_plan(planned)
        warn(planned)
        return
    watched = partial(display.progress, screen=screen)
    done = api.run(
        chosen, out=out, device=device, first=first, width=batch_size, audited=audit, watched=watched,
        by=_workers(workers, executor), shard=shard,
    )  # fmt: skip
    finish(done)


def _workers(count: int | None, executor: str) -> Workers:
    """Who computes."""
    from robustsuite.app.api import Workers
    from robustsuite.serve.data import parse_spec

    name, options = parse_spec(flags.entry(executor), "executor")
    return Workers(count, name, options)


def _chosen(
    file: Path | None, model: Many, data: Many, shift: Many, attack: Many, defense: Many, budget: str, access: str,
    seed: list[int] | None,
) -> Sweep:  # fmt: skip
    """The sweep of the file with the axes that flags name replaced; --attack stands under a threat of its own.

    Without a file the flags are the whole sweep, with the embedded one's model and data where they name none. A sweep
    that flags made has a name, and so a folder, of its own.
    """
    from robustsuite.config.keys import named
    from robustsuite.config.registry import card_of
    from robustsuite.engine.sweep import read_sweep, sweep_of
    from robustsuite.serve.data import parse_spec

    axes: dict[str, Any] = {"models": model, "seeds": seed}
    axes |= {k: [flags.entry(v) for v in values] for k, values in
             {"data": data, "shifts": shift, "defenses": defense}.items() if values is not None}  # fmt: skip
    if attack is not None:
        entries = [flags.entry(a) for a in attack]
        scenario = card_of("attack", parse_spec(named(entries[0])[0], "attack")[0]).place
        threat = {"scenario": scenario, "access": access, "budget": flags.budget(budget), "attacks": entries}
        axes["threats"] = {"cli": threat}
    sweep, changed = read_sweep(file), {k: v for k, v in axes.items() if v is not None}
    if not changed:
        return sweep
    base = sweep.model_dump()
    if file is None:
        base = {"name": "flags", "models": base["models"], "data": base["data"]}
    asked = {**base, **changed}
    digest = sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return sweep_of({**asked, "name": f"{asked['name'][:60]}-{digest}"}, "the command line")


def warn(planned: list[tuple[Cell, Decision]]) -> None:
    """What a run of this plan is told before it begins."""
    from robustsuite.engine.execute import overdrawn

    for sentence in overdrawn(planned):
        screen.print(sentence, markup=False)


def print_plan(planned: list[tuple[Cell, Decision]]) -> float:
    """What would be run, what not and why, and the cost, all at the most. Returns its seconds."""
    from robustsuite.app.described import names_of
    from robustsuite.engine.estimate import estimate, kept_bytes, trainings
    from robustsuite.engine.execute import ordered
    from robustsuite.records.labels import called, labels

    names, cells = names_of(planned), list(ordered(planned))
    seconds = estimate(cells)
    different = {tuple(cell.words().values()): cell for cell, _ in cells}  # not by seeds, which are called alike
    found = labels((cell.facts() for cell in different.values()), names)
    groups: dict[tuple[str, str, str], list[tuple[Cell, Decision]]] = {}
    for cell, decision in cells:
        said = called(cell.words(), found)
        key = said["threat"] or "shift", said["attack"] or said["shift"], said["defense"]
        groups.setdefault(key, []).append((cell, decision))
    table, axes = Table(box=None, pad_edge=False), ["threat", "attack or shift", "defense"]
    if not any(cell.lifecycle.defenses for cell, _ in cells):
        axes.pop()
    for name in axes:
        table.add_column(name, overflow="fold")
    for name in ("cells", "forwards", "backwards", "seconds"):
        table.add_column(name, justify="right")
    for key, members in groups.items():
        status = members[0][1]
        if status.status == "run":
            costs = [cell.cost() for cell, _ in members]
            figures = [f"{sum(c.forwards for c in costs):,.0f}", f"{sum(c.backwards for c in costs):,.0f}",
                       f"{sum(seconds[cell.run_id] for cell, _ in members):,.0f}"]  # fmt: skip
        else:
            figures = [status.status, "", ""]
        table.add_row(*map(escape, key[: len(axes)]), str(len(members)), *figures)
    screen.print(table)
    for sentence in dict.fromkeys(f"{v.status}: {v.sentence}" for _, v in cells if v.status != "run"):
        screen.print(sentence, markup=False)
    trained, runs, attacked = trainings(cells), len(seconds), sum(seconds.values())
    total = attacked + sum(trained.values())
    priced = f"at most {_duration(attacked)} (attacks leave what they break)"
    if any(cell.lifecycle.model.host for cell, _ in cells):
        priced = f"at the rates that services allow {_duration(attacked)}, their own pace unknown"
    taught = f", and {len(trained)} trainings: about {_duration(sum(trained.values()))}" if trained else ""
    screen.print(f"\n{len(cells)} cells, {runs} to compute: {priced}{taught}")
    if (kept := kept_bytes(cells) >> 20) > 0:
        screen.print(f"the pictures that break take up to {kept:,} MiB (keep: none in a threat keeps none)")
    if total > 0:
        bought = min(runs, int(runs * HOUR / total))
        screen.print(f"one hour of one {_unit(cells)} buys about {bought} of the {runs} cells with their trainings")
    return total


def _unit(cells: list[tuple[Cell, Decision]]) -> str:
    device = cells[0][0].lifecycle.device if cells else "cpu"
    return "CPU core" if device == "cpu" else "GPU"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def finish(done: Run) -> None:
    """Write the report, print its tables; exit code 3 where cells failed."""
    from robustsuite.app import display

    report = done.report()
    failed = display.summary(done.folder, screen)
    screen.print(f"{done.planned} cells ({done.computed} computed now) in {done.folder}", markup=False)
    screen.print(f"report: {report / 'report.html'}", markup=False)
    if failed:
        raise typer.Exit(3)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs: shares of one plan, or several sweeps.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run that holds them all.")],
) -> None:
    """One run from several, such as the shares of --shard, with its report."""
    from robustsuite.app.api import Run
    from robustsuite.engine.merge import merge as merged

    total, skipped = merged(runs, out)
    for sentence in skipped:
        screen.print(f"left out: {sentence}", markup=False)
    finish(Run(out, total, total))
