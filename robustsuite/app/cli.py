"""The command line: run, list, show, report, doctor and what commands_*.py add.

Errors of the user end in one sentence and exit code 2.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robustsuite.app import commands_data, commands_reports

if TYPE_CHECKING:
    from robustsuite.app.api import Run
    from robustsuite.config.registry import Card
    from robustsuite.engine.plan import Decision
    from robustsuite.engine.sweep import Sweep
    from robustsuite.scenarios.cell import Cell

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Sweep attacks against defenses across models and distribution shifts; report what can be believed.",
)  # fmt: skip
screen = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Many = list[str] | None
KINDS = {"attacks": "attack", "defenses": "defense", "shifts": "shift", "data": "data", "models": "model",
         "scenarios": "scenario"}  # fmt: skip

TERMINATED = 128 + signal.SIGTERM
"""The exit code of what SIGTERM has ended: a scheduler's or `docker stop`'s way of saying Ctrl-C."""


def main() -> None:
    """Entry point of the `robustsuite` command."""
    from robustsuite.errors import UsageError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if not sys.warnoptions:  # what bears on a number becomes a flag; a library's own warnings would bury it
        warnings.simplefilter("ignore")
    try:
        app()
    except UsageError as error:
        errors.print("error:", " ".join(str(error).split()), markup=False)
        sys.exit(2)
    except SystemExit as end:
        if end.code in (130, TERMINATED):  # typer has caught the KeyboardInterrupt
            errors.print("stopped; the same command goes on where this one ended")
        raise
    except BrokenPipeError:
        os._exit(0)


@app.command()
def run(
    sweep: Annotated[Path | None, typer.Argument(help="A sweep in yaml; the embedded one if none is named.")] = None,
    model: Annotated[Many, typer.Option("--model", "-m", help="Model spec, e.g. torchvision:resnet50.")] = None,
    data: Annotated[Many, typer.Option("--data", "-D", help="Data spec, e.g. '{cifar10: {root: DIR}}'.")] = None,
    shift: Annotated[Many, typer.Option("--shift", "-s", help="Shift set, e.g. imagenet_c.")] = None,
    attack: Annotated[Many, typer.Option("--attack", "-a", help="Attack, e.g. '{pgd: {steps: 50}}'.")] = None,
    defense: Annotated[Many, typer.Option("--defense", "-d", help="Defense, e.g. randomized_smoothing.")] = None,
    budget: Annotated[str, typer.Option("--budget", "-b", help="Budget of --attack.")] = "linf: 8/255",
    access: Annotated[str, typer.Option(help="What --attack may see: white_box, scores, labels.")] = "white_box",
    n: Annotated[int | None, typer.Option("--n", help="Judge on the first N examples of each data set.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Run seeds.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/<name> by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in flight.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, compute nothing.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Checks that cost more than the attacks they doubt.")] = False,
) -> None:
    """Run a sweep, resume it, and write its report. Flags replace the sweep's own axes."""
    from robustsuite.app import api, display
    from robustsuite.engine.plan import plan
    from robustsuite.engine.sweep import read_sweep

    chosen = _override(read_sweep(sweep), model, data, shift, attack, defense, budget, access, seed)
    if dry_run:
        _print_plan(plan(chosen, _device(device), n))
        return
    watched = partial(display.progress, screen=screen)
    done = api.run(
        chosen, out=out, device=_device(device), first=n, width=batch_size, audited=audit, watched=watched
    )
    _finish(done)


def _override(
    sweep: Sweep, model: Many, data: Many, shift: Many, attack: Many, defense: Many, budget: str, access: str,
    seed: list[int] | None,
) -> Sweep:  # fmt: skip
    """The sweep with the axes that flags name replaced; --attack stands under a threat of its own."""
    from robustsuite.config.keys import named
    from robustsuite.config.registry import card_of
    from robustsuite.engine.sweep import sweep_of
    from robustsuite.serve.data import parse_spec

    axes: dict[str, Any] = {"models": model, "seeds": seed}
    axes |= {k: [_entry(v) for v in values] for k, values in
             {"data": data, "shifts": shift, "defenses": defense}.items() if values is not None}  # fmt: skip
    if attack is not None:
        entries = [_entry(a) for a in attack]
        scenario = card_of("attack", parse_spec(named(entries[0])[0], "attack")[0]).place
        threat = {"scenario": scenario, "access": access, "budget": _entry(budget), "attacks": entries}
        axes["threats"] = {"cli": threat}
    changed = {k: v for k, v in axes.items() if v is not None}
    if not changed:
        return sweep
    return sweep_of({**sweep.model_dump(), **changed}, "the command line")


def _entry(text: str) -> Any:
    """A flag's value as yaml: 'pgd' or '{pgd: {steps: 50}}'."""
    from robustsuite.errors import BadValue

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadValue(f"expected yaml such as '{{pgd: {{steps: 50}}}}', got {text!r}; mend it") from error


