"""Defenses that change the train set: against direct computations on single pictures."""

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from robustsuite.defenses.data.coin import coin, disrupted
from robustsuite.defenses.data.grayscale import grayscale
from robustsuite.defenses.data.jpeg import jpeg
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, fitted

ROWS = torch.arange(6)


def split(n: int = 12) -> Split:
    x = torch.randint(0, 256, (n, 3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split.of(x, torch.arange(n) % 3)


def test_labels_and_ids_stay_and_the_hash_changes() -> None:
    for change in (grayscale, jpeg, coin):
        after = change(split())
        assert torch.equal(after.y, split().y)
        assert torch.equal(after.ids, split().ids)
        assert after.sha256 != split().sha256
        order = torch.tensor([4, 1])
        assert torch.equal(after.images(ROWS)[order], after.images(order))


def test_grey_is_the_luma_three_times() -> None:
    x, grey = split().images(ROWS), grayscale(split()).images(ROWS)
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for channel in range(3):
        assert torch.allclose(grey[:, channel], luma, atol=1e-6)


def test_jpeg_is_what_pillow_writes_and_reads() -> None:
    x, out = split().images(ROWS), jpeg(split(), quality=10).images(ROWS)
    file = io.BytesIO()
    Image.fromarray((x[2].permute(1, 2, 0) * 255).round().byte().numpy()).save(file, "JPEG", quality=10)
    assert np.array_equal((out[2].permute(1, 2, 0) * 255).round().byte().numpy(), np.asarray(Image.open(file)))


def test_coin_reads_each_pixel_nearby_with_wrap_around() -> None:
    x = split().images(ROWS)
    offset = 3 * torch.rand(6, 2, 9, 7, generator=torch.Generator().manual_seed(3)) - 1.5
    out = disrupted(x, offset)
    for n, i, j in ((0, 0, 0), (1, 8, 6), (5, 4, 3)):
        row, column = (i + float(offset[n, 0, i, j])) % 9, (j + float(offset[n, 1, i, j])) % 7
        a, b = int(row), int(column)
        s, t = row - a, column - b
        c, d = (a + 1) % 9, (b + 1) % 7
        above = (1 - t) * x[n, :, a, b] + t * x[n, :, a, d]
        below = (1 - t) * x[n, :, c, b] + t * x[n, :, c, d]
        assert torch.allclose(out[n, :, i, j], (1 - s) * above + s * below, atol=1e-4)


def test_coin_draws_anew_in_every_batch_and_only_while_training() -> None:
    after, x = coin(split()), split().images(ROWS)
    assert torch.equal(after.images(ROWS), x)
    assert after.augment is not None
    generator = torch.Generator().manual_seed(0)
    first, second = after.augment(x, generator), after.augment(x, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, after.augment(x, torch.Generator().manual_seed(0)))
    none = coin(split(), alpha=0.0).augment
    assert none is not None
    assert torch.allclose(none(x, generator), x, atol=1e-5)


def test_a_training_sees_the_augmented_pictures_and_a_subset_keeps_them() -> None:
    seen: list[Tensor] = []

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return self.bias.expand(len(x), 3)

    black = replace(split(), augment=lambda x, generator: torch.zeros_like(x)).at(torch.arange(8))
    fitted(Seen(), Training(black, black, 0), Recipe(1, lambda epoch: 0.1, batch=4))
    assert len(seen) == 2
    assert all(bool((x == 0).all()) for x in seen)
