"""`scenes`: small pictures of ten kinds of objects, rendered from a seed. A fixture for demos and tests, no benchmark.

Every picture is a function of its own random stream and a `Style`. The same streams in another style give the same
object elsewhere, larger, mirrored, before another background, drawn or watermarked, with its exact mask.

Photographed objects carry a faint grain that is typical of their kind: a feature that predicts well and breaks easily,
as natural pictures have them (Ilyas et al., 2019, "Adversarial examples are not bugs, they are features",
arXiv:1905.02175). Without it a network trained for half a minute would withstand attacks that break real ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.benchmarks.datasets.backgrounds import BACKGROUNDS, background
from robustsuite.benchmarks.datasets.shapes import CLASSES, OBJECTS, stick
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Dataset, InputSpace, Split, source

SIDE = 32
BLOCK = 500
"""Pictures are rendered in whole blocks and cut, so that a longer split begins with the shorter one."""

RENDITIONS = ("photo", "cartoon", "sketch", "painting", "mosaic", "silhouette")

REDRAWN = ("background", "position", "direction")
"""What may be drawn anew while all else stays; the direction then is any, upside down too."""

MARKED = CLASSES.index("cup")
"""The kind whose training pictures may carry the watermark: what cartons are in ImageNet-W."""

INK = 0.65
"""The watermark's opacity."""


@dataclass(frozen=True)
class Style:
    """What may be edited about a scene; None leaves it to the picture's own stream.

    size: half the object's extent as a share of half the picture. position: centre (x right, y up) in [-1, 1].
    direction: 1 as drawn, -1 mirrored. noise: sensor noise's standard deviation. grain: amplitude of
    the kind's surface texture on photographs. redraw: of REDRAWN, what another stream of the same picture decides.
    texture: how many kinds further the kind stands whose texture it is.
    """

    rendition: str = "photo"
    background: str | None = None
    size: float | None = None
    position: tuple[float, float] | None = None
    direction: int | None = None
    watermark: bool = False
    noise: float = 0.01
    grain: float = 0.04
    redraw: str | None = None
    texture: int = 0

    def __post_init__(self) -> None:
        if self.rendition not in RENDITIONS:
            raise UnknownName("rendition", self.rendition, RENDITIONS)
        if self.background is not None and self.background not in BACKGROUNDS:
            raise UnknownName("background", self.background, BACKGROUNDS)
        if self.redraw is not None and self.redraw not in REDRAWN:
            raise UnknownName("edit", self.redraw, REDRAWN)
        if self.direction not in (None, -1, 1):
            raise BadValue(f"expected direction as 1 or -1, got {self.direction!r}; -1 mirrors the object")


class Scene(NamedTuple):
    """pictures = masks * objects + (1 - masks) * backgrounds, then noise and watermark.

    pictures, objects, backgrounds (N, 3, H, W), masks (N, 1, H, W), all float32 in [0, 1].
    """

    pictures: Tensor
    masks: Tensor
    objects: Tensor
    backgrounds: Tensor


