"""JPEG: train on strongly compressed pictures; faint shortcuts are squeezed out (Liu et al., 2023, 2301.13838)."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustsuite.errors import BadValue
from robustsuite.serve import stages
from robustsuite.serve.data import Split


@stages.data(paper="Liu et al., 2023, Image shortcut squeezing, arXiv:2301.13838")
def jpeg(split: Split, *, quality: int = 10) -> Split:
    """The train set after a JPEG round trip at `quality` (1 ... 95); test pictures are left alone. Raises BadValue."""
    if not 1 <= quality <= 95:
        raise BadValue(f"expected a JPEG quality of 1 ... 95, got {quality!r}; the paper's is 10")

    def one(x: Tensor) -> Tensor:
        pixels = (x.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
        back = torch.from_numpy(np.asarray(Image.open(file)).copy())
        return (back if back.ndim == 3 else back[:, :, None]).permute(2, 0, 1).float() / 255

    return split.mapped(lambda x, _: torch.stack([one(picture) for picture in x]), f"jpeg {quality}")
