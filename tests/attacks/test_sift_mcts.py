"""SIFT-MCTS: blobs of known place and size, a finite game's optimum by brute force, invariants of the trees."""

import sys
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.sift_mcts import keypoints, saliency, sift_mcts
from robustsuite.config.registry import card_of
from robustsuite.config.threats import L0
from robustsuite.errors import BadValue, MissingPackage
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import game_tree
from robustsuite.methods.evasion.game_tree import WIDEN, Game, Played, game, play
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle
from tests.attacks.linear import centre, distance, linear, oracle, streams
from tests.toys import present

CARD = card_of("attack", "sift_mcts")
library = pytest.mark.skipif(not present(CARD), reason="needs opencv-python-headless")


def even(x: Tensor, features: int = 2) -> Game:
    """The game whose pixels are all alike and belong to the features in turn."""
    moves = x.shape[2] * x.shape[3]
    feature = (torch.arange(moves) % features).expand(len(x), moves)
    return game(x, feature, torch.full((len(x), moves), -torch.log(torch.tensor(float(moves)))))


def played(net: nn.Module, x: Tensor, y: Tensor, eps: float, queries: int = 3000, **given: object) -> Played:
    """Our search over `even` features."""
    model = given.pop("model", oracle(net, len(x)))
    board = given.pop("board", even(x))
    return play(model, x, y, L0(eps), board, rng=streams(len(x)), queries=queries, explore=0.05, **given)  # type: ignore[arg-type]


def changes(x: Tensor, x_adv: Tensor) -> Tensor:
    return (x != x_adv).flatten(1).sum(1)


