"""Batches are read ahead, in order, finished where asked; a picture that cannot be read ends them with its sentence."""

import pytest
import torch

from robustsuite.errors import BadData
from robustsuite.serve.data import Split

PICTURES = torch.arange(11, dtype=torch.float32).view(11, 1, 1, 1) / 10


def staged() -> Split:
    plain = Split.of(PICTURES, torch.arange(11))

    def finish(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return x + 100 * positions.view(-1, 1, 1, 1)

    return Split(plain.y, lambda p: finish(plain.images(p), p), plain.ids, "s", stages=(plain.images, finish))


def test_batches_cover_everything_in_order():
    split = Split.of(PICTURES, torch.arange(11))
    parts = list(split.batches(4))
    assert [len(x) for _, x, _ in parts] == [4, 4, 3]
    assert torch.cat([x for _, x, _ in parts]).equal(PICTURES)
    assert torch.cat([y for _, _, y in parts]).tolist() == list(range(11))
    assert torch.cat([positions for positions, _, _ in parts]).tolist() == list(range(11))


def test_two_stages_give_the_same_pictures_as_one():
    for split in (staged(), staged().at(torch.tensor([9, 2, 5]))):
        whole = split.images(torch.arange(len(split)))
        assert torch.cat([x for _, x, _ in split.batches(2)]).equal(whole)
    assert staged().at(torch.tensor([9])).images(torch.tensor([0])).item() == pytest.approx(900.9)


def test_a_damaged_picture_ends_the_batches_with_its_sentence():
    asked = []

    def images(positions: torch.Tensor) -> torch.Tensor:
        asked.append(positions.tolist())
        if 7 in positions:
            raise BadData("expected a picture in 7.png, got none")
        return PICTURES[positions]

    split = Split(torch.arange(11), images, torch.arange(11), "s")
    seen: list[int] = []

    def walk() -> None:
        for positions, _, _ in split.batches(2):
            seen.extend(positions.tolist())

    with pytest.raises(BadData, match=r"7\.png"):
        walk()
    assert seen == list(range(6))
    assert len(asked) <= 6
