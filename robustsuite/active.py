"""Keep the batch full: decided jobs leave, waiting ones take their place.

A job is one (example, round): a restart, or a target. Jobs start in order of round, then example. When a job
succeeds, later rounds of its example are cancelled and earlier ones run on: the success of the lowest round is the
result. So the outcome does not depend on the width, while no work is spent on examples already broken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Rows of running jobs. 'example' and 'round' (B,) int64 are the engine's; 'found' (B, C, H, W) is the result."""

Start = Callable[[Tensor, Tensor], State]
"""(example (B,), round (B,)) -> fresh rows."""

Step = Callable[[State], tuple[State, Tensor, Tensor]]
"""rows -> (rows, success (B,) bool, finished (B,) bool); a success is finished."""


def search(n: int, rounds: int, width: int, start: Start, step: Step) -> tuple[State, Tensor]:
    """Run rounds x n jobs, at most `width` at a time.

    Returns the final rows, one for each example in order (the successful job of the lowest round, else round 0),
    and which examples (n,) were broken.
    """
    winner = torch.full((n,), rounds)  # lowest round that succeeded
    results: dict[int, tuple[int, State]] = {}
    queue = iter([(r, e) for r in range(rounds) for e in range(n)])
    rows: State | None = None
    while True:
        rows = _refill(rows, queue, winner, width, start)
        if rows is None:
            break
        rows, success, finished = step(rows)
        gone = finished | success
        if not bool(gone.any()):
            continue
        _collect(rows, success.cpu(), gone.cpu(), winner, results)
        keep = ~gone.cpu() & (rows["round"].cpu() < winner[rows["example"].cpu()])
        rows = _take(rows, keep)
    final = [results[e][1] for e in range(n)]
    merged = {k: torch.cat([row[k] for row in final]) for k in final[0]} if final else {}
    return merged, winner < rounds


def _refill(rows: State | None, queue: object, winner: Tensor, width: int, start: Start) -> State | None:
    """Top the batch up from the queue, skipping the rounds a success has cancelled."""
    running = 0 if rows is None else len(rows["example"])
    fresh: list[tuple[int, int]] = []
    while running + len(fresh) < width:
        job = next(queue, None)  # type: ignore[call-overload]
        if job is None:
            break
        if job[0] < winner[job[1]]:
            fresh.append(job)
    if not fresh:
        return rows if running else None
    rounds, examples = torch.tensor(fresh).unbind(1)
    born = {**start(examples, rounds), "example": examples, "round": rounds}
    return born if not running or rows is None else {k: torch.cat([rows[k], born[k]]) for k in rows}


def _collect(rows: State, success: Tensor, gone: Tensor, winner: Tensor, results: dict[int, tuple[int, State]]) -> None:
    """Store what finished: a success of the lowest round so far, or round 0's last iterate meanwhile."""
    for i in gone.nonzero().flatten().tolist():
        example, number = int(rows["example"][i]), int(rows["round"][i])
        if bool(success[i]) and number < winner[example]:
            winner[example] = number
            results[example] = (number, _take(rows, slice(i, i + 1)))
        elif not bool(success[i]) and number == 0 and winner[example] > 0 and example not in results:
            results[example] = (number, _take(rows, slice(i, i + 1)))


def _take(rows: State, keep: Tensor | slice) -> State:
    return {k: v[keep].clone() if isinstance(keep, slice) else v[keep.to(v.device)] for k, v in rows.items()}
