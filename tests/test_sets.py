"""Sets beyond a norm's ball: known answers of each rendering, gradients, and what is in a set and what is not."""

import math

import pytest
import torch
from torch import Tensor

from robustsuite.config.sets import BEYOND, REGIONS, RENDERED, Frame, Patch, parse_set
from robustsuite.config.transforms import Fog, Snow, Spatial, Transformation
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths import colours, warping, weather
from robustsuite.maths.frequencies import cosines
from robustsuite.maths.randomness import Rng

EPS = {"spatial": 30, "flow": 1.5, "elastic": 4, "colour": 0.1, "fog": 0.5, "snow": 0.5, "jpeg": 1,
       "patch": 0.1, "frame": 2}  # fmt: skip
X = torch.rand(6, 3, 12, 10, generator=torch.Generator().manual_seed(0))
RNG = Rng.of(0, "sets", torch.arange(6))


def rendered(name: str, eps: float | None = None) -> Transformation:
    made = parse_set(name, EPS[name] if eps is None else eps)
    assert isinstance(made, Transformation)
    return made


@pytest.mark.parametrize("name", RENDERED)
def test_the_identity_changes_no_bit_and_is_in_every_set(name: str) -> None:
    for eps in (0, EPS[name]):
        made = rendered(name, eps)
        still = made.identity(X)
        assert torch.equal(made.apply(X, still), X)
        assert bool(made.holds(still).all())
    assert torch.equal(rendered(name, 0).sample(X, RNG), X)


@pytest.mark.parametrize("name", BEYOND)
def test_a_sample_is_a_picture_of_the_set_whatever_stands_beside_it(name: str) -> None:
    made = parse_set(name, EPS[name])
    at = made.sample(X, RNG)
    assert bool(((at >= 0) & (at <= 1)).all())
    assert not torch.equal(at, X)
    assert torch.equal(at, torch.cat([made.sample(X[i : i + 1], RNG[i : i + 1]) for i in range(6)]))
    grey = X[:, :1]
    assert made.sample(grey, RNG).shape == grey.shape
    assert made.sample(X[:0], RNG[torch.arange(0)]).shape == (0, 3, 12, 10)


@pytest.mark.parametrize("name", RENDERED)
def test_theta_is_held_to_its_set_in_float64(name: str) -> None:
    made = rendered(name)
    theta = made.draw(X, RNG)
    assert bool(made.holds(theta).all())
    assert bool(rendered(name, 2 * EPS[name]).holds(theta).all()), "larger sets hold more"
    far = theta.clone()
    far.flatten(1)[:, 0] = 1.01 * EPS[name]
    assert not bool(made.holds(far).any())
    assert bool(made.holds(made.project(far)).all())
    torch.testing.assert_close(made.project(theta), theta, atol=1e-6, rtol=1e-5)
    for bad in (math.nan, math.inf):
        worse = theta.clone()
        worse.flatten(1)[:, -1] = bad
        assert not bool(made.holds(worse).any())


@pytest.mark.parametrize("name", RENDERED)
def test_what_a_judge_renders_of_a_theta_outside_is_the_picture_itself(name: str) -> None:
    made = rendered(name)
    theta = made.draw(X, RNG)
    theta[0] = math.nan
    theta[1] = 1e9
    pictures, held, size = made.rendered(X, theta)
    assert held.tolist() == [False, False, True, True, True, True]
    assert torch.equal(pictures[:2], X[:2])
    assert torch.equal(pictures[2:], made.apply(X[2:], theta[2:]))
    assert size[0] == math.inf
    with pytest.raises(ValueError, match="expected theta of shape"):
        made.rendered(X, theta[:, None])


@pytest.mark.parametrize("name", RENDERED)
def test_gradients_are_what_differences_say(name: str) -> None:
    made, x = rendered(name), (0.3 + 0.4 * X).double()
    theta = made.draw(X, RNG).double() * 0.9 + (0.05 if name == "fog" else 0.0)
    direction = RNG.fold("direction").normal(*theta.shape[1:]).double()
    weights = RNG.fold("weights").normal(*X.shape[1:]).double()

    def value(at: Tensor) -> Tensor:
        return (made.apply(x, at) * weights).flatten(1).sum(1)

    leaf = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(leaf).sum(), leaf)
    step = 1e-6
    measured = (value(theta + step * direction) - value(theta - step * direction)) / (2 * step)
    said = (slope * direction).flatten(1).sum(1)
    assert torch.isclose(said, measured, rtol=1e-3, atol=1e-4).sum() >= 5, "a kink may stand beside one of them"


