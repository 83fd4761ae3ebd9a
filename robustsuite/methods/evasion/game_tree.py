"""Monte-Carlo tree search for the fewest changed values, as a game of two players (Wicker, Huang, Kwiatkowska, 2018,
arXiv 1710.07859).

Player I names a feature, player II one of its pixels, which goes to the far end of its range; both want the goal after
few moves. A node of the tree is a position; at even depth it is player I's turn. An iteration follows upper confidence
bounds down, adds a position, plays it to the end by chance, asks about both and tells the nodes on its way. What gets
there is stripped of each value's change that it does not need, and from then on no game is longer. All pictures take
their steps together, each with a tree of its own, a row of tensors.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.threats import Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import CHECKPOINTS
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle

WIDEN = 1.0
"""A node that was visited n times has at most WIDEN sqrt(n + 1) children: until then it gets another one, from then on
the best of them is followed (progressive widening; Chaslot et al., 2008)."""


class Game(NamedTuple):
    """What may be played on N pictures of V values: M moves of K features, a row each; `game` makes one.

    feature (N, M) int64: which one a move belongs to. flipped (N, V): what a value becomes; move m changes the values
    m, m + M, ... chance (N, M + K): the log-probability that chance plays a move, and then a feature. free (N, K): how
    many moves it has.
    """

    feature: Tensor
    flipped: Tensor
    chance: Tensor
    free: Tensor

    def of(self, rows: Tensor) -> Game:
        """The game of these pictures."""
        return Game(*(part[rows] for part in self))


class Played(NamedTuple):
    """Pictures (N, C, H, W), which got there (N,), with how many changes by each of CHECKPOINTS' queries (N, 6), inf
    where none did."""

    x_adv: Tensor
    broken: Tensor
    track: Tensor


def game(x: Tensor, feature: Tensor, prior: Tensor) -> Game:
    """The game on pictures x (N, C, H, W) whose moves send a pixel, or a value, to the end of [0, 1] farther away.

    feature (N, M) int64 in 0 ... K - 1, M = H W or C H W. prior (N, M): log-probabilities; -inf is never played.
    """
    values, shape = x.flatten(1), (len(x), int(feature.max()) + 1 if len(x) else 1)
    mass = prior.new_zeros(shape).scatter_add_(1, feature, prior.exp())
    free = prior.new_zeros(shape).scatter_add_(1, feature, prior.isfinite().to(prior))
    return Game(feature, (values <= 0.5).to(values), torch.cat([prior, mass.log()], 1), free)


def play(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, board: Game, *, rng: Rng, queries: int, explore: float,
    targets: Tensor | None = None, tree: bool = True,
) -> Played:  # fmt: skip
    """The fewest changes, at most budget.eps, that `queries` questions an image find, the first of them about x itself.

    x (N, C, H, W), y (N,), targets (N, 1) or None. explore: weight of the confidence term; a reward is the share of
    the way from the clean margin to 0. tree: if not, every game is played by chance alone. Where nothing got there the
    position of highest margin comes back. Raises BadValue.
    """
    if queries < 1 or explore < 0:
        raise BadValue(f"expected queries >= 1 and explore >= 0, got {queries=}, {explore=}; write explore=0.05")
    clean, most = x.flatten(1), model.left().clamp(max=queries)
    grain = board.flipped.shape[1] // board.feature.shape[1]
    longest, marks = int(min(budget.eps, clean.shape[1])) // grain, torch.tensor(CHECKPOINTS, device=x.device)
    able = (most > 0).nonzero().flatten() if longest else most.new_zeros(0)

    def margins(example: Tensor, changed: Tensor) -> Tensor:
        at = torch.where(changed, board.flipped[example], clean[example]).view(-1, *x.shape[1:])
        target = None if targets is None else targets[example]
        return losses.goal_margin(model[example](at), y[example], target).nan_to_num(nan=-torch.inf)

    def start(example: Tensor, _: Tensor) -> State:
        none = torch.zeros(len(example), clean.shape[1], dtype=torch.bool, device=x.device)
        margin = margins(able[example], none)
        return _begun(none, margin, margin > model.confidence_margin, len(marks), 2 * (queries + model.look))

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example = able[rows["example"]]
        draw, here = rng[example].fold(rows["asked"]), board.of(example)
        bound = _longest(rows["least"], grain).clamp(max=longest)
        rows, stripped = _stripping(rows)
        strips = rows["place"] >= 0
        playing = ~strips & (bound > 0)
        position, path = torch.zeros_like(here.feature, dtype=torch.bool), None
        if tree:
            position, path = _walked(rows, here, bound, playing, explore, draw.fold("moves"), model.look)
            playing = path.any(1)
        end = _played_out(position, here, bound, longest, draw.fold("end"))
        itself = torch.where(strips[:, None], stripped, position.repeat(1, grain))
        sets = torch.stack([itself, end.repeat(1, grain)], 1)
        asking = torch.stack([strips | (playing & tree), playing & (end != position).any(1)], 1)
        asking = asking & (asking.cumsum(1) <= (most[example] - rows["asked"])[:, None])
        row, slot = asking.nonzero(as_tuple=True)
        margin = torch.full(asking.shape, -torch.inf, device=x.device)
        margin[row, slot] = margins(example[row], sets[row, slot])
        there = margin > model.confidence_margin
        rows = _judged({**rows, "asked": rows["asked"] + asking.sum(1)}, sets, margin, there, marks)
        if path is not None:
            _told(rows, path, _reward(sets.sum(2) / grain, margin, there, rows["clean"], bound))
        won = (rows["place"] < 0) & (_longest(rows["least"], grain) < 1)
        over = (rows["asked"] >= most[example]) | won | rows["closed"][:, 0]
        return rows, torch.zeros_like(over), over

    rows, _ = search(model[able], 1, start, step, width=max(model.width // 2, 1), keep=("least", "track"))
    least = torch.full((len(x),), torch.inf, device=x.device)
    track, x_adv = least[:, None].repeat(1, len(marks)), clean.clone()
    if len(able):
        least[able], track[able] = rows["least"], rows["track"]
        x_adv[able] = torch.where(rows["found"], board.flipped[able], clean[able])
    return Played(x_adv.view_as(x), least.isfinite(), torch.where(marks <= most[:, None], track, torch.inf))


def _longest(least: Tensor, grain: int) -> Tensor:
    """How many moves (B,) of `grain` values each change fewer than `least` (B,) values; very many for inf."""
    return ((least - 1) / grain).floor().clamp(max=1 << 40).long()


def _begun(none: Tensor, margin: Tensor, there: Tensor, marks: int, size: int) -> State:
    """Rows of pictures without a change, none (B, V), with their margin, and of trees with room for `size` nodes.

    A node: whose child by which move it is, how deep, how often visited, what its rewards come to, and whether nothing
    is left to play below. A row: what was found, with how many changes, after how many questions; `_stripping` has
    the others.
    """
    number = margin.new_zeros(len(none), size)
    whole = number.long()
    least = torch.where(there, 0.0, torch.inf)
    return {
        "parent": whole - 1, "move": whole, "depth": whole.clone(), "visits": number, "total": number.clone(),
        "closed": number.bool(), "nodes": whole[:, 0] + 1, "found": none, "clean": margin, "score": margin,
        "least": least, "track": least[:, None].repeat(1, marks), "asked": whole[:, 0] + 1, "place": whole[:, 0] - 1,
        "dropped": none[:, 0],
    }  # fmt: skip


def _stripping(rows: State) -> tuple[State, Tensor]:
    """Rows with the change that is tried without next as `place`, -1 where none is, and what was found without it.

    One pass goes over all changes; where it took any away another one follows.
    """
    found, place = rows["found"], rows["place"]
    number = torch.arange(found.shape[1], device=found.device)

    def following(first: Tensor) -> Tensor:
        return torch.where(found & (number >= first[:, None]), number, len(number)).amin(1)

    tried = following(place)
    again = (place >= 0) & (tried == len(number)) & rows["dropped"]
    tried = torch.where(again, following(torch.zeros_like(place)), tried)
    place = torch.where((place >= 0) & (tried < len(number)), tried, -1)
    return {**rows, "place": place, "dropped": rows["dropped"] & ~again}, found & (number != place[:, None])


def _gumbel(draw: Rng, *shape: int) -> Tensor:
    """Standard Gumbel noise (N, *shape): the largest of log p + noise is drawn by p, the k largest without return."""
    return -(-draw.uniform(*shape).log()).log()


def _walked(
    rows: State, here: Game, bound: Tensor, live: Tensor, explore: float, draw: Rng, look: int
) -> tuple[Tensor, Tensor]:
    """The position (B, M) that each live row's tree gets, with its way there (B, nodes); nothing where it gets none.

    Written into the rows' own trees: the new nodes, and those below which nothing is left to play. look: after how many
    levels it is asked whether anybody still walks.
    """
    size = rows["parent"].shape[1]
    room = int(rows["nodes"].max()) + 3 if bound.device.type == "cpu" else size  # a GPU's host would wait to know
    parent, action, depth, visits, total = (rows[k][:, :room] for k in ("parent", "move", "depth", "visits", "total"))
    alive, often = ~rows["closed"][:, :room] & (depth < 2 * bound[:, None]), visits.clamp_min(1)
    mean, width = total / often, explore * often.rsqrt()
    moves, free = here.feature.shape[1], here.free.clone()
    wish = torch.cat([here.chance + _gumbel(draw, here.chance.shape[1]), torch.zeros_like(free[:, :1])], 1)
    position, path = torch.zeros_like(here.feature, dtype=torch.bool), torch.zeros_like(alive)
    at, going, arrived = torch.zeros_like(bound), live, torch.zeros_like(live)
    for level in count(1):
        node = at[:, None]
        path.scatter_(1, node, path.gather(1, node) | going[:, None])
        second, named = depth.gather(1, node) % 2 == 1, action.gather(1, node) - moves
        child = parent == node
        legal = torch.cat([second & ~position & (here.feature == named), ~second & (free > 0), second & ~second], 1)
        tried = torch.where(child, action, legal.shape[1] - 1)
        best, fresh = wish.masked_fill(~legal, -torch.inf).scatter(1, tried, -torch.inf).max(1)
        times, followed = visits.gather(1, node), child & alive
        trust, dear = (mean + width * times.clamp_min(1).log().sqrt()).masked_fill(~followed, -torch.inf).max(1)
        few = child.sum(1) < WIDEN * (times[:, 0] + 1).sqrt()
        grows = going & (best > -torch.inf) & (few | trust.isinf())
        follows = going & ~grows & ~trust.isinf()
        rows["closed"].scatter_(1, node, rows["closed"].gather(1, node) | (going & ~grows & ~follows)[:, None])
        new = rows["nodes"][:, None].clone()
        parent.scatter_(1, new, torch.where(grows[:, None], node, -1))
        action.scatter_(1, new, fresh[:, None])
        depth.scatter_(1, new, depth.gather(1, node) + 1)
        rows["nodes"] += grows
        at = torch.where(grows, new[:, 0], torch.where(follows, dear, at))
        takes = (grows | follows)[:, None] & second
        moved = action.gather(1, at[:, None]).clamp(max=moves - 1)
        position.scatter_(1, moved, position.gather(1, moved) | takes)
        free.scatter_add_(1, named.clamp_min(0), -takes.to(free))
        arrived |= grows & second[:, 0]
        going = follows | (grows & ~second[:, 0])
        if level % look == 0 and not bool(going.any()):
            break
    path.scatter_(1, at[:, None], True)
    return position & arrived[:, None], path & arrived[:, None]


def _played_out(position: Tensor, here: Game, bound: Tensor, longest: int, draw: Rng) -> Tensor:
    """The positions (B, M) with moves that chance adds, until there are `bound` (B,) of them or none is left."""
    moves = position.shape[1]
    score = (here.chance[:, :moves] + _gumbel(draw, moves)).masked_fill(position, -torch.inf)
    best, order = score.topk(longest, 1)
    more = torch.arange(longest, device=bound.device) < (bound - position.sum(1))[:, None]
    return position.scatter(1, order, position.gather(1, order) | (more & best.isfinite()))


def _judged(rows: State, sets: Tensor, margin: Tensor, there: Tensor, marks: Tensor) -> State:
    """Rows with what `sets` (B, 2, V), of these margins (B, 2), came to: the nearest that got there, else the best."""
    each, strips = torch.arange(len(margin), device=margin.device), rows["place"] >= 0
    length = torch.where(there, sets.sum(2).to(margin), torch.inf)
    least, shortest = length.min(1)
    top, highest = margin.max(1)
    nearer = least < rows["least"]
    better = nearer | (rows["least"].isinf() & (top > rows["score"]))
    found = sets[each, torch.where(nearer, shortest, highest)]
    least = torch.minimum(least, rows["least"])
    in_time = rows["asked"][:, None] <= marks
    return {
        **rows, "least": least, "found": torch.where(better[:, None], found, rows["found"]),
        "score": torch.maximum(top, rows["score"]), "dropped": strips & (rows["dropped"] | nearer),
        "place": torch.where(least < 2, -1, torch.where(strips, rows["place"] + 1, torch.where(nearer, 0, -1))),
        "track": torch.where(in_time, least[:, None], rows["track"]),
    }  # fmt: skip


def _reward(moves: Tensor, margin: Tensor, there: Tensor, clean: Tensor, bound: Tensor) -> Tensor:
    """What the new positions are worth (B,): 1 / moves, in units of the longest game's, where the goal is reached; of
    that the share of the way there where it is not. The game's end speaks, unless the position itself gets there."""
    share = (1 + margin / -clean[:, None].clamp(max=-1e-12)).clamp(0, 1)
    worth = share * bound[:, None] / moves.clamp_min(1)
    return torch.where(there[:, 0] | margin[:, 1].isinf(), worth[:, 0], worth[:, 1])


def _told(rows: State, path: Tensor, reward: Tensor) -> None:
    """Enter the reward (B,) at the nodes on the way (B, nodes)."""
    room = path.shape[1]
    rows["visits"][:, :room] += path
    rows["total"][:, :room] += path * reward[:, None]
