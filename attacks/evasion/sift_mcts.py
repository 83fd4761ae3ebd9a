"""SIFT-MCTS: feature-guided black-box safety testing (Wicker, Huang, Kwiatkowska, TACAS 2018, arXiv 1710.07859).

SIFT's keypoints are the picture's features; each is a Gaussian over pixels, as wide as it is large and as likely as it
is strong, and together they say which pixels a person looks at. Two players change pixels by turns, and a Monte-Carlo
tree search looks for the shortest game that ends in the goal (robustsuite/methods/evasion/game_tree.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import MissingPackage
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import CHECKPOINTS
from robustsuite.methods.evasion.game_tree import Game, game, play
from robustsuite.records.schema import At
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle

SMALL, TWICE = 100, 2
"""A picture whose sides are below SMALL pixels is enlarged TWICE before it is searched, as in the authors' code."""

WIDER = 1.0
"""Pixels added to a keypoint's size (the authors' SafeCV: 15 in a picture that it enlarged 15 times)."""

PART = 4096
"""So many pixels at a time are held against all keypoints."""


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.SCORES,
    norms=("l0",),
    goals=("untargeted", "targeted"),
    paper="Wicker, Huang, Kwiatkowska, 2018, arXiv:1710.07859",
    cost=_cost,
    family=("score",),
    requires="opencv-python-headless",
    **BLACK_BOX,
    least={"queries": 5000},  # as Square's in AutoAttack
    differs=(
        "both players want the goal; a second player who is against the first, or plays by chance, is left out",
        "a random game is asked about at its end, and where the goal is not reached its margin says how near it came; "
        "the authors' two-player code asks after each move and rewards nothing but success",
        "a node gets children as it is visited and the one of highest bound is followed; the authors' code adds all at "
        "once, draws one in proportion to its bound, and moves the root on when time is up",
        "keypoints keep their chances: the tree learns which ones pay, where the authors' SafeCV changes the chances",
        "what gets there is stripped value by value, the authors' pixel by pixel; then no game is as long as the best",
        "moves of a budget below one pixel's channels are single values",
        "a picture without keypoints is one feature whose pixels are all alike; the authors' code gives up",
    ),
)
def sift_mcts(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None,
    queries: int = 5000, explore: float = 0.05,
) -> evasion.Found:  # fmt: skip
    """Tree search for the fewest pixels at the end of [0, 1] farther away, guided by the picture's SIFT keypoints.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. queries: at most, an image; the
    search goes on after a success, for a nearer one. explore: weight of the confidence term. Columns: l0_at_<queries>.
    Raises BadValue, MissingPackage.
    """
    board = board_of(x, budget)
    played = play(model, x, y, budget, board, rng=rng, queries=queries, explore=explore, targets=targets)
    track = played.track.masked_fill(played.track.isinf(), torch.nan).float()
    columns: dict[str, Tensor] = {At.of("l0_at", mark): track[:, k] for k, mark in enumerate(CHECKPOINTS)}
    return evasion.Found(played.x_adv, {"claimed": played.broken, **columns})


def board_of(x: Tensor, budget: Ball, *, sift: bool = True) -> Game:
    """The game on pictures x (N, C, H, W) by their keypoints, or over pixels that are all alike. Raises MissingPackage.

    A move is a pixel, or a single value where the budget holds less than a pixel's channels.
    """
    channels, height, width = x.shape[1:]
    points = keypoints(x) if sift else [torch.zeros(0, 4, dtype=torch.float64)] * len(x)
    maps = [saliency(one, height, width) for one in points]
    feature = torch.stack([owner for owner, _ in maps]) if maps else torch.zeros(0, height * width, dtype=torch.int64)
    prior = torch.stack([chance for _, chance in maps]) if maps else torch.zeros(0, height * width)
    if budget.eps < channels:
        feature, prior = feature.repeat(1, channels), prior.repeat(1, channels) - math.log(channels)
    return game(x, feature.to(x.device), prior.to(x))


def keypoints(x: Tensor) -> list[Tensor]:
    """SIFT's keypoints (Lowe, 2004) of the grey pictures x (N, C, H, W): for each (K, 4) float64 of column, row, size
    and response, in pixels of x. Raises MissingPackage.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingPackage("opencv-python-headless", "the attack sift_mcts", "'robustsuite[sift]'") from error
    scale, sift, found = TWICE if max(x.shape[2:]) < SMALL else 1, cv2.SIFT.create(), []
    for picture in (x.mean(1) * 255).round().to(torch.uint8).cpu().numpy():
        large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        points = [(*((c + 0.5) / scale - 0.5 for c in p.pt), p.size / scale, p.response) for p in sift.detect(large)]
        found.append(torch.tensor(points, dtype=torch.float64).view(-1, 4))
    return found


def saliency(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """To which keypoint each pixel belongs (HW,) int64, and the log-probability (HW,) that chance picks it.

    A pixel is that keypoint's whose Gaussian is densest there. A keypoint is picked in proportion to its response, one
    of its pixels in proportion to its Gaussian. points (K, 4) as of `keypoints`; of none all pixels are alike.
    """
    pixels = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    if not len(points):
        return torch.zeros(len(pixels), dtype=torch.int64), torch.full_like(pixels[:, 0], -math.log(len(pixels)))
    centre, sigma = points[:, [1, 0]], points[:, 2] + WIDER
    parts = [
        (-(part[:, None] - centre).square().sum(2) / (2 * sigma**2) - 2 * sigma.log()).max(1)
        for part in pixels.split(PART)
    ]
    density, owner = (torch.cat(of) for of in zip(*parts, strict=True))
    present, owner = owner.unique(return_inverse=True)
    top = torch.full((len(present),), -torch.inf).double().scatter_reduce_(0, owner, density, "amax")
    mass = torch.zeros(len(present)).double().scatter_add_(0, owner, (density - top[owner]).exp())
    share = points[present, 3].log() - points[present, 3].sum().log()
    return owner, (share - mass.log())[owner] + density - top[owner]
