"""Keep the batch full: decided jobs leave, waiting ones take their place.

A job is one (example, round): a restart, or a target. Jobs start in order of round, then example. When a job
succeeds, later rounds of its example are cancelled and earlier ones run on: the success of the lowest round is the
result. So the outcome does not depend on the width, while no work is spent on examples already broken. Of what draws
noise, or stands in for another network, the rounds of one example come one after the other.

Nor does it depend on how often the host looks who has ended (`Oracle.look`): an end is recorded on the device in the
step in which it comes, and its row idles until the next look. A CPU looks after every step; a GPU would wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustsuite.serve.oracle import Oracle

State = dict[str, Tensor]
"""Rows of running jobs. 'example' and 'round' (B,) int64 are the engine's, 'found' is the result; 'score' (B,), where
there is one, says which round of an unbroken example to keep. All live on the oracle's device."""

Start = Callable[[Tensor, Tensor], State]
"""(example (B,), round (B,)) -> fresh rows, 'found' among them."""

Step = Callable[[State], tuple[State, Tensor, Tensor]]
"""rows -> (rows, success (B,) bool, finished (B,) bool); a success is finished. A row that has ended may be stepped on
for a while; nobody listens to it."""


def search(
    model: Oracle, rounds: int, start: Start, step: Step, *, most: int | None = None, width: int | None = None,
    keep: Sequence[str] = (), serial: bool = False,
) -> tuple[State, Tensor]:  # fmt: skip
    """Run `rounds` jobs for each of the oracle's n examples, at most `width` (the oracle's, if None) at a time.

    most: the steps after which any job has ended, where that is known: then the host looks in time, and nobody idles.
    serial: an example's round begins when those before it have ended; so do those of what draws noise, always.

    Returns the final rows, one for each example in order (the successful job of the lowest round, else the round of
    highest 'score', else round 0), and which examples (n,) were broken. Of the rows, 'found' and the entries named in
    `keep` are returned, the others are working memory. No examples, no rows: the state is empty.
    """
    n, width, device = len(model.rows), width or model.width, model.rows.device
    queue = deque((number, example) for number in range(rounds) for example in range(n))
    serial |= model.confidence_margin == torch.inf  # draws are numbered by what was asked of an example before
    winner = torch.full((n,), rounds, device=device)  # lowest round that succeeded
    ends = torch.full((rounds, n), -torch.inf, device=device)  # the score at which each unsuccessful round ended
    rows = _topped({}, _waiting(queue, [rounds] * n, width, set() if serial else None), start, device)
    results = {k: rows[k].new_zeros(n + 1, *rows[k].shape[1:]) for k in ("found", *keep) if rows}
    ended, steps, begun = _none(rows), 0, [0] * len(rows.get("example", ()))  # begun: at which step, a row each
    while rows:
        rows, success, finished = step(rows)
        now = success | finished
        if model.look > 1:
            now = now & ~ended
        quiet = model.look == 1 and not bool(now.any())  # nobody has ended, and nobody is cancelled
        if not quiet:
            _record(rows, success & now, now, winner, ends, results)
            ended = ended | now
        steps += 1
        if not quiet and (steps % model.look == 0 or steps - begun[0] == most):
            stays = (~ended & (rows["round"] < winner[rows["example"]])).cpu()
            if not bool(stays.all()):
                kept = stays.nonzero().flatten()
                running = set(rows["example"][kept.to(device)].tolist()) if serial else None
                fresh = _waiting(queue, winner.tolist(), width - len(kept), running)
                begun = [begun[i] for i in kept.tolist()] + [steps] * len(fresh)
                kept = kept.to(device)
                rows = _topped({k: v[kept] for k, v in rows.items()} if len(kept) else {}, fresh, start, device)
                ended = _none(rows)
    return {k: v[:n] for k, v in results.items()}, winner < rounds


def _none(rows: State) -> Tensor:
    """False for each row."""
    return torch.zeros_like(rows["example"], dtype=torch.bool) if rows else torch.zeros(0, dtype=torch.bool)


def _waiting(
    queue: deque[tuple[int, int]], winner: list[int], room: int, running: set[int] | None
) -> list[tuple[int, int]]:
    """The next (round, example) jobs, `room` of them at most, without the rounds a success has cancelled.

    running: the examples that no other job may be begun of meanwhile; None where any number may.
    """
    fresh: list[tuple[int, int]] = []
    while len(fresh) < room and queue and (running is None or queue[0][1] not in running):
        number, example = queue.popleft()
        if number < winner[example]:
            fresh.append((number, example))
            if running is not None:
                running.add(example)
    return fresh


def _topped(rows: State, fresh: list[tuple[int, int]], start: Start, device: torch.device) -> State:
    """The rows with these jobs begun besides."""
    if not fresh:
        return rows
    number, example = torch.tensor(fresh, dtype=torch.int64).to(device).unbind(1)
    born = {**start(example, number), "example": example, "round": number}
    return {k: torch.cat([rows[k], born[k]]) for k in rows} if rows else born


def _record(rows: State, success: Tensor, ended: Tensor, winner: Tensor, ends: Tensor, results: State) -> None:
    """Store what is the lowest successful round so far, or the best end of a round while there is no success."""
    example, number, (rounds, n) = rows["example"], rows["round"], ends.shape
    score = rows["score"].to(ends) if "score" in rows else -number.to(ends)
    failed = ended & ~success
    ends[number, example] = torch.where(failed, score, ends[number, example])
    before = winner[example]
    winner.scatter_reduce_(0, example, torch.where(success, number, rounds), "amin")
    lowest = success & (number == winner[example]) & (number < before)
    best = ends[:, example].max(0).indices  # the lowest of the rounds that ended highest
    wins = lowest | failed & (winner[example] == rounds) & (best == number)
    place = torch.where(wins, example, n)  # one row more than there are examples takes what is not kept
    which = wins.nonzero().flatten() if wins.device.type == "cpu" else slice(None)  # a GPU's host need not know
    for k, stored in results.items():
        stored[place[which]] = rows[k][which]
