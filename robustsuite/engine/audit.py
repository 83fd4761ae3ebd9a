"""Checks that cost more than the attack they doubt, for `robustsuite run --audit`: each evasion cell once more.

Sources: Carlini et al., 2019, arXiv:1902.06705 (unbounded attacks, more iterations, random search); Tramer et al.,
2020, arXiv:2002.08347 (transfer); Croce & Hein, 2020, arXiv:2003.01690 (scaled logits); Pintor et al., 2022,
arXiv:2106.09947 (unstable predictions). The rules stand in `checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby

import torch
from torch import OutOfMemoryError, Tensor, nn

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access
from robustsuite.engine.afresh import Afresh, Recipe, answers
from robustsuite.engine.case import Case
from robustsuite.engine.execute import Progress, asking
from robustsuite.engine.plan import Decision
from robustsuite.engine.store import Store
from robustsuite.errors import OF_THE_RUN, cause
from robustsuite.integrity.apart import Apart, NotReplayed, Overdue, Strayed
from robustsuite.integrity.checks import AUDITED, LARGE, SMALL, Flag, surprising
from robustsuite.integrity.gradient_probes import roughness
from robustsuite.integrity.witness import searched, searched_anew
from robustsuite.maths.numerics import float32, threads
from robustsuite.maths.stats import wilson
from robustsuite.records.schema import Audit, FlagFacts, dumped
from robustsuite.records.seal import sealed_audit
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import fitting
from robustsuite.scenarios.second_looks import not_converged, whole
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import services

DRAWS = 1000
"""Points of the random search around each standing image; of a random system, which is asked again at each, fewer."""

SCALES = (0.01, 100.0)
"""What the logits are multiplied by."""

FEW = 16
"""Images around which the landscape is looked at, and that are played or asked in another process."""


@float32()
@threads()
def audit(
    cells: list[tuple[Cell, Decision]], store: Store, progress: Progress | None = None, *, width: int | None = None,
    recipe: Recipe | None = None,
) -> int:  # fmt: skip
    """Audit every measured evasion cell that has no audit yet, and store it beside the cell. Returns how many.

    recipe: what a fresh process plans these cells from.
    """
    tell = (progress or Progress()).tell
    waiting = [cell for cell, decision in cells if decision.status == "run" and _waits(cell, store)]
    with asking(cells, store), Apart() as apart, Afresh(recipe) if recipe else nullcontext() as afresh:
        for _, group in groupby(waiting, key=lambda cell: id(cell.lifecycle)):
            _of_one_system(list(group), store, width, tell, apart, afresh)
    return len(waiting)


def _of_one_system(
    members: list[Cell], store: Store, width: int | None, tell: Callable[[str], None], apart: Apart,
    afresh: Afresh | None,
) -> None:  # fmt: skip
    """Audit these cells, which share a served system."""
    system, known = members[0].lifecycle.served(), dict[tuple[str, int], bool]()
    for cell in members:
        with store.lease(f"audit-{cell.run_id}") as lease:
            if lease is None or not _waits(cell, store):
                continue  # another worker's
            tell(f"auditing {cell.facts()['attack']} on {cell.facts()['defense']}")
            robust = torch.tensor(store.column(cell.run_id, "robust"), dtype=torch.bool)
            queries = torch.tensor(store.column(cell.run_id, "queries"), dtype=torch.int64)
            case = Case(cell, system, robust, queries, width or fitting(cell), known, apart, afresh)
            flags = list(_flags(case))
            facts = tuple(FlagFacts.model_validate(f.facts()) for f in flags)
            audited = sealed_audit(Audit(run_id=cell.run_id, flags=facts, figures=case.figures))
            store.amend(cell.run_id, dumped(audited))


def _waits(cell: Cell, store: Store) -> bool:
    evades = cell.scenario.name == "evasion"
    return evades and not store.audited(cell.run_id) and store.column(cell.run_id, "robust") is not None


def _flags(case: Case) -> Iterator[Flag]:
    """Every audit that this cell's attack is open to."""
    card = case.cell.attack
    if card is None or not len(case.robust):
        return
    gradients = Access.GRADIENTS in card.needs
    # what is learnt on other pictures may well leave what a search around this one breaks
    if gradients and "steps" in card.parameters and not (card.minimum_norm or card.learns):
        yield from _unbounded(case)
    if gradients:  # a black-box attack is held to its own number of queries
        yield from _converged(case)
    if gradients and not card.learns and case.cell.threat is not None and case.cell.threat.goal.name == "untargeted":
        yield from _random_search(case)
    if Access.SCORES in card.needs:
        yield from _scaled(case)
    if gradients:
        yield from _transfer(case)
        yield from _landscape(case)
    yield from _order(case)
    yield from _within_access(case, card)
    yield from _forgetful(case)


