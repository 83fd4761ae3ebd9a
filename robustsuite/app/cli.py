"""The command line: list, show, report, doctor and what commands_*.py add.

Errors of the user end in one sentence and exit code 2.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from robustsuite.app import commands_data, commands_reports, commands_run, commands_vet
from robustsuite.app.terminal import console, prepare

if TYPE_CHECKING:
    from robustsuite.config.registry import Card

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Sweep attacks against defenses across models and distribution shifts; report what can be believed.",
)  # fmt: skip
screen = console()
errors = console(stderr=True, soft_wrap=True)

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
        prepare(sys.argv[1:])
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
    finally:
        _left_out()


def _left_out() -> None:
    """A line for each plugin module that could not be imported, if plugins were looked for."""
    registry = sys.modules.get("robustsuite.config.registry")
    for broken in registry.left_out() if registry else ():
        errors.print("warning:", " ".join(str(broken).split()), markup=False)


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
        least = [f"{name} {value}" for name, value in card.least.items()]
        return {"needs": card.needs.words(), "norms": list(card.norms), "goals": list(card.goals),
                "family": list(card.families()), "least": least, "nist": list(card.nist),
                "atlas": list(card.atlas)}  # fmt: skip
    if isinstance(card, DefenseCard):
        surrogate = card.surrogate is not None
        return {"hides": card.hides.words(), "stochastic": card.stochastic, "rejects": card.rejects,
                "surrogate": surrogate}  # fmt: skip
    return {}


@app.command()
def show(name: Annotated[str, typer.Argument(help="A plugin's name.")]) -> None:
    """One plugin: scenario, access, citation, parameters, differences from the paper."""
    import inspect

    from robustsuite.config import registry
    from robustsuite.config.taxonomy import worded
    from robustsuite.errors import UnknownName

    found = [card for (_, known), card in registry.cards().items() if known == name]
    if not found:
        raise UnknownName("plugin", name, [known for _, known in registry.cards()])
    for card in found:
        screen.print(f"[bold]{escape(card.name)}[/bold]  {card.kind}{', ' + card.place if card.place else ''}")
        screen.print(escape(_flowing(inspect.getdoc(card.function) or "")))
        facts = _own_facts(card)
        classes = worded(facts.pop("atlas", ()), facts.pop("nist", ()))
        own = {k: ", ".join(v) if isinstance(v, list) else v for k, v in facts.items()} | classes
        rows = [("paper", card.paper), *((k, "yes" if v is True else v or "") for k, v in own.items())]
        rows += [("code", card.origin)]
        rows += [("parameter", f"{k} = {v!r}") for k, v in card.parameters.items()]
        rows += [("differs", sentence) for sentence in card.differs]
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column()
        table.add_column(overflow="fold")
        for row in rows:
            if row[1] and row[1] != "nothing":
                table.add_row(row[0], escape(row[1]))
        screen.print(table)


def _flowing(text: str) -> str:
    """Each paragraph on one line, for the terminal to break at its own width; one with indented lines stays."""
    return "\n\n".join(part if "\n " in part else " ".join(part.split()) for part in text.split("\n\n"))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; <run>/report by default.")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Any of html,md,latex,csv, and, by name alone, evidence, pdf.")
    ] = "html,md,latex,csv",
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
    from robustsuite.errors import install

    about = provenance.collect()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("robustsuite", f"{about.suite_version} ({about.commit or 'no checkout'})")
    for package, found in about.packages.items():
        table.add_row(package, found or f"not installed; {install(package)}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    table.add_row("device", f"{device}, {torch.get_num_threads()} threads")
    for canary, seen in about.canaries.items():
        table.add_row(f"canary {canary}", str(seen))
    screen.print(table)
    for (kind, name), card in registry.cards().items():
        if card.requires and provenance.installed(card.requires) is None:
            screen.print(f"{kind} {name} lacks {card.requires}; {install(card.requires)}", markup=False)
    for broken in registry.left_out():
        screen.print(str(broken), markup=False)


commands_run.register(app)
commands_vet.register(app)
commands_reports.register(app)
commands_data.register(app)

if __name__ == "__main__":
    main()