def _device(name: str) -> str:
    import torch

    from robustsuite.errors import BadValue

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there or (index and not index.isdigit()):
        raise BadValue(f"expected a device such as cpu, cuda, cuda:1 or mps, got {name!r}; or leave it out")
    if not there[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise BadValue(f"expected a device of this machine, got {name!r}; use --device auto")
    return name


def _print_plan(planned: list[tuple[Cell, Decision]]) -> None:
    """What would be run, what not and why, and the cost, all at the most."""
    from robustsuite.app.api import names_of
    from robustsuite.engine.estimate import estimate, trainings
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
    table = Table(box=None, pad_edge=False)
    for name in ("threat", "attack or shift", "defense"):
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
        table.add_row(*map(escape, key), str(len(members)), *figures)
    screen.print(table)
    for sentence in dict.fromkeys(f"{v.status}: {v.sentence}" for _, v in cells if v.status != "run"):
        screen.print(sentence, markup=False)
    total, runs = sum(seconds.values()), len(seconds)
    screen.print(
        f"\n{len(cells)} cells, {runs} to compute, {trainings(cells)} trainings; at most {_duration(total)} "
        f"besides the trainings (attacks leave what they break)"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _finish(done: Run) -> None:
    """Write the report, print its tables; exit code 3 where cells failed."""
    from robustsuite.app import display

    report = done.report()
    failed = display.summary(done.folder, screen)
    screen.print(f"{done.planned} cells ({done.computed} computed now) in {done.folder}", markup=False)
    screen.print(f"report: {report / 'report.html'}", markup=False)
    if failed:
        raise typer.Exit(3)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="attacks, defenses, shifts, data, models or scenarios.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of objects.")] = False,
) -> None:
    """What is installed: ours and third parties' plugins."""
    from robustsuite.config import registry
    from robustsuite.errors import UnknownName

    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    found = [card for (k, _), card in registry.cards().items() if k == KINDS[kind]]
    if as_json:
        typer.echo(json.dumps([_card_facts(card) for card in found], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "place", "what it does"):
        table.add_column(column, overflow="fold", no_wrap=column == "place")
    for card in found:
        table.add_row(escape(card.name), card.place, escape(card.summary))
    screen.print(table)


def _card_facts(card: Card) -> dict[str, Any]:
    return {
        "name": card.name, "kind": card.kind, "place": card.place, "summary": card.summary, "paper": card.paper,
        **_own_facts(card),
        "parameters": {k: str(v) if not isinstance(v, int | float | str | bool | None) else v
                       for k, v in card.parameters.items()},
        "differs": list(card.differs), "origin": card.origin,
    }  # fmt: skip


def _own_facts(card: Card) -> dict[str, Any]:
    """What an attack's card says, or a defense's."""
    from robustsuite.config.registry import AttackCard, DefenseCard

    if isinstance(card, AttackCard):
        return {"needs": card.needs.words(), "norms": list(card.norms), "goals": list(card.goals)}
    if isinstance(card, DefenseCard):
        surrogate = card.surrogate is not None
        return {"hides": card.hides.words(), "stochastic": card.stochastic, "surrogate": surrogate}
    return {}


@app.command()
def show(name: Annotated[str, typer.Argument(help="A plugin's name.")]) -> None:
    """One plugin: scenario, access, citation, parameters, differences from the paper."""
    import inspect

    from robustsuite.config import registry
    from robustsuite.errors import UnknownName

    found = [card for (_, known), card in registry.cards().items() if known == name]
    if not found:
        raise UnknownName("plugin", name, [known for _, known in registry.cards()])
    for card in found:
        screen.print(f"[bold]{escape(card.name)}[/bold]  {card.kind}{', ' + card.place if card.place else ''}")
        screen.print(escape(inspect.getdoc(card.function) or ""))
        own = {k: ", ".join(v) if isinstance(v, list) else v for k, v in _own_facts(card).items()}
        rows = [("paper", card.paper), *((k, "yes" if v is True else v or "") for k, v in own.items())]
        rows += [("code", card.origin)]
        rows += [("parameter", f"{k} = {v!r}") for k, v in card.parameters.items()]
        rows += [("differs", sentence) for sentence in card.differs]
        table = Table(box=None, show_header=False, pad_edge=False)
        for row in rows:
            if row[1] and row[1] != "nothing":
                table.add_row(row[0], escape(row[1]))
        screen.print(table)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; <run>/report by default.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Any of html,md,latex,csv.")] = "html,md,latex,csv",
) -> None:
    """Tables and figures from stored rows."""
    from robustsuite.reports import write_report

    for file in write_report(runs, out or runs[0] / "report", formats.split(",")):
        screen.print(str(file), markup=False)


@app.command()
def doctor() -> None:
    """What is installed, which device, the framework's canaries, and what each plugin lacks."""
    import torch

    from robustsuite.config import registry
    from robustsuite.engine import provenance

    about = provenance.collect()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("robustsuite", f"{about.suite_version} ({about.commit or 'no checkout'})")
    for package, found in about.packages.items():
        table.add_row(package, found or f"not installed; pip install {package}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    table.add_row("device", f"{device}, {torch.get_num_threads()} threads")
    for canary, seen in about.canaries.items():
        table.add_row(f"canary {canary}", str(seen))
    screen.print(table)
    for (kind, name), card in registry.cards().items():
        if card.requires and provenance.installed(card.requires) is None:
            screen.print(f"{kind} {name} lacks {card.requires}; pip install {card.requires}", markup=False)


commands_reports.register(app)
commands_data.register(app)

if __name__ == "__main__":
    main()
