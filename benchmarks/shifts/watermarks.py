"""ImageNet-W: a transparent watermark, typical of cartons in ImageNet, over every validation picture.

"A Whac-A-Mole dilemma: shortcuts come in multiples where mitigating one amplifies others" (Li et al., 2023,
https://arxiv.org/abs/2212.04825). Scored by the IN-W gap acc(IN-W) - acc(IN), the same gap on cartons alone (more right
answers there are a shortcut), and the rise of the probability of 'carton'. The sign is drawn once a resolution and laid
over 8-bit pixels before the net normalises them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from robustsuite.benchmarks.datasets.scenes import INK, MARKED, watermark
from robustsuite.errors import BadData
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant, shift

CARTON = "n02971356"
TEXT, LATIN = "捷径" * 3, "SHORTCUT"
"""'Shortcut' three times, as published, and what is written where no font with these characters is named."""

FONT_SIZES = {224: 36, 384: 62, 512: 82, 518: 84}
AT, ALPHA = (0.01, 0.4), 128


@shift(
    paper="Li et al., 2023, arXiv:2212.04825",
    differs=(
        "the published font, SourceHanSerifSC-ExtraLight, is not shipped: `font` names it (or another with Chinese "
        "characters); without one the sign reads SHORTCUT in Aileron, which Pillow ships, and is no ImageNet-W",
        "over scenes: a sign that cups of the train split carry where the data say `watermark: 0.9`",
    ),
)
def imagenet_w(clean: Split, data: Dataset, *, seed: int, font: str | None = None) -> ShiftSet:
    """ImageNet-W over these pictures: ImageNet's, with the watermark of cartons, or scenes', with that of cups.

    font: a file of SourceHanSerifSC-ExtraLight. Raises BadData for data without such a class, or no font there.
    """
    names = [name.split(" ")[0] for name in data.classes]
    if CARTON in names:
        rgba, facts = sign(data.space.height, data.space.width, font)
        watched = names.index(CARTON)
    elif clean.redrawn is not None:
        ink = (255 * INK * watermark(data.space.height)).round().to(torch.uint8)
        white = torch.full((3, *ink.shape), 255, dtype=torch.uint8)
        rgba, facts, watched = torch.cat([white, ink[None]]), "sign", MARKED
    else:
        raise BadData(f"expected imagenet or scenes for imagenet_w, got {data.name}: no class to watch; leave it out")

    def finish(x: Tensor, positions: Tensor) -> Tensor:
        return overlay(x, rgba)

    def images(positions: Tensor) -> Tensor:
        return overlay(clean.images(positions), rgba)

    digest = hashlib.sha256(rgba.numpy().tobytes() + clean.sha256.encode()).hexdigest()
    marked = Split(clean.y, images, clean.ids, digest, stages=(clean.images, finish), files=clean.files)
    reading = Reading(transform=f"{facts} laid over 8-bit pixels", watch=watched, hard=clean.redrawn is not None)
    return ShiftSet("imagenet_w", {Variant("watermark"): marked}, True, clean, reading)


def sign(height: int, width: int, font: str | None = None) -> tuple[Tensor, str]:
    """The sign on transparent ground, uint8 (4, H, W), and what it is written in."""
    size = FONT_SIZES.get(width, int(width / 6.22))
    if font is None:
        text, face = LATIN, ImageFont.load_default(size)
        facts = "watermark SHORTCUT in Aileron (not ImageNet-W's font)"
    else:
        path = Path(font).expanduser()
        try:
            text, face = TEXT, ImageFont.truetype(str(path), size)
        except OSError as error:
            raise BadData(f"expected a font file at {font!r}, got {error}; check font") from error
        facts = f"watermark {TEXT} in {path.name}"
    layer = Image.new("RGBA", (width, height), (255, 255, 255, 0))
    ImageDraw.Draw(layer).text((AT[0] * width, AT[1] * height), text, font=face, fill=(255, 255, 255, ALPHA))
    return torch.from_numpy(np.asarray(layer).copy()).permute(2, 0, 1).contiguous(), facts


def overlay(x: Tensor, rgba: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] under a sign (4, H, W) uint8: 8-bit alpha compositing, in the integers of PIL."""
    below, over = (x * 255).round().clamp(0, 255).to(torch.int64), rgba.to(x.device, torch.int64)
    a = over[3]
    t = (over[:3] * a + below * (255 - a)) * 128 + (128 << 7)
    return ((((t >> 8) + t) >> 8) >> 7).to(x.dtype) / 255
