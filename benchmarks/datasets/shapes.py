"""Ten objects as painted parts, each part a signed distance over object coordinates (x right, y up, about [-1, 1]).

Distances in the manner of Hart (1996, "Sphere tracing", The Visual Computer 12): negative inside, and near the edge
the distance to it, so that coverage 1/2 - d / pixel is anti-aliased. Convex pieces are the greatest of their sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

MAIN, SECOND, DARK, LIGHT = range(4)
"""Colour slots of a part."""

Part = tuple[Tensor, int]
Point = tuple[float | Tensor, float | Tensor]
Draw = Callable[[Tensor, Tensor, Tensor], list[Part]]
"""(x (N, H, W), y (N, H, W), variation (8, N, 1, 1) in [-1, 1]) -> parts from back to front."""


def disc(x: Tensor, y: Tensor, at: Point, r: float | Tensor) -> Tensor:
    """A disc of radius r."""
    return torch.hypot(x - at[0], y - at[1]) - r


def oval(x: Tensor, y: Tensor, at: Point, rx: float | Tensor, ry: float | Tensor) -> Tensor:
    """An ellipse, to first order at its edge."""
    u, w = (x - at[0]) / rx, (y - at[1]) / ry
    k = torch.hypot(u, w)
    return k * (k - 1) / torch.hypot(u / rx, w / ry).clamp_min(1e-6)


def box(x: Tensor, y: Tensor, at: Point, half: Point, rounded: float = 0.0) -> Tensor:
    """A rectangle of half sides `half`, corners rounded."""
    u, w = (x - at[0]).abs() - half[0] + rounded, (y - at[1]).abs() - half[1] + rounded
    return torch.hypot(u.clamp_min(0), w.clamp_min(0)) + torch.maximum(u, w).clamp_max(0) - rounded


def stick(x: Tensor, y: Tensor, a: Point, b: Point, r: float) -> Tensor:
    """A line from a to b of half width r with round ends."""
    ux, uy = b[0] - a[0], b[1] - a[1]
    t = (((x - a[0]) * ux + (y - a[1]) * uy) / (ux * ux + uy * uy)).clamp(0, 1)
    return torch.hypot(x - a[0] - t * ux, y - a[1] - t * uy) - r


def convex(x: Tensor, y: Tensor, corners: Sequence[Point]) -> Tensor:
    """A convex polygon, corners counter-clockwise."""
    sides = []
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        ux, uy = torch.as_tensor(b[0] - a[0]), torch.as_tensor(b[1] - a[1])
        sides.append(((x - a[0]) * uy - (y - a[1]) * ux) / torch.hypot(ux, uy))
    return reduce(torch.maximum, sides)


def house(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Chimney, wall, gable roof, door, two panes."""
    w, wall, top = 0.66 + 0.1 * v[0], -0.02 + 0.12 * v[1], 0.85 + 0.1 * v[2]
    door = 0.28 * v[3]
    return [
        (box(x, y, (0.42, 0.5), (0.1, 0.35)), SECOND),
        (box(x, y, (0.0, (wall - 0.85) / 2), (w, (wall + 0.85) / 2)), MAIN),
        (convex(x, y, [(-w - 0.2, wall), (w + 0.2, wall), (0.2 * v[4], top)]), SECOND),
        (box(x, y, (door, -0.62), (0.13, 0.24)), DARK),
        (box(x, y, (-0.38 + 0.0 * v[0], -0.3), (0.13, 0.12)), LIGHT),
        (box(x, y, (0.38 + 0.0 * v[0], -0.3), (0.13, 0.12)), LIGHT),
    ]