def _unbounded(case: Case) -> Iterator[Flag]:
    """E4: the whole box, and half of it."""
    space, n = case.system.space, min(AUDITED, len(case.robust))
    ball = case.cell.threat.budget if case.cell.threat else None
    boxes = [box for share in (1.0, 0.5) if (box := whole(ball, space, share)) is not None]
    if not boxes:
        return
    left, half = (int(case.again(torch.arange(n), ball=box).columns["robust"].sum()) for box in boxes)
    case.figures.update(E4_whole=left / n, E4_half=half / n)
    if left > max(1, 0.01 * n):
        yield Flag("unbounded_fails", f"{left} of {n} images stand though any picture is allowed")
    guess = round(n / space.classes)
    if half > guess + n * (wilson(guess, n)[1] - guess / n):
        yield Flag("half_box_fails", f"{half} of {n} images stand though pixels may move half their range")


def _converged(case: Case) -> Iterator[Flag]:
    """E7: twice the steps, twice the restarts."""
    card, rows = case.cell.attack, case.standing
    for name in ("steps", "restarts"):
        if card is None or name not in card.parameters or not len(rows):
            continue
        now = {**card.parameters, **dict(case.cell.given)}[name]
        fell = case.beyond_chance(~case.again(rows, **{name: 2 * now}).columns["robust"])
        share = fell / len(rows) * float(case.robust.double().mean())
        case.figures[f"E7_{name}"] = share
        yield from not_converged(f"{name}={2 * now} breaks", fell, len(rows), share)


