"""The protocols between one adversary and one lifecycle: what it is handed, what it returns, how it is judged.

How to bring one of your own. Write one file, name it under the entry point group "robustsuite.plugins", and put one
`Scenario` into it; attacks for it carry `carded("attack", "<its name>", ...)` and have any signature that its `play`
calls. Everything else follows: `robustsuite list scenarios`, yaml, plan, resume, report, compare, leaderboard.

    def play(context: Context) -> Record:
        system, split = context.served(), context.split        # what answers, and the pictures the cell is about
        desk = Desk(system.net, context.threat.access, context.rng)     # it counts; what the attack holds can only ask
        guess = context.attack(desk.oracle(), split.images(torch.arange(len(split))), rng=context.rng)
        return Record({"guess": guess, "member": context.subjects.among("train")}, [], *desk.counts.totals())

    guessing = Scenario(
        "guessing", "Who was in the training set?", play, paper="...",
        columns=(Column(name="guess", dtype="float", better="less", scores=(Scoring(name="auc", kind="auc",
                        by="member", compared=True),)), Column(name="member")),
        headline="auc", subjects=lambda judged, data, threat: data.joined("train", "test"),
    )

- `spec` is a pydantic model of the threat's yaml, `Spec` or a subclass with keys of its own; what it reads besides the
  common keys is in `context.threat.terms`.
- `passes` names the stages of the lifecycle that the adversary meets; a defense at another stage is inert.
- `subjects` says which examples the cell is about: `data.joined("train", "test")` for several splits under ids that are
  unique over the data set, `Subjects.none()` for none, the judged split where it is not given. Subjects with a `stream`
  are asked in an order of the scenario's own, and a sweep's does not touch them.
- `trained` says what becomes of the lifecycle where the protocol itself chooses what is trained on.
- `owns` says how an adversary trains networks for itself, and how many (training, count), None where it trains none;
  `--dry-run` prices them, once for all cells of a threat and a system.
- `decide` is asked for what cannot be played, in a sentence.
- `play` is handed a `Context`: what the threat's access grants and nothing else; columns (N,) come back.
- `together` says how many examples are looked at together (1, or a client's batch): a cell is then played in parts of
  any multiple, so that memory does not grow with the cell, several workers share it and a killed one loses a part.
  Without it a cell is played as a whole. What is to be said of all examples, flags and a note, is then said by
  `conclude(context, record) -> Record`, once, from the joined columns.
- `columns` says what each column means and which scores come of it (`robustsuite.records.schema.Scoring`); columns that
  an attack adds need no word. Scores are computed from stored rows by those words, in reports that need no plugin.
- `headline` names the score that ranks. `joins`: whether an example stands where it stands under "all" attacks (an
  adversary that may choose), under "any" (proofs), or, "", where neither means anything.
- `sections`, a function (run, scores) -> `Part` under `@part` of `robustsuite.reports.read.extra`, adds what the
  generic table does not say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from robustsuite.config.keys import Spec
from robustsuite.config.plugins import plugins
from robustsuite.config.registry import Card, card_of
from robustsuite.records.schema import Column, ScenarioFacts
from robustsuite.scenarios.record import Record

if TYPE_CHECKING:
    from robustsuite.config.decision import Decision
    from robustsuite.config.threats import Threat
    from robustsuite.scenarios.cell import Cell
    from robustsuite.serve.data import Dataset, Split, Subjects
    from robustsuite.serve.lifecycle import Lifecycle
    from robustsuite.serve.models import Fit

ANSWERED = ("data", "train", "harden", "serve")
"""The stages that what answers has been through."""


@dataclass(frozen=True)
class Scenario:
    """One protocol as a plugin; the module's docstring says what each part is for.

    play and conclude take a `context.Context`, owns, decide and together a `cell.Cell`; both stand above this file.
    asks: its attacks put questions to the served system, so that what hides answers or gradients bears on them.
    streams: a system that adapts to what it is asked can be played, in the order of the subjects.
    bare: an attack's forwards, in its cost, are of the network behind the serve stage.
    """

    name: str
    summary: str
    play: Callable[..., Record] = field(repr=False)
    columns: tuple[Column, ...] = field(repr=False)
    headline: str
    paper: str = ""
    spec: type[Spec] = Spec
    passes: tuple[str, ...] = ANSWERED
    subjects: Callable[[Split, Dataset, Threat], Subjects] | None = None
    trained: Callable[[Lifecycle, Threat], Lifecycle] | None = None
    owns: Callable[[Cell], tuple[Fit, int] | None] = field(default=lambda cell: None, repr=False)
    decide: Callable[..., Decision | None] = field(default=lambda cell: None, repr=False)
    together: Callable[[Cell], int] = field(default=lambda cell: len(cell.split), repr=False)
    conclude: Callable[..., Record] = field(default=lambda context, record: record, repr=False)
    joins: Literal["all", "any", ""] = ""
    sections: Callable[..., Any] | str = ""
    asks: bool = False
    streams: bool = False
    bare: bool = False

    @property
    def card(self) -> Card:
        """What `robustsuite list` and `show` know of it."""
        return Card("scenario", self.name, self.play, paper=self.paper, about=self.summary)

    def facts(self) -> ScenarioFacts:
        """What a record says of it."""
        made = self.sections
        where = made if isinstance(made, str) else f"{made.__module__}:{_name(made)}"
        return ScenarioFacts(name=self.name, headline=self.headline, joins=self.joins, sections=where)


def _name(function: Callable[..., Any]) -> str:
    return str(inspect.unwrap(function).__qualname__)


def scenario_of(name: str) -> Scenario:
    """The scenario of this name; raises UnknownName with the nearest."""
    card_of("scenario", name)
    return _installed()[name]


@cache
def _installed() -> dict[str, Scenario]:
    found = (value for module in plugins() for value in vars(module).values())
    return {value.name: value for value in found if isinstance(value, Scenario)}
