"""One file that brings a scenario: who was in the training set? With an attack, a column, an AUC, a section."""

import torch
from torch import Tensor

from robustsuite.config.keys import Spec
from robustsuite.config.registry import Cost, carded
from robustsuite.config.threats import Access, Threat
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Column, Scoring
from robustsuite.reports.read.extra import part
from robustsuite.reports.read.runs import Results
from robustsuite.reports.render.document import Part, Section, Table, counted, words
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.context import Context
from robustsuite.scenarios.record import Record
from robustsuite.serve.data import Dataset, Split, Subjects
from robustsuite.serve.oracle import Desk, Oracle


class GuessingSpec(Spec):
    """most: examples of each split."""

    most: int = 40


@carded("attack", "guessing", needs=Access.SCORES, paper="Yeom et al., 2018, arXiv:1709.01604",
        cost=lambda classes, sharpness: Cost(1))  # fmt: skip
def confident(model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, sharpness: float = 1.0) -> Tensor:
    """The probability of the label: what was learnt by heart is answered surely."""
    return (sharpness * model(x)).softmax(1).gather(1, y[:, None]).squeeze(1)


def play(context: Context) -> Record:
    """Ask about members and others, and keep the guess."""
    system, split = context.served(), context.split
    desk = Desk(
        system.net, context.threat.access, context.rng, width=context.width, queries_total=context.threat.queries_total
    )
    guess = context.attack(desk.oracle(), split.images(torch.arange(len(split))), split.y, rng=context.rng)
    columns = {"guess": guess.float().cpu(), "member": context.subjects.among("train")}
    return Record(columns, [], *desk.counts.totals())


def subjects(judged: Split, data: Dataset, threat: Threat) -> Subjects:
    """As many of the training set as of the test set."""
    return data.joined("test", "train", first=dict(threat.terms)["most"])


@part
def section(run: Results, scores: object) -> Part:
    """How far the guesses are apart."""
    rows = []
    for cell in run.known.values():
        if cell["scenario"] == "guessing" and cell["status"] == "done":
            table = run.examples(cell["run_id"])
            apart = table.loc[table["member"], "guess"].mean() - table.loc[~table["member"], "guess"].mean()
            rows.append((words(cell["attack"]), words(cell["defense"]), counted(apart, f"{apart:.3f}")))
    found = Table("guessing", "Members and others", "", ("attack", "defense", "apart"), tuple(rows))
    return Part((Section("guessing", "Who was in the training set", (), (found,)),))


guessing = Scenario(
    "guessing", "Who was in the training set?", play,
    columns=(
        Column(name="guess", dtype="float", unit="probability", better="less", scores=(
            Scoring(name="membership_auc", kind="auc", by="member", compared=True),
            Scoring(name="tpr_at_5_percent", kind="tpr_at", by="member", at=0.05),
        )),
        Column(name="member"),
    ),
    headline="membership_auc", paper="Shokri et al., 2017, arXiv:1610.05820", spec=GuessingSpec, subjects=subjects,
    sections=section,
)  # fmt: skip