def _random_search(case: Case) -> Iterator[Flag]:
    """E8: uniform points and corners of the ball; each image once a system and budget."""
    ball = case.cell.threat.budget if case.cell.threat else None
    new = torch.tensor([i for i in case.standing.tolist() if (str(ball), i) not in case.searched], dtype=torch.int64)
    if ball is not None and len(new):
        judge = Judge(case.system.net, stochastic=case.system.stochastic, width=case.width, under=case.system.under)
        x, y, streams = case.pictures(new, "audit")
        if judge.stochastic:
            broken = searched_anew(judge, x, y, streams, ball, DRAWS // judge.repeats)
        else:
            every = torch.arange(len(x), device=x.device)
            broken = searched(judge, x, y, every, streams, ball, torch.full_like(y, DRAWS))
        case.searched.update({(str(ball), i): fell for i, fell in zip(new.tolist(), broken.tolist(), strict=True)})
    found = [ball is not None and case.searched[str(ball), i] for i in case.standing.tolist()]
    fell = case.beyond_chance(torch.tensor(found, dtype=torch.bool))
    case.figures["E8"] = float(fell)
    if fell:
        yield Flag("random_search_wins", f"random points break {fell} of {len(case.standing)} standing images")


class _Scaled(nn.Module):
    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor  # type: ignore[no-any-return]


def _scaled(case: Case) -> Iterator[Flag]:
    """E12: the same attack on logits of another scale."""
    few = torch.arange(min(AUDITED, len(case.robust)))
    n, before = len(few), case.robust[few]
    for factor in SCALES:
        stand_in = case.system.surrogate
        surrogate = None if stand_in is None else _Scaled(stand_in, factor).eval()
        system = replace(case.system, net=_Scaled(case.system.net, factor).eval(), surrogate=surrogate)
        now = case.again(few, system=system).columns["robust"]
        more, fewer = int((before & ~now).sum()), int((~before & now).sum())
        fell, chance = more - fewer, case.system.stochastic and not surprising(more, fewer)
        case.figures[f"E12_{factor:g}"] = fell / n
        if fell > max(2, LARGE * n) and not chance:
            level = "fail" if fell > max(3, 0.05 * n) else "warn"
            yield Flag(
                "scale_dependent", f"with logits x {factor:g} the attack breaks {fell} of {n} images more", level
            )


def _transfer(case: Case) -> Iterator[Flag]:
    """E6: points found on the undefended network, asked of the served one."""
    rows, n = case.standing, len(case.robust)
    if not case.cell.lifecycle.defenses or not len(rows):
        return
    plain = replace(case.cell.lifecycle, defenses=()).trained()
    columns = case.again(rows, system=replace(case.system, surrogate=plain)).columns
    fell = case.beyond_chance(~columns.get("robust_surrogate", columns["robust"]))
    share = fell / len(rows) * float(case.robust.double().mean())
    case.figures["E6"] = share
    if fell > 2 and share > SMALL:
        words = f"points found on the undefended network break {fell} of {len(rows)} standing images of {n}"
        yield Flag("transfer_wins", words, "fail" if share > 0.02 else "warn")


def _landscape(case: Case) -> Iterator[Flag]:
    """E17: how much the margin changes within a step too small to see."""
    net = case.system.surrogate if case.system.hides else case.system.net
    if net is None or case.system.stochastic:
        return
    few = torch.arange(min(FEW, len(case.robust)))
    x, y, streams = case.pictures(few, "landscape")
    change = case.figures["E17"] = roughness(net, x, y, streams)
    if change > 0.1:
        yield Flag("rough_landscape", f"the margin changes by {change:.0%} within 1/255")


def _order(case: Case) -> Iterator[Flag]:
    """E23: backwards, and with another number of images in flight."""
    few = torch.arange(min(AUDITED, len(case.robust)))
    backwards = case.again(few.flip(0)).columns["robust"].flip(0)
    narrow = case.again(few, width=max(1, min(case.width, len(few)) // 2)).columns["robust"]
    flips = int(((backwards != case.robust[few]) | (narrow != case.robust[few])).sum())
    case.figures["E23"] = float(flips)
    if flips:
        yield Flag("order_dependent", f"{flips} of {len(few)} verdicts change with the order or the batch")


def _within_access(case: Case, card: AttackCard) -> Iterator[Flag]:
    """E35: the attack in a process of its own, which holds an oracle's line and nothing else."""
    if case.cell.threat is None or Access.WEIGHTS in case.cell.threat.access:
        return  # it was handed the network
    few = torch.arange(min(FEW, len(case.robust)))
    try:
        if Access.AUX_DATA in card.needs:
            raise NotReplayed("it needs nets of its own")
        there = case.again(few, attack=case.apart.card(card)).columns
        differs = _differs(there, case.robust[few], case.queries[few])
        if differs:  # a peer's attack may depend on its batch: then these few are played here as well
            here = case.again(few).columns
            if alone := _differs(here, case.robust[few], case.queries[few]):
                words = f"{alone} of {len(few)} verdicts or numbers of queries change where it is handed these alone"
                yield Flag("order_dependent", words)
                differs = _differs(there, here["robust"], here["queries"])
    except NotReplayed:
        case.figures["E35_not_replayed"] = float(len(few))
        return
    except (OutOfMemoryError, *OF_THE_RUN):
        raise
    except Exception as error:  # here it did not raise
        words = f"in a process without the network the attack fails: {cause(error)}"
        yield Flag("beyond_access", words, "warn" if isinstance(error, Overdue) else "fail")
        return
    case.figures["E35"] = float(differs)
    if differs:
        words = f"{differs} of {len(few)} verdicts or numbers of queries are others in a process without the network"
        yield Flag("beyond_access", words)


def _differs(columns: dict[str, Tensor], robust: Tensor, queries: Tensor) -> int:
    """How many images have another verdict or another number of queries."""
    return int(((columns["robust"] != robust) | (columns["queries"] != queries)).sum())


def _forgetful(case: Case) -> Iterator[Flag]:
    """E36: what the attack left standing, asked of the system served anew in a process that never asked it."""
    rows = case.standing[:FEW]
    if not len(rows) or case.system.adapts or services(case.system.net):
        return
    try:
        if case.afresh is None:
            raise NotReplayed("its model or its data were made in Python")
        x_adv = case.again(rows).x_adv
        assert x_adv is not None
        here = answers(case.cell, case.system, rows, x_adv, case.width)
        wrong, held = case.afresh.answered(case.cell, rows, x_adv, case.width)
    except (NotReplayed, Strayed):
        case.figures["E36_not_asked"] = float(len(rows))
        return
    differs = int((here.wrong.cpu() & held | here.held.cpu() & wrong).sum())
    case.figures["E36"] = float(differs)
    if differs:
        words = f"{differs} of {len(rows)} attacked pictures are answered otherwise where nothing was asked before"
        yield Flag("remembers_questions", words, "warn" if differs == 1 else "fail")
