"""The engine's outcome does not depend on the width, and it never runs what a success has cancelled."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle


def asking(n: int, width: int, look: int = 1) -> Oracle:
    """An oracle of n examples that is never asked."""
    return Oracle.over(torch.nn.Identity(), Access.NONE, Rng.of(0, "active", torch.arange(n)), width=width, look=look)


def play(
    lengths: list[list[int]], wins: list[list[bool]], width: int, look: int = 1
) -> tuple[State, Tensor, list[tuple[int, int]], int]:
    """Jobs that end after a set number of steps, in success or not; also which jobs began and the widest batch."""
    length, win = torch.tensor(lengths), torch.tensor(wins)
    begun: list[tuple[int, int]] = []
    widest = 0

    def start(example: Tensor, number: Tensor) -> State:
        begun.extend(zip(example.tolist(), number.tolist(), strict=True))
        return {"found": torch.zeros(len(example), 2), "age": torch.zeros(len(example), dtype=torch.int64)}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        nonlocal widest
        widest = max(widest, len(rows["example"]))
        age = rows["age"] + 1
        ended = age >= length[rows["example"], rows["round"]]
        found = torch.stack([rows["example"], 10 * rows["round"] + age], 1).float()
        return {**rows, "age": age, "found": found}, ended & win[rows["example"], rows["round"]], ended

    rows, broken = search(asking(len(lengths), width, look), len(lengths[0]), start, step, keep=["example", "round"])
    return rows, broken, begun, widest


jobs = st.integers(1, 6).flatmap(
    lambda n: st.integers(1, 4).flatmap(
        lambda rounds: st.tuples(
            *(st.lists(st.lists(kind, min_size=rounds, max_size=rounds), min_size=n, max_size=n)
              for kind in (st.integers(1, 5), st.booleans()))
        )
    )
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(jobs, st.integers(1, 30), st.integers(1, 7))
def test_outcome_is_the_lowest_successful_round_at_any_width_and_look(job: tuple, width: int, look: int) -> None:
    lengths, wins = job
    rows, broken, _, widest = play(lengths, wins, width, look)
    for e, won in enumerate(wins):
        number = won.index(True) if any(won) else 0
        assert bool(broken[e]) == any(won)
        assert rows["found"][e].tolist() == [e, 10 * number + lengths[e][number]]
        assert int(rows["round"][e]) == number
        assert int(rows["example"][e]) == e
    assert widest <= width


def test_a_success_cancels_later_rounds_that_have_not_begun() -> None:
    _, _, begun, _ = play([[1, 1, 1]] * 4, [[True, True, True]] * 4, width=4)
    assert begun == [(e, 0) for e in range(4)]


def test_freed_places_are_refilled() -> None:
    _, _, begun, widest = play([[5], [1], [1], [1]], [[False]] * 4, width=2)
    assert widest == 2
    assert [e for e, _ in begun] == [0, 1, 2, 3]


@pytest.mark.parametrize("rounds", [1, 3])
def test_no_examples(rounds: int) -> None:
    def never(*_: object) -> State:
        raise AssertionError("nothing to start")

    rows, broken = search(asking(0, 8), rounds, never, never)  # type: ignore[arg-type]
    assert rows == {}
    assert broken.shape == (0,)


@pytest.mark.parametrize("look", [1, 4])
def test_a_job_of_known_length_is_not_stepped_on_beyond_it(look: int) -> None:
    asked = 0

    def start(example: Tensor, _: Tensor) -> State:
        return {"found": torch.zeros(len(example), 1), "age": torch.zeros(len(example), dtype=torch.int64)}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        nonlocal asked
        asked += len(rows["example"])
        age = rows["age"] + 1
        return {**rows, "age": age}, torch.zeros(len(age), dtype=torch.bool), age == 5

    search(asking(6, 4, look), 2, start, step, most=5)
    assert asked == 6 * 2 * 5
