"""The same from Python: run a sweep, or evaluate one network against one attack."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from robustsuite.app import flags
from robustsuite.app.described import description
from robustsuite.app.given import ball, class_numbers, home, network, pixels
from robustsuite.app.transferred import transferred
from robustsuite.config.registry import AttackCard, card_of, checked_parameters
from robustsuite.config.threats import Access, Threat
from robustsuite.engine.afresh import Recipe
from robustsuite.engine.audit import audit
from robustsuite.engine.estimate import crew
from robustsuite.engine.execute import Planned, Progress, billed, execute, ordered, overdrawn
from robustsuite.engine.executors import spread
from robustsuite.engine.pack import pack
from robustsuite.engine.plan import decide, plan
from robustsuite.engine.runner import Runner
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import Sweep, read_sweep, sweep_of
from robustsuite.engine.work import Job, Shard, follower
from robustsuite.errors import BadValue, Lost, Stopped, quoted
from robustsuite.integrity.checks import Flag
from robustsuite.integrity.cross_cell import grades
from robustsuite.integrity.tampering import put_back
from robustsuite.maths import stats
from robustsuite.maths.numerics import float32, threads
from robustsuite.maths.randomness import untouched
from robustsuite.records.flat import flat
from robustsuite.records.pictures import Kept
from robustsuite.records.schema import CellRecord
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import fitting
from robustsuite.serve.data import Dataset, Split, Subjects, in_unit
from robustsuite.serve.lifecycle import Lifecycle

PACKED_BEYOND = 4096
"""Cells in folders of their own, beyond which a run that has ended is packed."""

WIDEST, MANY = 1 << 20, 1024
"""The most images in flight, and workers of one command."""

Watched = Callable[[list[Planned], Store, int], AbstractContextManager[Progress]]
"""(the cells, where they are stored, how many compute) -> who is told how it goes."""


@dataclass(frozen=True)
class Run:
    """A finished sweep on disk: `Run(Path("runs/demo"))` opens one. A notebook shows its tables.

    planned, computed: of a sweep that was just run, how many cells it has and how many were not there before.
    """

    folder: Path
    planned: int = 0
    computed: int = 0

    @property
    def scores(self) -> pd.DataFrame:
        """One row a cell: metric, value, interval, n, status, flags."""
        from robustsuite.reports.measure.scores import scores
        from robustsuite.reports.read.runs import read

        return scores(read([self.folder]))

    def images(self, cell: str) -> Kept:
        """The pictures that are kept of the cell whose run id begins so: ids (M,), clean and adversarial (M, C, H, W).

        float32 in [0, 1], as they were judged. Raises BadValue where no or several cells begin so, or nothing is kept.
        """
        from robustsuite.records.pictures import both
        from robustsuite.reports.read.runs import read

        run = read([self.folder])
        found = [run_id for run_id in run.known if run_id.startswith(cell)]
        kept = both(run.pictures(found[0])) if len(found) == 1 else None
        if kept is None:
            got = f"{len(found)} cells" if len(found) != 1 else "a cell of which no picture is kept"
            raise BadValue(f"expected the run id of a cell with kept pictures, got {quoted(cell)}: {got}")
        return kept

    def _repr_html_(self) -> str:
        """The tables of the run, as Jupyter shows them."""
        from robustsuite.reports.publish.notebook import table_html

        return table_html(self.folder)

    def report(self, out: Path | None = None) -> Path:
        """Write the report (html, md, latex, csv) and return its folder."""
        from robustsuite.reports import write_report

        out = out or self.folder / "report"
        write_report([self.folder], out)
        return out


@contextmanager
def unwatched(cells: list[Planned], store: Store, workers: int) -> Iterator[Progress]:
    """Nobody looks on."""
    yield Progress()


@untouched()
@threads()
def run(
    sweep: str | Path | Mapping[str, Any] | Sweep | None = None, *, out: Path | str | None = None, device: str = "auto",
    first: int | None = None, width: int | None = None, audited: bool = False, watched: Watched = unwatched,
    by: Workers | None = None, shard: str | None = None,
) -> Run:  # fmt: skip
    """Run a sweep (a yaml file, a mapping, the embedded one for None) and store it; resumes what is there.

    In a mapping an entry of `data` may be a `Dataset`, such as `rs.Data.of` makes, if this process computes.
    device: the first GPU, else the CPU, for auto. first: judge on so many examples of each data set. width: images in
    flight. audited: also run the checks that cost more than the attacks they doubt. watched: who is told how it goes.
    by: who computes; this process for None, and the rows are the same whoever does. shard: '2/3' for the second of
    three shares, which `merge` puts together.
    """
    if isinstance(sweep, Mapping):
        sweep = sweep_of(dict(sweep), "the given sweep")
    elif not isinstance(sweep, Sweep):
        sweep = read_sweep(Path(sweep) if sweep is not None else None)
    folder = Path(out) if out is not None else Path("runs") / sweep.name
    device = flags.device(device)
    _fits(width, by)
    planned = plan(sweep, device, first)
    described, cells = description(sweep, planned, first), list(ordered(planned))
    share = Shard.of(shard) if shard else None
    cells = share.cells(cells) if share else cells
    store = Store(folder)
    left = store.describe(described)
    count, recipe = _count(by, cells, store, device), _recipe(sweep, device, first)
    with watched(cells, store, count or 1) as progress:
        if left:
            progress.tell(f"{left} cells of the sweep before leave the report of {folder}; their files stay, and a "
                          f"sweep that asks for them finds them computed")  # fmt: skip
        for sentence in overdrawn(cells):
            progress.tell(sentence)
        if by is None or (by.executor == "local" and count == 1):
            try:
                computed = execute(cells, store, progress, width=width)
            except Stopped as error:
                raise Stopped(f"{error}; `robustsuite report {folder}` shows what was measured until then") from error
            if audited:
                audit(cells, store, progress, width=width, recipe=recipe)
            for service in billed(cells):
                progress.tell(service.bill())
        else:
            if recipe is None:
                raise BadValue(
                    "expected data that other processes can load, got a Dataset from Python; leave out `by` to compute "
                    "in this process, or write the pictures to a folder and sweep {imagefolder: {root: FOLDER}}"
                )
            look = follower(cells, store, progress)
            computed = look()
            job = Job(recipe, str(folder.resolve()), store.run, width, audited, share)
            spread(by.executor, dict(by.options), job, count, look, progress.tell)
            if left := look():
                raise Lost(f"expected all cells from {by.executor}, {left} are missing; run the same command again")
        if audited and by is not None and by.executor != "local":  # whose devices this machine may lack
            progress.tell("kept pictures are not put to other systems yet: run the same command with --executor local")
        elif audited:
            transferred(cells, store, progress)
    store.tidy()
    if sum(1 for _ in store.cells.iterdir()) > PACKED_BEYOND:
        pack(folder)
    store.seal()
    return Run(folder, len(cells), computed)


@dataclass(frozen=True)
class Workers:
    """Who computes a sweep. executor: local (processes of this machine), ray or slurm.

    count: how many; None for one a GPU, or one a core where the sweep is worth it; of Ray, one for all that it has.
    options: of ray the address of a cluster, of slurm partition, time, parallel, cpus, more and cluster.
    """

    count: int | None = None
    executor: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict)


def _recipe(sweep: Sweep, device: str, first: int | None) -> Recipe | None:
    """What other processes plan the same from; None where its data are in this one alone."""
    if any(isinstance(entry, Dataset) for entry in sweep.data):
        return None
    return Recipe(sweep.model_dump(mode="json"), device, first, str(Path.cwd()), tuple(sys.path))


def _fits(width: int | None, by: Workers | None) -> None:
    """Raises BadValue for what no run can have: no picture in flight, too many workers."""
    for name, value, most in (("images in flight", width, WIDEST), ("workers", by and by.count, MANY)):
        if value is not None and not (isinstance(value, int) and 1 <= value <= most):
            raise BadValue(f"expected 1 to {most} {name}, got {quoted(value)}; leave it out")


def _count(by: Workers | None, cells: list[Planned], store: Store, device: str) -> int | None:
    """How many compute; None where the executor knows."""
    services = billed(cells)
    if services and by is not None and (by.executor != "local" or (by.count or 1) > 1):
        raise BadValue("expected one worker where a service is asked, got more: rate and bill are one; ask for 1")
    if by is None or services:
        return 1
    return by.count or (crew(cells, store, device) if by.executor == "local" else None)


@dataclass(frozen=True)
class Evaluation:
    """One network against one attack: accuracies with exact 95 % intervals, one row an example, flags.

    grade: SOUND, PROVISIONAL or INVALID, as a sweep's cell would end: one attack of one family is PROVISIONAL, and
    `flags` say what to add. screening: why it is one, as '80 images; steps 10 of 20', '' where it is none.
    """

    clean: float
    robust: float
    interval: tuple[float, float]
    columns: dict[str, Tensor] = field(repr=False)
    flags: list[Flag] = field(default_factory=list)
    grade: str = ""
    screening: str = ""


@untouched()
@float32()
@threads()
def evaluate(
    net: nn.Module, x: Any, y: Any, *, attack: str | Callable[..., Any] = "pgd", budget: Any = None,
    access: Access = Access.WHITE_BOX, seed: int = 0, device: str | torch.device | None = None, **parameters: Any,
) -> Evaluation:  # fmt: skip
    """How `net` stands against `attack` on x (N, C, H, W) in [0, 1] with labels y (N,).

    net: it returns logits, alone or as a tuple's first or what is named `logits`; one output is the logit of class 1
    where all labels are 0 or 1. A copy in eval mode is attacked, the network stays as and where it is. x, y: tensors
    or arrays; uint8, (N, H, W, C) and grey (N, H, W) are taken too, other ranges are refused. attack: a registered
    name or a function decorated as one. budget: a ball such as Linf(8/255), the default. device: where to compute;
    where the network is, if None. parameters: the attack's own. Raises UsageError for what does not fit, AccessRefused
    where the attack needs more than `access`.
    """
    card = card_of("attack", attack) if isinstance(attack, str) else getattr(attack, "card", None)
    if not isinstance(card, AttackCard):
        raise BadValue(f"expected a name or a function under @evasion.attack, got {attack!r}; decorate it")
    within, pictures = ball(budget), pixels(x)
    labels, where = class_numbers(y, len(pictures)), home(net, x, device)
    gradients, pair = Access.GRADIENTS in card.needs, 2 if int(labels.max()) < 2 else 0
    with put_back(others=True):
        model = network(net, in_unit(pictures[:1]), where, gradients=gradients, classes=pair)
    split = Split.of(pictures, class_numbers(labels, len(pictures), model.space.classes))
    dataset = Dataset("given", model.space, tuple(map(str, range(model.space.classes))), {"test": split})
    cycle = Lifecycle(model, dataset, seed=seed, device=str(where))
    given = tuple(sorted(checked_parameters(card, parameters).items()))
    threat = Threat("given", card.place, access, within)
    cell = Cell("evaluate", cycle, Subjects(split), threat, card, given)
    if (found := decide(cell)).status != "run":
        raise BadValue(f"expected an attack that can be run, got one that is {found.status}: {found.sentence}")
    facts, examples = Runner(fitting(cell)).played(cell)
    record = CellRecord(run_id=cell.run_id, **{**cell.asked(), **facts})
    standing = grades([flat(record)], lambda _: pd.DataFrame(examples))[cell.run_id]
    flags = [*(Flag(f.name, f.detail, f.level) for f in record.flags), *standing.flags]
    columns = {column.name: torch.from_numpy(examples[column.name]) for column in record.columns}
    right = int(columns["robust"].sum())
    interval = stats.clopper_pearson(right, len(split))
    clean = float(columns["clean_ok"].float().mean())
    return Evaluation(clean, right / len(split), interval, columns, flags, *standing[1:])
