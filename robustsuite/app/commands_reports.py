"""The commands that hand results on, or look at them: compare, leaderboard, docs, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robustsuite.app.terminal import console

if TYPE_CHECKING:
    from robustsuite.reports.measure.compare import Comparison

screen = console()


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    for command in (compare, leaderboard, docs, verify, export):
        app.command()(command)


def compare(
    base: Annotated[Path, typer.Argument(help="Folder of the run before.")],
    new: Annotated[Path, typer.Argument(help="Folder of the run after.")],
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here: a test a cell.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF 2.1.0 here: a result a cell.")] = None,
) -> None:
    """Whether NEW is significantly worse than BASE on the same images: exit code 1 if so, 3 if cells are missing."""
    from robustsuite.reports.measure.compare import compare as compared
    from robustsuite.reports.publish import gates
    from robustsuite.reports.read.runs import read
    from robustsuite.reports.render.files import put

    found = compared(read([base]), read([new]))
    for file, render in ((junit, gates.junit), (sarif, gates.sarif)):
        if file is not None:
            put(file, render(found))
    _show(found)
    raise typer.Exit(found.exit_code)


def _show(found: Comparison) -> None:
    """The cells that changed as a table, then one sentence a loss and a count."""
    from robustsuite.reports.measure.compare import BOOTSTRAP, sentence, title

    table = Table(box=None, pad_edge=False)
    table.add_column("cell", overflow="fold")
    for name in ("before", "now", "change", "lost", "won", "p (Holm)", "outcome"):
        table.add_column(name, justify="right")
    rows = found.cells.to_dict("records")
    other = (row for row in rows if row["base"] != row["new"] or row["only_base"] + row["only_new"])
    moved = sorted(other, key=lambda row: float(row["p_holm"]))
    for row in moved:
        unit = 1 if row["test"] == BOOTSTRAP else 100
        digits = 3 if row["test"] == BOOTSTRAP else 1
        figures = [f"{unit * row[name]:.{digits}f}" for name in ("base", "new")]
        figures.append(f"{unit * row['difference']:+.{digits}f}")
        counts = [str(row["only_base"]), str(row["only_new"]), f"{row['p_holm']:.2g}", row["outcome"]]
        table.add_row(escape(f"{title(row)} [{row['metric']}]"), *figures, *counts)
    if moved:
        screen.print(table)
    for row in (row for row in rows if row["outcome"] == "loss"):
        screen.print(f"loss: {title(row)}: {sentence(row)}", markup=False, soft_wrap=True)
    for _, what, reason in found.unpaired:
        screen.print(f"not compared: {what}: {reason}", markup=False, soft_wrap=True)
    gains = sum(row["outcome"] == "gain" for row in rows)
    extra = f", {found.extra} only in the new run" if found.extra else ""
    screen.print(
        f"{len(rows)} cells compared: {len(found.losses)} significantly worse, {gains} better, "
        f"{len(rows) - len(moved)} the same on every image; {len(found.unpaired)} without a counterpart{extra}"
    )


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the site is written.")] = Path("leaderboard"),
    published: Annotated[
        list[Path] | None, typer.Option("--published", help="RobustBench model_info files or folders.")
    ] = None,
) -> None:
    """A static site: systems ranked under each threat, every number linked to its record and its examples."""
    from robustsuite.reports.boards.board_files import write_leaderboard

    files = write_leaderboard(runs, out, published or [])
    screen.print(f"{len(files)} files; open {files[0]}", markup=False, soft_wrap=True)


def docs(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the site is written.")] = Path("build/docs"),
) -> None:
    """A static site with a page for every installed plugin, made from its card."""
    from robustsuite.reports.publish.catalogue import installed, write_catalogue

    files = write_catalogue(*installed(), out)
    screen.print(f"{len(files)} files; open {files[0]}", markup=False, soft_wrap=True)


def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Judge its kept pictures by this.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="Judge every system of this sweep again, trained anew.")] = None,
    first: Annotated[int | None, typer.Option(help="As the run was told, with --sweep.")] = None,
    root: Annotated[str | None, typer.Option(help="What the root of the run's seal is known to be.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Whether a run is as it was computed: seals, arithmetic, tables, pictures. Exit code 1 where anything is wrong."""
    from robustsuite.app import flags
    from robustsuite.errors import BadData, cause
    from robustsuite.records.seal import Finding
    from robustsuite.reports.publish.stale import stale
    from robustsuite.reports.read.verified import verify as verified

    seen = verified(run, root)
    try:
        seen.found += stale(run)
    except Exception as error:  # made of anybody's cells
        said = str(error) if isinstance(error, BadData) else f"none can be made of these cells: {cause(error)}"
        seen.found.append(Finding("report", said))
    looked = f"{seen.cells} cells, {seen.rows:,} rows and {seen.pictures} kept pictures read"
    if model or sweep:
        from robustsuite.app.rejudged import by_models, by_sweep

        again = [by_models(run, model, flags.device(device))] if model else []
        again += [by_sweep(run, sweep, flags.device(device), first)] if sweep else []
        for one in again:
            seen.found += one.found
            for sentence in one.left_out:
                screen.print(f"not judged again: {sentence}", markup=False, soft_wrap=True)
        looked += f", {sum(one.pictures for one in again)} judged again"
    for where, what in seen.notes:
        screen.print(f"{where}: {what}", markup=False, soft_wrap=True)
    for where, what in seen.found:
        screen.print(f"{where}: {what}", markup=False, soft_wrap=True)
    found = f"{len(seen.found)} finding{'s' * (len(seen.found) > 1)}" if seen.found else "all as it was computed"
    if seen.root:
        screen.print(f"root {seen.root}", markup=False, soft_wrap=True)
    screen.print(f"{looked}: {found}")
    raise typer.Exit(1 if seen.found else 0)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; <run>/export by default.")] = None,
    cell: Annotated[str, typer.Option(help="Only the cell whose run id begins so.")] = "",
    formats: Annotated[str, typer.Option("--format", help="png to look at, npz for the exact arrays.")] = "png",
) -> None:
    """The kept adversarial pictures as files, with a table that says of each what it is."""
    from robustsuite.reports.publish.export import export as exported

    files = exported(run, out or run / "export", formats, cell)
    screen.print(f"{len(files) - 1} files of pictures; {files[0]} says what they are", markup=False, soft_wrap=True)