def test_a_quarter_turn_is_the_transposed_picture_and_a_shift_moves_whole_pixels() -> None:
    square = X[:, :, :10]
    made = Spatial(360.0)

    def turned(*theta: float) -> Tensor:
        return made.apply(square, torch.tensor(theta).expand(6, 3))

    torch.testing.assert_close(turned(90.0, 0, 0), torch.rot90(square, 1, (2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned(-90.0, 0, 0), torch.rot90(square, -1, (2, 3)), atol=1e-5, rtol=0)
    down = turned(0, 0.2, 0)
    torch.testing.assert_close(down[:, :, 2:], square[:, :, :-2], atol=1e-6, rtol=0)
    assert not bool(down[:, :, :2].any()), "what comes from outside is black"
    right = turned(0, 0, 0.3)
    torch.testing.assert_close(right[..., 3:], square[..., :-3], atol=1e-6, rtol=0)


def test_a_flow_of_whole_pixels_moves_them_and_the_border_goes_on() -> None:
    flow = torch.zeros(6, 2, 12, 10)
    flow[:, 0], flow[:, 1] = 1.0, -2.0
    moved = warping.flowed(X, flow)
    assert torch.equal(moved[:, :, :-1, 2:], X[:, :, 1:, :-2])
    assert torch.equal(moved[:, :, -1, 2:], X[:, :, -1, :-2])
    even = torch.full((1, 2, 12, 10), 0.7)
    torch.testing.assert_close(warping.smoothed(even, 3.0, 12), even)


def test_one_function_of_colour_for_all_pixels() -> None:
    table = torch.zeros(6, 3, 8, 8, 8)
    table[:, 1] = 0.25
    lighter = colours.recoloured(X, table)
    assert torch.equal(lighter[:, ::2], X[:, ::2])
    torch.testing.assert_close(lighter[:, 1], X[:, 1] + 0.25)
    node = torch.tensor([3, 5, 0]) / 7
    table = torch.zeros(1, 3, 8, 8, 8)
    table[0, 2, 3, 5, 0] = 0.5
    shown = colours.recoloured(node.view(1, 3, 1, 1), table) - node.view(1, 3, 1, 1)
    torch.testing.assert_close(shown.flatten(), torch.tensor([0, 0, 0.5]), atol=1e-5, rtol=0)


def test_a_constant_block_of_jpeg_is_its_first_coefficient() -> None:
    coefficients = torch.zeros(1, colours.blocks(1, 16, 16), 8, 8)
    coefficients[0, 0, 0, 0] = 1.0  # one step of 16 levels, over 8 for an orthonormal transform
    added = colours.decoded(coefficients, 1, 16, 16)
    torch.testing.assert_close(added[0, 0, :8, :8], torch.full((8, 8), 2 / 255))
    assert not bool(added[0, 0, 8:].any() | added[0, 0, :, 8:].any())
    chroma = torch.zeros(1, colours.blocks(3, 16, 16), 8, 8)
    chroma[0, 5, 0, 0] = 1.0  # of Cr, which covers all sixteen rows
    red = colours.decoded(chroma, 3, 16, 16)[0]
    torch.testing.assert_close(red[0], torch.full((16, 16), 1.402 * 17 / 8 / 255))
    assert not bool(red[2].any())
    basis = cosines(8, 8)
    torch.testing.assert_close(basis @ basis.T, torch.eye(8, dtype=torch.float64), atol=1e-6, rtol=0)


def test_fog_without_relief_is_none_and_the_brightest_value_stays() -> None:
    assert not bool(weather.fractal(torch.full((1, 255), 0.5), 16).any())
    made = Fog(0.5)
    theta = made.draw(X, RNG)
    fog = weather.fractal(theta[:, 1:], 16)
    assert fog.flatten(1).amin(1).tolist() == [0.0] * 6
    assert fog.flatten(1).amax(1).tolist() == [1.0] * 6
    torch.testing.assert_close(made.size(theta), theta[:, 0].double())
    white = torch.ones_like(X)
    assert float(made.apply(white, theta).max()) <= 1


def test_snow_is_added_and_a_layer_holds_a_fifth() -> None:
    made = Snow(0.5)
    assert bool((made.sample(X, RNG) >= X).all())
    full = torch.full((6, *made.shape((3, 12, 10))), 0.5)
    assert not bool(made.holds(full).any())
    torch.testing.assert_close(made.project(full).mean(), torch.tensor(0.1))
    few = torch.zeros_like(full)
    few[:, 0, 0, 0] = 0.5
    assert bool(made.holds(few).all())


def test_a_patch_is_one_square_and_a_frame_a_border() -> None:
    patch = Patch(0.1)  # of 12 x 10: 12 pixels, a side of 3
    assert patch.side(X) == 3
    inside, wide, apart = X.clone(), X.clone(), X.clone()
    inside[:, :, 4:7, 2:5] = 1.0
    wide[:, 0, 4, 2:6] = 1.0
    apart[:, 0, 0, 0] = apart[:, 0, 11, 9] = 1.0
    assert [bool(patch.allows(X, at).all()) for at in (X, inside, wide, apart)] == [True, True, False, False]
    assert patch.distance(X, inside)[0] == pytest.approx(9 / 120)
    heavy = X.clone()
    heavy[:, :, 5:8, 5:8] += 0.5
    heavy[:, :, 0, 0] += 0.1
    cut = patch.project(X, heavy)
    assert torch.equal(cut[:, :, 0, 0], X[:, :, 0, 0])
    assert torch.equal(cut[:, :, 5:8, 5:8], heavy[:, :, 5:8, 5:8].clamp(0, 1))
    frame = Frame(2)
    border = X.clone()
    border[:, :, 1], border[:, :, :, 8] = 0.0, 1.0
    assert frame.distance(X, border).tolist() == [2.0] * 6
    border[:, :, 5, 5] = 2 - border[:, :, 5, 5]
    assert not bool(frame.allows(X, border).any())
    assert bool(frame.allows(X, frame.project(X, border)).all())


@pytest.mark.parametrize("name", REGIONS)
def test_no_region_allows_what_is_outside_the_box_or_not_a_number(name: str) -> None:
    for bad in (math.nan, 1.01, -0.01):
        at = X.clone()
        at[:, 0, 0, 0] = bad
        assert not bool(parse_set(name, 1).allows(X, at).any())  # type: ignore[union-attr]


def test_names_and_sizes_that_no_set_has() -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        parse_set("spatiall", 30)
    with pytest.raises(BadValue, match="share of the picture"):
        parse_set("patch", 1.5)
    with pytest.raises(BadValue, match="at most 3 channels"):
        rendered("colour").draw(torch.rand(1, 4, 8, 8), RNG[torch.arange(1)])
    assert str(parse_set("frame", "2")) == "frame(eps=2)"
