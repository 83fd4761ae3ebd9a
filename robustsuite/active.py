"""Keep the batch full: decided jobs leave, waiting ones take their place.

A job is one (example, round): a restart, or a target. Jobs start in order of round, then example. When a job
succeeds, later rounds of its example are cancelled and earlier ones run on: the success of the lowest round is the
result. So the outcome does not depend on the width, while no work is spent on examples already broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Rows of running jobs. 'example' and 'round' (B,) int64 on the CPU are the engine's, 'found' is the result; 'score'
(B,), where there is one, says which round of an unbroken example to keep."""

Start = Callable[[Tensor, Tensor], State]
"""(example (B,), round (B,)) -> fresh rows, 'found' among them."""

Step = Callable[[State], tuple[State, Tensor, Tensor]]
"""rows -> (rows, success (B,) bool, finished (B,) bool); a success is finished."""


def search(n: int, rounds: int, width: int, start: Start, step: Step) -> tuple[State, Tensor]:
    """Run rounds x n jobs, at most `width` at a time.

    Returns the final rows, one for each example in order (the successful job of the lowest round, else the round of
    highest 'score', else round 0), and which examples (n,) were broken. Of the rows, 'found' and all entries of one
    number a row are returned; other pictures are working memory. No examples, no rows: the state is empty.
    """
    winner = torch.full((n,), rounds)  # lowest round that succeeded
    ends = torch.full((rounds, n), -torch.inf)  # the score at which each unsuccessful round ended
    results: State = {}
    queue = ((r, e) for r in range(rounds) for e in range(n))
    rows: State | None = None
    while (rows := _refill(rows, queue, winner, width, start)) is not None:
        rows, success, finished = step(rows)
        gone, success = (finished | success).cpu(), success.cpu()
        if bool(gone.any()):
            _record(rows, success, gone, winner, ends, results)
            rows = _take(rows, ~gone & (rows["round"] < winner[rows["example"]]))
    return results, winner < rounds


def _born(start: Start, jobs: list[tuple[int, int]]) -> State:
    number, example = torch.tensor(jobs, dtype=torch.int64).view(-1, 2).unbind(1)
    return {**start(example, number), "example": example, "round": number}


def _refill(
    rows: State | None, queue: Iterator[tuple[int, int]], winner: Tensor, width: int, start: Start
) -> State | None:
    """Top the batch up from the queue, skipping the rounds a success has cancelled; None once all is done."""
    running = 0 if rows is None else len(rows["example"])
    fresh: list[tuple[int, int]] = []
    while running + len(fresh) < width and (job := next(queue, None)) is not None:
        if job[0] < winner[job[1]]:
            fresh.append(job)
    if not fresh:
        return rows if running else None
    born = _born(start, fresh)
    return {k: torch.cat([rows[k], born[k]]) for k in rows} if rows is not None and running else born


def _record(rows: State, success: Tensor, gone: Tensor, winner: Tensor, ends: Tensor, results: State) -> None:
    """Store what is the lowest successful round so far, or the best end of a round while there is no success."""
    example, number, rounds = rows["example"], rows["round"], len(ends)
    score = rows["score"].cpu().float() if "score" in rows else -number.float()
    failed = gone & ~success
    ends[number[failed], example[failed]] = score[failed]
    before = winner[example]
    winner.scatter_reduce_(0, example, torch.where(success, number, rounds), "amin")
    lowest = success & (number == winner[example]) & (number < before)
    best = ends[:, example].max(0).indices  # the lowest of the rounds that ended highest
    meanwhile = failed & (winner[example] == rounds) & (best == number)
    wins = lowest | meanwhile
    for k, v in rows.items():
        if k == "found" or v.dim() == 1:
            stored = results.setdefault(k, v.new_zeros(len(winner), *v.shape[1:]))
            stored[example[wins].to(v.device)] = v[wins.to(v.device)]


def _take(rows: State, keep: Tensor) -> State:
    return {k: v[keep.to(v.device)] for k, v in rows.items()}
