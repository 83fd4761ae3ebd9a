"""scikit-learn's embedded handwritten digits: 1797 pictures of 8x8 grey values."""

from __future__ import annotations

import torch

from robustsuite.serve.data import Dataset, InputSpace, Split, source


@source(paper="Alpaydin & Kaynak, 1998, UCI Optical Recognition of Handwritten Digits")
def digits(*, seed: int = 0) -> Dataset:
    """8x8 handwritten digits, one channel, embedded in scikit-learn: 1097 train, 200 val, 500 test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = torch.from_numpy(bunch.images).float()[:, None] / 16
    y = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    parts = dict(zip(("test", "val", "train"), (order[:500], order[500:700], order[700:]), strict=True))
    splits = {name: Split.of(pictures[rows], y[rows], rows) for name, rows in parts.items()}
    return Dataset("digits", InputSpace(1, 8, 8, 10), tuple("0123456789"), splits)