def tree(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Trunk and a crown of three discs."""
    side, high = 0.34 + 0.08 * v[0], 0.45 + 0.1 * v[1]
    crown = torch.stack(
        [
            disc(x, y, (-side, 0.08 + 0.1 * v[2]), 0.42 + 0.06 * v[3]),
            disc(x, y, (side, 0.1 + 0.1 * v[4]), 0.42 + 0.06 * v[5]),
            disc(x, y, (0.1 * v[6], high), 0.46 + 0.06 * v[7]),
        ]
    ).amin(0)
    return [(convex(x, y, [(-0.2, -0.95), (0.2, -0.95), (0.12, 0.1), (-0.12, 0.1)]), SECOND), (crown, MAIN)]


def car(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Cabin, pane, body, two wheels, a lamp."""
    roof, back, wheel = 0.42 + 0.12 * v[0], -0.62 + 0.12 * v[1], 0.2 + 0.04 * v[2]
    front = 0.35 + 0.12 * v[3]
    cabin = convex(x, y, [(back - 0.12, -0.05), (front + 0.3, -0.05), (front, roof), (back + 0.1, roof)])
    pane = convex(x, y, [(0.05, 0.0), (front + 0.12, 0.0), (front - 0.06, roof - 0.1), (0.05, roof - 0.1)])
    return [
        (cabin, MAIN),
        (pane, LIGHT),
        (box(x, y, (0.0, -0.2), (0.95, 0.24), 0.12), MAIN),
        (disc(x, y, (-0.52 + 0.06 * v[4], -0.45), wheel), DARK),
        (disc(x, y, (0.52 + 0.06 * v[5], -0.45), wheel), DARK),
        (disc(x, y, (0.86, -0.12), 0.08), LIGHT),
    ]


def boat(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Mast, two sails, hull."""
    deck, mast = -0.4 + 0.08 * v[0], 0.1 * v[1]
    bow = 0.85 + 0.08 * v[2]
    return [
        (stick(x, y, (mast, deck), (mast, 0.92), 0.06), DARK),
        (convex(x, y, [(mast + 0.1, deck + 0.12), (0.75 + 0.1 * v[3], deck + 0.12), (mast + 0.1, 0.85)]), LIGHT),
        (
            convex(
                x, y, [(mast - 0.1, 0.65 + 0.1 * v[5]), (-0.6 - 0.1 * v[4], deck + 0.12), (mast - 0.1, deck + 0.12)]
            ),
            SECOND,
        ),
        (convex(x, y, [(-0.9, deck), (-0.62, -0.86), (0.5, -0.86), (bow, deck)]), MAIN),
    ]


def fish(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Tail, back fin, body, eye."""
    tall, tail = 0.42 + 0.1 * v[0], 0.4 + 0.1 * v[1]
    fin = 0.62 + 0.12 * v[2]
    return [
        (convex(x, y, [(-0.35, 0.0), (-0.98, tail), (-0.98, -tail)]), SECOND),
        (convex(x, y, [(0.35, 0.1), (-0.1 + 0.1 * v[3], fin), (-0.3, 0.1)]), SECOND),
        (oval(x, y, (0.12, 0.0), 0.72 + 0.06 * v[4], tall), MAIN),
        (disc(x, y, (0.5, 0.12), 0.15), LIGHT),
        (disc(x, y, (0.53, 0.12), 0.08), DARK),
    ]


def mushroom(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Stem, half an oval for a cap, three spots."""
    wide, foot, rim = 0.82 + 0.08 * v[0], 0.24 + 0.06 * v[1], 0.02 + 0.1 * v[2]
    cap = torch.maximum(oval(x, y, (0.0, rim), wide, 0.82 + 0.08 * v[3]), rim - y)
    return [
        (
            convex(
                x, y, [(-foot - 0.08, -0.9), (foot + 0.08, -0.9), (foot - 0.04, rim + 0.1), (0.04 - foot, rim + 0.1)]
            ),
            LIGHT,
        ),
        (cap, MAIN),
        (disc(x, y, (-0.36 + 0.08 * v[4], rim + 0.28), 0.13), LIGHT),
        (disc(x, y, (0.08, rim + 0.55 + 0.05 * v[5]), 0.13), LIGHT),
        (disc(x, y, (0.42 + 0.08 * v[6], rim + 0.25), 0.12), LIGHT),
    ]


def cup(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Handle, tapered body, opening, a band."""
    lip, base, top = 0.6 + 0.06 * v[0], 0.46 + 0.1 * v[1], 0.6 + 0.1 * v[2]
    ring = (torch.hypot(x - 0.6, (y + 0.05 * v[3]) / 1.1) - 0.3 - 0.04 * v[4]).abs() - 0.085
    return [
        (ring, MAIN),
        (convex(x, y, [(-base - 0.1, -0.8), (base - 0.1, -0.8), (lip - 0.1, top), (-lip - 0.1, top)]), MAIN),
        (oval(x, y, (-0.1 + 0.0 * v[0], top), lip, 0.16), DARK),
        (box(x, y, (-0.1, -0.15 + 0.1 * v[5]), (0.5, 0.09)), SECOND),
    ]


def umbrella(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Pole and hook, canopy with scallops, a middle panel."""
    wide, rim = 0.9 + 0.06 * v[0], 0.06 + 0.08 * v[1]
    canopy = torch.maximum(oval(x, y, (0.0, rim), wide, 0.8 + 0.08 * v[2]), rim - y)
    panel = torch.maximum(oval(x, y, (0.0, rim), 0.34 + 0.06 * v[3], 0.8 + 0.08 * v[2]), rim - y)
    scallops = torch.stack([disc(x, y, (k * wide / 3, rim - 0.02), 0.24) for k in (-2, 0, 2)]).amin(0)
    hook = torch.maximum((disc(x, y, (0.17, -0.72), 0.17)).abs() - 0.07, y + 0.72)
    return [
        (torch.minimum(stick(x, y, (0.0, 0.9), (0.0, -0.72), 0.065), hook), DARK),
        (torch.maximum(canopy, -scallops), MAIN),
        (torch.maximum(panel, -scallops), SECOND),
    ]


def rocket(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Flame, two fins, body, nose, window."""
    wide, nose = 0.3 + 0.05 * v[0], 0.35 + 0.08 * v[1]
    body = convex(x, y, [(-wide, -0.6), (wide, -0.6), (wide + 0.02, nose), (-wide - 0.02, nose)])
    fin = 0.66 + 0.08 * v[2]
    return [
        (convex(x, y, [(-0.18, -0.62), (0.0 * v[0], -0.98), (0.18, -0.62)]), LIGHT),
        (convex(x, y, [(-fin, -0.75), (-wide + 0.05, -0.6), (-wide + 0.05, -0.02)]), SECOND),
        (convex(x, y, [(fin, -0.75), (wide - 0.05, -0.02), (wide - 0.05, -0.6)]), SECOND),
        (body, MAIN),
        (convex(x, y, [(-wide - 0.02, nose), (wide + 0.02, nose), (0.0 * v[0], 0.95 + 0.05 * v[3])]), SECOND),
        (disc(x, y, (0.0, 0.1 + 0.1 * v[4]), 0.16), LIGHT),
    ]


def flower(x: Tensor, y: Tensor, v: Tensor) -> list[Part]:
    """Stem, leaf, five petals, heart."""
    high, reach, turn = 0.32 + 0.06 * v[0], 0.36 + 0.04 * v[1], 0.6 * v[2]
    petals = torch.stack(
        [
            disc(
                x,
                y,
                (reach * torch.sin(turn + k * math.tau / 5), high + reach * torch.cos(turn + k * math.tau / 5)),
                0.24,
            )
            for k in range(5)
        ]
    ).amin(0)
    return [
        (stick(x, y, (0.0, high), (0.12 * v[3], -0.95), 0.07), SECOND),
        (oval(x, y, (0.28, -0.55 + 0.15 * v[4]), 0.28, 0.13), SECOND),
        (petals, MAIN),
        (disc(x, y, (0.0, high), 0.2 + 0.04 * v[5]), LIGHT),
    ]


OBJECTS: tuple[Draw, ...] = (house, tree, car, boat, fish, mushroom, cup, umbrella, rocket, flower)
"""Index = label."""

CLASSES = tuple(draw.__name__ for draw in OBJECTS)
