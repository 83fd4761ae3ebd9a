"""What the columns of an evasion say of its number: the flags that it raises, and what a reader should know."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access
from robustsuite.integrity import witness
from robustsuite.integrity.checks import SMALL, Flag, surprising
from robustsuite.scenarios import second_looks
from robustsuite.scenarios.record import undefined_answers
from robustsuite.scenarios.routes import ROUTES
from robustsuite.serve.judge import REPEATS
from robustsuite.serve.system import System

BELOW_A_BIT = 0.1
"""Share of the breaks that rounding to 8 bits may undo."""


def flags_of(columns: dict[str, Tensor], system: System, card: AttackCard, drawn: int, own: str) -> list[Flag]:
    """What casts doubt on the number itself."""
    n, flags = len(columns["robust"]), []
    outside = int((columns["clean_ok"] & ~columns["in_budget"]).sum())
    if outside and not card.minimum_norm:
        flags.append(Flag("over_budget", f"{outside} of {n} returned pictures are outside the budget or the box"))
    if "below_a_bit" in columns:
        back, fell = int(columns["below_a_bit"].sum()), int((columns["fooled"] & columns["clean_ok"]).sum())
        if back > max(2, BELOW_A_BIT * fell):
            flags.append(Flag("below_a_bit", f"{back} of {fell} broken pictures are right again in 8 bits"))
    flags += [*undefined_answers(columns), *_unsettled(columns), *witness.flags(columns)]
    flags += second_looks.flags(columns)
    averaged = drawn > 1 or system.surrogate is not None or own
    if system.stochastic and Access.GRADIENTS in card.needs and not averaged:
        flags.append(Flag("randomised", "the system draws noise and the attack averages over none; set eot"))
    if {"robust_direct", "robust_surrogate"} <= set(columns):
        direct, through = columns["robust_direct"], columns["robust_surrogate"]
        more, fewer = int((direct & ~through).sum()), int((~direct & through).sum())
        # a random system's pictures near the edge fall to one of two equal attacks as often as to the other
        chance = system.stochastic and not surprising(more, fewer)
        if more > max(2, SMALL * n) and not chance:
            words = f"the surrogate's point breaks {more} of {n} pictures that the direct attack leaves standing"
            flags.append(Flag("transfer_beats_direct", words))
    if own:
        words = f"played on the adversary's own {own} alone; nothing was asked of the system"
        flags.append(Flag("transfer_alone", words))
    return flags


def _unsettled(columns: dict[str, Tensor]) -> list[Flag]:
    """The flag of attacked pictures that end without an answer, where clean ones do not."""
    found, n = columns.get("unsettled"), len(columns["robust"])
    if found is None:
        return []
    more = int((found & columns["clean_ok"]).sum()) - int((found & ~columns["clean_ok"]).sum())
    words = f"{more} of {n} attacked pictures more than clean ones end in a tie, or in readings that disagree"
    return [Flag("no_answer", words)] if more > max(2, SMALL * n) else []


def note_of(columns: dict[str, Tensor], system: System, card: AttackCard) -> str:
    """What a reader of the number should know."""
    notes, n = [], len(columns["robust"])
    routes = [route for route in ROUTES if f"robust_{route}" in columns]
    if routes:
        each = ", ".join(f"{route} {float(columns[f'robust_{route}'].float().mean()):.1%}" for route in routes)
        notes.append(f"attacked {len(routes)} ways: {each}; the row is their minimum")
    elif system.surrogate is not None and card.needs & (Access.GRADIENTS | Access.WEIGHTS):
        notes.append("no gradient passes the served system: attacked through the defense's surrogate alone")
    if system.stochastic:
        mean = float((columns["clean_ok"] * (1 - columns["wrong_share"])).sum()) / max(n, 1)
        notes.append(f"each picture was judged {REPEATS} times: right in {mean:.1%} of the answers")
    if "unanswered" in columns:
        gone, stand = (float(columns[name].float().mean()) for name in ("unanswered", "robust"))
        words = f"{gone:.1%} have no answer when attacked and count as broken; as a defense, {gone + stand:.1%} stand"
        notes.append(words)
    if overturned := int(columns["overturned"].sum()):
        notes.append(f"the attack claims {overturned} more breaks, which the judge does not share")
    return "; ".join(notes)
