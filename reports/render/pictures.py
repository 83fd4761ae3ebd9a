"""Pictures (C, H, W) in [0, 1] as small PNG files to look at: 8 bits, shrunk where they are large."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from PIL import Image

from .draw import INK, wrap

if TYPE_CHECKING:
    from .document import Shot

Floats = NDArray[np.float32]


def png(picture: Floats, side: int = 0) -> bytes:
    """A picture (C, H, W) in [0, 1], of 1 or 3 channels, as PNG in 8 bits. side: pixels of its longer side at the most,
    0 for as it is; a smaller picture stays as it is.
    """
    levels = np.rint(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels[:3], 0, -1))
    if side and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def magnified(clean: Floats, adversarial: Floats) -> tuple[Floats, float]:
    """The difference (C, H, W) around middle grey, as large as it can be shown, and by how much it was magnified."""
    difference = np.nan_to_num(adversarial - clean)
    most = float(np.abs(difference).max())
    times = 0.5 / most if most else 1.0
    return np.asarray(0.5 + difference * np.float32(times), dtype=np.float32), times


def sampled(picture: Floats, side: int) -> Floats:
    """Every so many pixels of a picture (C, H, W), so that its longer side has `side` at the most.

    Differences are shrunk so: their mean over an area is near none, and would be shown magnified less than it says.
    """
    most = max(picture.shape[1:])
    if most <= side:
        return picture
    rows, columns = (((np.arange(k) + 0.5) * n / k).astype(int)
                     for n, k in ((n, max(1, round(n * side / most))) for n in picture.shape[1:]))  # fmt: skip
    return picture[:, rows][:, :, columns]


def size_of(picture: Floats, side: int) -> tuple[int, int]:
    """Width and height at which it is shown: shrunk to `side` where it is large, else enlarged by a whole number."""
    height, width = picture.shape[1:]
    most = max(height, width)
    scale = side // most if most <= side else side / most
    return max(1, round(width * scale)), max(1, round(height * scale))


def painted(canvas: Canvas, shots: Sequence[Shot]) -> None:
    """Paint shots side by side: the clean picture, the attacked one below it, their difference below both."""
    axes = canvas.subplots(3, len(shots), squeeze=False)
    for x, shot in enumerate(shots):
        for y, data in enumerate((shot.clean, shot.attacked, shot.difference)):
            ax = axes[y][x]
            ax.imshow(Image.open(io.BytesIO(data)).convert("RGB"), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        axes[0][x].set_title(wrap(shot.words, 18), fontsize=7.5, color=INK)
        axes[2][x].set_xlabel(f"× {shot.times:.3g}", fontsize=7.5)
    for y, word in enumerate(("clean", "attacked", "difference")):
        axes[y][0].set_ylabel(word, fontsize=8.5)
