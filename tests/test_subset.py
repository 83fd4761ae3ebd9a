"""A head cut to a subset: what a net says of another class cannot be right, labels move along, chance is noticed."""

import pytest
import torch

from robustsuite.errors import BadData
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import shift
from robustsuite.serve.data import InputSpace, Reading, Split
from robustsuite.serve.subset import restricted
from robustsuite.serve.system import System

SPACE = InputSpace(1, 2, 2, 4)


class Says(torch.nn.Module):
    """The logits it was given, whatever it is shown."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1).to(x.dtype) + 0 * x.flatten(1)[:, :1]


HEAD = torch.tensor([1, 3])


def asked(logits: list[float], labels: list[int], head: torch.Tensor | None = HEAD, watch: int | None = None):
    split = Split.of(torch.rand(len(labels), 1, 2, 2), torch.tensor(labels))
    record = shift.judged(
        System(Says(logits), SPACE), split, Rng.of(0, "t", split.ids), width=8, reading=Reading(head, watch=watch)
    )
    return record.columns


def test_a_net_that_answers_outside_the_head_is_never_right():
    assert not asked([9.0, 0, 0, 0], [1, 3, 1])["robust"].any()
    assert not asked([0.0, 0, 9, 0], [1, 3, 1])["robust"].any()


def test_the_argmax_is_taken_within_the_head():
    columns = asked([9.0, 1, 0, 0], [1, 3, 1])
    assert columns["robust"].tolist() == [True, False, True]
    assert columns["prediction"].tolist() == [1, 1, 1]
    torch.testing.assert_close(columns["confidence"], torch.tensor([1.0, 0]).softmax(0)[:1].expand(3))
    assert not asked([9.0, 1, 0, 0], [1, 3, 1], head=None)["robust"].any()


def test_the_watched_class_is_one_of_the_data_set():
    torch.testing.assert_close(asked([0.0, 1, 0, 2], [1], watch=3)["watched"], torch.tensor([1.0, 2]).softmax(0)[1:])


def test_a_label_outside_the_head_is_refused():
    split = Split.of(torch.rand(2, 1, 2, 2), torch.tensor([1, 2]))
    with pytest.raises(BadData, match="got 2"):
        restricted(System(Says([0.0] * 4), SPACE), split, HEAD)


def test_answers_at_chance_are_flagged_unless_the_set_is_hard():
    split = Split.of(torch.rand(40, 1, 2, 2), torch.arange(40) % 4)
    for hard, names in ((False, ["clean_at_chance"]), (True, [])):
        record = shift.judged(
            System(Says([1.0, 0, 0, 0]), SPACE), split, Rng.of(0, "t", split.ids), width=8, reading=Reading(hard=hard)
        )
        assert [flag.name for flag in record.flags] == names