class OnePixel(nn.Module):
    """Class 1 where one pixel is bright, else class 0; the others say nothing."""

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :, 3, 4].mean(1)
        return torch.stack([0.6 - seen, 0 * seen], 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_only_pixel_that_matters_is_found(channels: int) -> None:
    x, y = torch.full((4, channels, 8, 8), 0.2), torch.zeros(4, dtype=torch.int64)
    found = played(ready(OnePixel()), x, y, 24)
    assert bool(found.broken.all())
    moved = (found.x_adv != x).any(1)
    assert torch.equal(moved.flatten(1).sum(1), torch.ones(4, dtype=torch.int64))
    assert bool(moved[:, 3, 4].all())
    assert bool((changes(x, found.x_adv) == (1 if channels == 1 else 2)).all())  # of 3 channels, 2 are enough


class Table(nn.Module):
    """Six pixels that are 0 or 1 and one that says which table of 64 answers the picture is looked up in."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.register_buffer("answers", answers)

    def forward(self, x: Tensor) -> Tensor:
        bits = x.flatten(1).to(torch.float64)
        place = (bits[:, :6] * 2.0 ** torch.arange(6)).sum(1).long()
        which = (bits[:, 6] * len(self.answers)).round().long().clamp(max=len(self.answers) - 1)  # company is mirrored
        wrong = self.answers[which, place]
        return torch.stack([1 - 2 * wrong, 0 * wrong], 1).float()


@pytest.mark.parametrize("eps", [2, 3])
def test_a_finite_game_is_played_to_its_optimum(eps: int) -> None:
    n = 40
    answers = (torch.rand(n, 64, generator=torch.Generator().manual_seed(eps)) < 0.06).double()
    answers[:, 0] = answers[-3:] = 0  # the clean picture is right, and in three games every one is
    x = torch.zeros(n, 1, 1, 7)
    x[:, 0, 0, 6] = torch.arange(n) / n
    prior = torch.full((n, 7), 1 / 6).log()
    prior[:, 6] = -torch.inf  # the table's number is never played
    board = game(x, (torch.arange(7) % 2).expand(n, 7), prior)
    net, y = ready(Table(answers)), torch.zeros(n, dtype=torch.int64)
    model = oracle(net, n)
    found = played(net, x, y, eps, model=model, board=board)
    for i in range(n):
        sets = [s for k in range(1, eps + 1) for s in combinations(range(6), k)]
        best = next((len(s) for s in sets if answers[i, sum(1 << b for b in s)]), None)
        assert bool(found.broken[i]) == (best is not None)
        assert int(changes(x, found.x_adv)[i]) == best if best else True
    assert {True, False} == set(found.broken.tolist())
    assert int(model.counts.forwards.max()) < 1000  # it knows when nothing is left to play


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("eps", [3, 7, 30])
def test_no_change_beyond_the_budget_and_none_that_is_not_needed(eps: int, tree: bool) -> None:
    net, (x, y) = linear(), centre(6)
    found = played(net, x, y, eps, 1500, tree=tree)
    number = changes(x, found.x_adv)
    assert bool((number <= eps).all())
    assert bool(((found.x_adv == 0) | (found.x_adv == 1) | (found.x_adv == x)).all())
    least = distance(net, "l0")
    assert bool((number[found.broken] >= least).all())
    for i in found.broken.nonzero().flatten().tolist():
        assert int(net(found.x_adv[i : i + 1]).argmax()) != 0
        for place in (found.x_adv[i] != x[i]).nonzero():
            less = found.x_adv[i].clone()
            less[tuple(place)] = x[i][tuple(place)]
            assert int(net(less[None]).argmax()) == 0
    assert bool((found.track[:, 1:3] <= found.track[:, :2]).all())  # stripping never makes it longer
    assert bool(found.track[:, 3:].isinf().all())  # beyond 1500 queries nothing is known


def test_stripping_takes_what_is_not_needed_pass_by_pass() -> None:
    found = torch.tensor([[True, True, False, True]] * 3)
    rows = {"found": found, "place": torch.tensor([-1, 2, 4]), "dropped": torch.tensor([False, False, True])}
    after, without = game_tree._stripping(rows)
    assert after["place"].tolist() == [-1, 3, 0]  # none; the next change; another pass after one that took some away
    assert torch.equal(without, torch.tensor([[True, True, False, True], [True, True, False, False],
                                              [False, True, False, True]]))  # fmt: skip
    done, _ = game_tree._stripping({**rows, "place": torch.tensor([4, 4, 4]), "dropped": found[:, 2]})
    assert done["place"].tolist() == [-1, -1, -1]


def test_a_reward_is_one_over_the_moves_or_the_share_of_the_way() -> None:
    moves, clean, bound = torch.tensor([[1.0, 4.0]] * 4), torch.full((4,), -2.0), torch.full((4,), 4)
    margin = torch.tensor([[-2.0, 0.5], [-1.0, -1.0], [0.5, -2.0], [-1.0, -torch.inf]])
    worth = game_tree._reward(moves, margin, margin > 0, clean, bound)
    assert worth.tolist() == [1.0, 0.5, 4.0, 2.0]  # at the end; half way; by the position itself; the end is not asked


def test_trees_are_trees() -> None:
    x = torch.zeros(3, 1, 3, 4)
    board, bound, live = even(x, 3), torch.full((3,), 2), torch.tensor([True, True, False])
    rows = game_tree._begun(x.flatten(1) > 0, torch.full((3,), -1.0), ~torch.ones(3, dtype=torch.bool), 6, 1000)
    steps, arrived = 150, torch.zeros(3)
    for k in range(steps):
        draw = Rng.of(0, "walk", torch.arange(3)).fold(k)
        position, path = game_tree._walked(rows, board, bound, live, 0.3, draw, 1)
        arrived += path.any(1)
        assert position.sum(1).tolist() == [int(at) // 2 for at in (path * rows["depth"][:, : path.shape[1]]).amax(1)]
        game_tree._told(rows, path, draw.fold("worth").uniform(1)[:, 0])
    nodes, visits = rows["nodes"], rows["visits"]
    assert int(nodes[2]) == 1
    for tree in (0, 1):
        assert int(visits[tree, 0]) == int(arrived[tree]) > steps / 3
        for node in range(int(nodes[tree])):
            children = (rows["parent"][tree] == node).nonzero().flatten()
            assert bool((children > node).all())
            assert bool((rows["depth"][tree, children] == rows["depth"][tree, node] + 1).all())
            assert len(set(rows["move"][tree, children].tolist())) == len(children)
            own = float(visits[tree, node] - visits[tree, children].sum())
            assert own == (1 if node and int(rows["depth"][tree, node]) % 2 == 0 else 0)  # the visit that made it
            last = int(rows["depth"][tree, node]) == 3  # its children end the game: none of them is followed
            spent = bool(rows["closed"][tree, children].any())
            assert len(children) <= WIDEN * (float(visits[tree, node]) + 1) ** 0.5 + 1 or last or spent
            assert int(rows["depth"][tree, node]) <= 2 * int(bound[tree])


def test_a_budget_below_a_pixels_channels_is_played_value_by_value() -> None:
    net, (x, y) = linear(b=0.5), centre(2)
    assert distance(net, "l0") == 1
    moves = x[0].numel()
    board = game(x, torch.zeros(2, moves, dtype=torch.int64), torch.zeros(2, moves))
    found = played(net, x, y, 1, board=board)
    assert bool(found.broken.all())
    assert changes(x, found.x_adv).tolist() == [1, 1]


def test_it_asks_no_more_than_the_threat_allows() -> None:
    net, (x, y) = linear(), centre(3)
    model = oracle(net, 3, queries=37)
    played(net, x, y, 9, model=model)
    assert int(model.counts.forwards.max()) <= 37
    spent = oracle(net, 3, queries=0)
    assert torch.equal(played(net, x, y, 9, model=spent).x_adv, x)


@pytest.mark.parametrize("eps", [3, 12])
def test_how_often_the_host_looks_changes_nothing(eps: int) -> None:
    net, (x, y) = linear(), centre(7)
    alike = [played(net, x, y, eps, 40, model=oracle(net, 7, look=look, width=6)).x_adv for look in (1, 4)]
    assert torch.equal(*alike)


def test_of_single_draws_none_is_believed() -> None:
    net, (x, y) = linear(), centre(3)
    model = oracle(net, 3, confidence_margin=torch.inf)
    found = played(net, x, y, 9, 60, model=model)
    assert not bool(found.broken.any())
    assert bool((changes(x, found.x_adv) <= 9).all())
    assert bool((net(found.x_adv)[:, 0] < net(x)[:, 0]).all())  # the nearest to the goal comes back
    assert model.counts.forwards.tolist() == [60] * 3


def test_a_class_to_reach_is_reached() -> None:
    head, halves = nn.Linear(16, 3), torch.arange(16) < 8
    with torch.no_grad():  # each class but 0 sums up a half of the picture
        head.weight.copy_(torch.stack([0 * halves, halves, ~halves]).float())
        head.bias.copy_(torch.tensor([1.0, -2.0, -2.0]))
    net, x = ready(nn.Sequential(nn.Flatten(), head)), torch.full((2, 1, 4, 4), 0.2)
    targets = torch.tensor([[1], [2]])
    found = played(net, x, torch.zeros(2, dtype=torch.int64), 16, targets=targets)
    assert bool(found.broken.all())
    assert torch.equal(net(found.x_adv).argmax(1), targets[:, 0])
    assert changes(x, found.x_adv).tolist() == [2, 2]


@pytest.mark.parametrize("given", [{"queries": 0}, {"explore": -1.0}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, float]) -> None:
    x, y = centre(1)
    settings = {"queries": 10, "explore": 0.1} | given
    with pytest.raises(BadValue, match="expected queries >= 1 and explore >= 0, got"):
        play(oracle(linear(), 1), x, y, L0(4), even(x), rng=streams(1), **settings)  # type: ignore[arg-type]


def test_saliency_gives_each_keypoint_its_share() -> None:
    points = torch.tensor([[3.0, 2.0, 1.0, 0.3], [12.0, 8.0, 3.0, 0.1]], dtype=torch.float64)
    owner, chance = saliency(points, 12, 16)
    mass = torch.zeros(2).double().scatter_add_(0, owner, chance.exp())
    torch.testing.assert_close(mass, torch.tensor([0.75, 0.25]).double())
    assert owner.view(12, 16)[2, 3] == 0
    assert owner.view(12, 16)[8, 12] == 1
    assert int(chance.argmax()) == 2 * 16 + 3
    inside = chance.view(12, 16)
    ratio = float(inside[8, 12] - inside[8, 15])  # a Gaussian of sigma 3 + 1, three pixels out
    assert ratio == pytest.approx(9 / (2 * 16))


def test_without_keypoints_all_pixels_are_alike() -> None:
    owner, chance = saliency(torch.zeros(0, 4).double(), 5, 6)
    assert int(owner.max()) == 0
    assert float(chance.exp().sum()) == pytest.approx(1)
    assert len(chance.unique()) == 1


@library
@pytest.mark.parametrize("side", [64, 120])  # enlarged, and as it is
@pytest.mark.parametrize("sigma", [3.0, 6.0])
def test_a_blob_is_found_where_it_is_as_large_as_it_is(side: int, sigma: float) -> None:
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    blob = 0.8 * torch.exp(-((row - 33.25) ** 2 + (column - 30.75) ** 2) / (2 * sigma**2))
    (points,) = keypoints(blob[None, None])
    best = points[points[:, 3].argmax()]
    assert best[:2].tolist() == pytest.approx([30.75, 33.25], abs=0.3)
    assert float(best[2]) / sigma == pytest.approx(1.8, abs=0.1)  # of OpenCV's size, whatever the blob's


@library
def test_chance_goes_where_keypoints_are() -> None:
    row, column = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    away = ((row - 8.3) ** 2 + (column - 19.7) ** 2).sqrt()
    x, y = (0.1 + 0.3 * torch.exp(-(away**2) / 8))[None, None].repeat(6, 1, 1, 1), torch.zeros(6, dtype=torch.int64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    with torch.no_grad():  # any four bright pixels or so will do
        net[1].weight.copy_(torch.tensor([0.0, 1.0])[:, None].expand(2, 784))
        net[1].bias.copy_(torch.tensor([float(x[0].sum()) + 2.9, 0.0]))
    model = Oracle.over(ready(net), CARD.needs, streams(6))
    found = sift_mcts(model, x, y, L0(6), rng=streams(6), queries=250)
    assert bool(found.columns["claimed"].all())
    assert torch.equal(found.columns["l0_at_250"], changes(x, found.x_adv).float())
    assert bool(found.columns["l0_at_500"].isnan().all())
    assert float(away.expand(6, 1, 28, 28)[found.x_adv != x].mean()) < 8  # 12 from anywhere in the picture


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    x, y = centre(1)
    with pytest.raises(MissingPackage, match=r"the attack sift_mcts needs .* pip install 'robustsuite\[sift\]'"):
        sift_mcts(oracle(linear(), 1), x, y, L0(4), rng=streams(1))