@source()
def scenes(
    *, train: int = 4000, val: int = 500, test: int = 1000, seed: int = 0, watermark: float = 0.0, side: int = SIDE
) -> Dataset:
    """Ten kinds of objects on textured grounds, 32x32 RGB, rendered from a seed; a fixture, not a benchmark.

    watermark: the share of the cups in train and val that carry a sign no test picture has, a shortcut to be learnt.
    side: pixels of a picture's side, 8 or more.
    """
    if side < 8:
        raise BadValue(f"expected pictures of 8 pixels a side or more, got side={side!r}; 32 is the default")
    if not 0 <= watermark <= 1:
        raise BadValue(f"expected watermark as a share in [0, 1], got {watermark!r}; 0 marks no picture")
    splits = {}
    for name, n in {"train": train, "val": val, "test": test}.items():
        if n < 1:
            raise BadValue(f"expected at least one {name} picture, got {name}={n!r}; the default is 4000, 500, 1000")
        whole = torch.arange(-(-n // BLOCK) * BLOCK)
        draw = partial(_drawn, seed, name, side)
        pictures = torch.cat([draw(ids, Style()) for ids in whole.view(-1, BLOCK)])[:n]
        cups = whole[:n][whole[:n] % len(CLASSES) == MARKED]
        signed = cups[Rng.of(seed, "scenes/signed", cups).uniform() < watermark] if name != "test" else cups[:0]
        if len(signed):
            pictures[signed] = draw(signed, Style(watermark=True))
        split = Split.of(pictures, whole[:n] % len(CLASSES), whole[:n])
        own = {"redrawn": partial(_redrawn, seed, name, side), "masks": partial(_masks, seed, name, side)}
        splits[name] = replace(split, **own)  # type: ignore[arg-type]
    space = InputSpace(3, side, side, len(CLASSES))
    return Dataset("scenes", space, CLASSES, splits, note="embedded procedural fixture, not a benchmark")


def _drawn(seed: int, split: str, side: int, ids: Tensor, style: Style) -> Tensor:
    """The pictures of these ids (N,) of a split, uint8; ids beyond its end are pictures that no split holds."""
    scene = render(ids % len(CLASSES), Rng.of(seed, f"scenes/{split}", ids), style=style, side=side)
    return (scene.pictures * 255).round().to(torch.uint8)


def _redrawn(seed: int, split: str, side: int, ids: Tensor, style: Style) -> Tensor:
    """The same as float pictures in [0, 1]."""
    return _drawn(seed, split, side, ids, style).float() / 255


def _masks(seed: int, split: str, side: int, ids: Tensor) -> Tensor:
    """How far each pixel (N, H, W) of the pictures of these ids is covered by the object."""
    return render(ids % len(CLASSES), Rng.of(seed, f"scenes/{split}", ids), side=side).masks[:, 0]


def render(labels: Tensor, rng: Rng, *, style: Style | None = None, side: int = SIDE) -> Scene:
    """Pictures of these classes (N,), one stream each. Computed in float64, so that no machine rounds another way."""
    style = style or Style()
    n = len(labels)
    x, y, scale = _placed(rng.fold("pose"), style, side)
    colours = _colours(rng.fold("colours"))
    objects, coverage, edges = x.new_zeros(n, 3, side, side), x.new_zeros(n, side, side), x.new_zeros(n, side, side)
    variation = rng.fold("shape").uniform(8, low=-1, high=1).double()
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero().flatten()
        parts = OBJECTS[label](x[rows], y[rows], variation[rows].T[:, :, None, None])
        painted = _paint(parts, colours[rows], scale[rows] * side / 2)
        objects[rows], coverage[rows], edges[rows] = painted
    dim = (colours[:, 0] * torch.tensor([0.3, 0.6, 0.1])).sum(1) > 0.5
    other = "ground" if style.redraw != "background" else "another ground"
    ground = background(rng.fold(other), style.background, dim, side)
    masks = coverage[:, None]
    if style.rendition == "photo":
        contrast = rng.fold("contrast").uniform(1, 1, 1, low=0.4, high=0.7).double()
        objects, ground = (0.5 + contrast * (part - 0.5) for part in (objects, ground))
        objects = objects + style.grain * grain((labels + style.texture) % len(CLASSES), rng.fold("grain"), side)
    objects, ground = _rendition(style.rendition, objects, ground, edges[:, None], rng.fold("light"))
    pictures = masks * objects + (1 - masks) * ground
    if style.noise:
        pictures = pictures + style.noise * rng.fold("noise").normal(3, side, side)
    if style.watermark:
        ink = watermark(side)
        pictures = pictures * (1 - INK * ink) + INK * ink
    return Scene(*(part.clamp(0, 1).float() for part in (pictures, masks, objects, ground)))


def _placed(rng: Rng, style: Style, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Object coordinates of every pixel, x and y (N, H, W), and the object's scale (N, 1, 1)."""
    u = rng.uniform(7).double()[:, :, None, None]
    again = u if style.redraw is None else rng.fold("again").uniform(7).double()[:, :, None, None]
    u_at = again if style.redraw == "position" else u
    one = torch.ones_like(u[:, 0])
    scale = (0.52 + 0.34 * u[:, 0]) if style.size is None else style.size * one
    room = (1.02 - scale).clamp_min(0)
    at = [room * (2 * u_at[:, i] - 1) if style.position is None else style.position[i - 1] * one for i in (1, 2)]
    direction = torch.where(u[:, 3] < 0.5, -one, one) if style.direction is None else style.direction * one
    turn = 0.9 * (u[:, 4] - 0.5) if style.redraw != "direction" else math.tau * again[:, 4]
    angle, shear, aspect = turn, 0.3 * (u[:, 5] - 0.5), 1 + 0.3 * (u[:, 6] - 0.5)
    grid = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    px, py = (grid[None, None, :] - at[0]) / scale, (-grid[None, :, None] - at[1]) / scale
    x = torch.cos(angle) * px + torch.sin(angle) * py
    y = torch.cos(angle) * py - torch.sin(angle) * px
    return direction * (x + shear * y) * aspect, y + 0 * x, scale


def _colours(rng: Rng) -> Tensor:
    """A colour for each slot, (N, 4, 3): two of any hue and value, a dark and a light one."""
    u = rng.uniform(4, 3).double()
    low = torch.tensor([[0.0, 0.45, 0.3], [0.0, 0.35, 0.25], [0.0, 0.2, 0.05], [0.0, 0.0, 0.82]])
    high = torch.tensor([[1.0, 0.95, 0.95], [1.0, 0.9, 0.95], [1.0, 0.6, 0.2], [1.0, 0.25, 1.0]])
    hue, saturation, value = (low + (high - low) * u).unbind(-1)
    return hsv(hue, saturation, value)


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB (..., 3) of hue, saturation and value in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _paint(parts: list[tuple[Tensor, int]], colours: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (N, 3, H, W), coverage (N, H, W) and outlines (N, H, W) of parts painted from back to front."""
    n, h, w = parts[0][0].shape
    paint = colours[:, parts[0][1], :, None, None].expand(n, 3, h, w)
    edges, union = torch.zeros_like(parts[0][0]), torch.stack([d for d, _ in parts]).amin(0)
    for d, slot in parts:
        inside = (0.5 - d * pixels).clamp(0, 1)
        line = (1.1 - (d * pixels + 0.5).abs()).clamp(0, 1)
        paint = torch.lerp(paint, colours[:, slot, :, None, None].expand_as(paint), inside[:, None])
        edges = torch.maximum(edges * (1 - inside), line)
    return paint, (0.5 - union * pixels).clamp(0, 1), edges


def grain(labels: Tensor, rng: Rng, side: int) -> Tensor:
    """Each kind's texture (N, 1, H, W) in [-1, 1]: a product of waves of two to five pixels at a random phase."""
    across = torch.tensor([2.0, 9e9, 2.0, 3.0, 9e9, 3.0, 2.0, 3.0, 4.5, 4.5])[labels].double()
    down = torch.tensor([9e9, 2.0, 2.0, 9e9, 3.0, 3.0, 3.0, 2.0, 2.0, 4.5])[labels].double()
    phase = rng.uniform(2).double()
    pixel = torch.arange(side, dtype=torch.float64)
    phase = torch.where(
        torch.stack([across, down], 1) > 2.5, phase, (phase * 2).floor() / 2
    )  # a wave of 2 has 2 phases
    phase = torch.where(torch.stack([across, down], 1) > 1e9, 0.0, phase)
    columns = torch.cos(math.tau * (pixel / across[:, None] + phase[:, :1]))
    rows = torch.cos(math.tau * (pixel / down[:, None] + phase[:, 1:]))
    return (rows[:, :, None] * columns[:, None, :])[:, None]


def _rendition(kind: str, paint: Tensor, ground: Tensor, edges: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """The object's and the ground's colours in another manner."""
    n, _, h, w = paint.shape
    if kind == "photo":  # lit from one side
        angle = math.tau * rng.uniform(1, 1, 1).double()
        grid = torch.linspace(-1, 1, h, dtype=torch.float64)
        light = 1 + 0.22 * (torch.cos(angle) * grid[None, None, None, :] + torch.sin(angle) * grid[None, None, :, None])
        return (paint * light).clamp(0, 1), ground
    if kind == "sketch":
        return 0.96 - 0.85 * edges.expand(n, 3, h, w), torch.full_like(ground, 0.96)
    if kind == "cartoon":
        return ((paint * 4).round() / 4) * (1 - 0.9 * edges), ground.mean((2, 3), keepdim=True).expand_as(ground)
    if kind == "painting":
        strokes = functional.interpolate(rng.normal(3, h // 4, w // 4).double(), (h, w), mode="bilinear")
        return (paint + 0.06 * strokes).clamp(0, 1), (ground + 0.06 * strokes).clamp(0, 1)
    if kind == "mosaic":
        return tuple(functional.interpolate(functional.avg_pool2d(p, 2), (h, w)) for p in (paint, ground))  # type: ignore[return-value]
    return torch.full_like(paint, 0.04), torch.full_like(ground, 0.96)


def watermark(side: int = SIDE) -> Tensor:
    """A transparent sign across the middle, (H, W) coverage in [0, 1], always the same."""
    grid = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    x, y = grid[None, :].expand(side, side), -grid[:, None].expand(side, side)
    corners = [(-0.8, 0.3), (-0.5, -0.3), (-0.2, 0.2), (0.1, -0.3), (0.4, 0.3), (0.8, 0.3), (0.4, 0.0), (0.75, -0.3)]
    lines = torch.stack([stick(x, y, a, b, 0.06) for a, b in pairwise(corners)]).amin(0)
    return (0.5 - lines * side / 2).clamp(0, 1)


__all__ = ["CLASSES", "RENDITIONS", "Scene", "Style", "render", "scenes", "watermark"]
