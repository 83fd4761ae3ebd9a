"""What a board says in words: what it is about, who attacks, how it came out, and who leads it, if anybody does."""

from __future__ import annotations

from ..measure.ranked import FEWEST
from ..measure.scores import Score
from ..render.adversary import described
from ..render.text import words as spoken
from .leaderboard import Board, Standing


def heading(board: Board) -> str:
    """'scores: linf(eps=8/255) on digits', with the goal where it is not any wrong answer; no threat's name twice."""
    goal = f", {board.goal}" if board.goal not in ("", "untargeted") else ""
    threat = "" if board.budget.startswith(board.threat) else f"{board.threat}: "
    return f"{threat}{where(board)}{goal}"


def where(board: Board) -> str:
    """The budget and the data set of a board, the scenario where it has neither."""
    return " on ".join(part for part in (board.budget, board.dataset) if part) or board.scenario


def about(board: Board) -> tuple[str, ...]:
    """Who attacks, and by what is ranked."""
    if board.facts is None:
        return ("Numbers that others published, none of them measured here.",)
    by = f"Ranked by {spoken(board.metric)}, under the attack that hurts a system most." if board.metric else ""
    counts = {s.upper.n for s in board.standings if s.upper and s.upper.k < 0}
    if board.metric and counts and min(counts) < FEWEST:
        by += f" It is no share of the images; below {FEWEST} of them no test ranks it."
    return tuple(filter(None, (described(board.facts, board.scenario), by)))


def deciding(board: Board, standing: Standing) -> Score | None:
    """The score that a system is ranked by on this board."""
    return standing.lower if board.scenario == "certification" else standing.upper


def leaders(board: Board) -> tuple[tuple[Standing, ...], str]:
    """Who is in front, several where they are not told apart; nobody where all are alike or hold nothing, and why."""
    ranked = [s for s in board.standings if s.ranks[0]]
    if not ranked:
        return (), "nothing ranked" if board.standings else "–"
    several = f"the {len(ranked)} ranked systems" if len(ranked) > 1 else "the only ranked system"
    if all(_fallen(board, s) for s in ranked):
        falls = f"{several} fall{'' if len(ranked) > 1 else 's'} completely"
        return (), "no leader: " + (f"nothing is proven of {several}" if board.scenario == "certification" else falls)
    first = tuple(s for s in ranked if s.ranks[0] == 1)
    if len(first) == len(ranked) > 1:
        return (), f"no leader: the images do not tell {several} apart"
    return first, ""


def _fallen(board: Board, standing: Standing) -> bool:
    """Whether the rate that ranks a system is as bad as it can be."""
    score = deciding(board, standing)
    return score is not None and score.k == (score.n if board.better == "less" else 0)


def found(board: Board) -> str:
    """How the board came out, in a sentence."""
    ranked = [s for s in board.standings if s.ranks[0]]
    if not ranked:
        return "No system is ranked here; the notes on the board say why." if board.standings else ""
    some = f"; a screening ({ranked[0].screening}) is no verdict" if ranked[0].screening else ""
    first, why = leaders(board)
    if not first:
        return f"{why[0].upper()}{why[1:]}{some}."
    if len(ranked) == 1:
        return f"One system is ranked: {first[0].name}{some}."
    if len(first) > 1:
        more = f" and {len(first) - 4} more" if len(first) > 4 else ""
        return f"In front, and not told apart: {', '.join(s.name for s in first[:4])}{more}{some}."
    return f"In front of every other: {first[0].name}{some}."
