"""certify: does a network keep the properties of VNN-COMP instances? Proven, broken with the input, or not known."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustsuite.app import commands_run, flags

if TYPE_CHECKING:
    from torch import nn

MOST = 10_000
"""Rows of a list of instances."""
WORDS = ("verified", "falsified", "unknown")


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command()(certify)


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
    from robustsuite.methods.verification.branching import Limits
    from robustsuite.methods.verification.properties import decided
    from robustsuite.methods.verification.vnnlib import read_instance, written
    from robustsuite.serve.models import load_model

    sizes = flags.space(space)
    net = _behind(load_model(model, sizes).net, normalised).to(flags.device(device)).eval()
    counts = dict.fromkeys(WORDS, 0)
    screen = commands_run.screen
    for file in list(listed(instances, only))[:first]:
        start = time.perf_counter()
        answer = decided(net, read_instance(file, math.prod(sizes.shape), sizes.classes), sizes.shape, Limits(nodes))
        seconds = time.perf_counter() - start
        counts[answer.status] += 1
        screen.print(line(file.name, answer.status, answer.nodes, seconds), markup=False, highlight=False)
        if out and answer.x is not None and answer.z is not None:
            out.mkdir(parents=True, exist_ok=True)
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
        chosen = [row for row in rows if row and only in row[0]]
        if len(rows) > MOST or any(len(row) < 2 for row in chosen):
            raise BadData(f"expected {MOST} rows network,instance,seconds at most in {quoted(path.name)}; mend it")
        nets = sorted({row[0] for row in chosen})
        if len(nets) != 1:
            names = ", ".join(nets[:4]) or "none"
            raise BadData(f"expected instances of one network in {quoted(path.name)}, got {names}; say --only NAME")
        for row in chosen:
            file = path.parent / row[1]
            packed = file.with_name(f"{file.name}.gz")
            yield packed if packed.exists() and not file.exists() else file
