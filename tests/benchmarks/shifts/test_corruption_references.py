"""Corruptions against independent references: scipy, PIL, colorsys, and naive loops over pixels."""

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from robustsuite.benchmarks.shifts import blur, digital, filters, noise, spatter, weather
from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA, PARAMETERS
from robustsuite.maths.randomness import Rng


def picture(*shape: int) -> torch.Tensor:
    """Uniform noise on the 8-bit grid."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)) / 255


def streams(n: int) -> Rng:
    return Rng.of(0, "references", torch.arange(n))


def levels(x: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_tables_are_complete():
    assert len(CORRUPTIONS) == 15
    assert len(EXTRA) == 4
    for table in PARAMETERS.values():
        assert set(table) == set(CORRUPTIONS + EXTRA)
        assert all(len(row) == 5 for row in table.values())


@pytest.mark.parametrize("sigma", [0.05, 0.4, 0.7, 1.5, 6])
def test_gaussian_is_scipys(sigma):
    x = picture(2, 3, 20, 31)
    expected = ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    np.testing.assert_allclose(filters.gaussian(x, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.32, 2.44, 19.5, 170.8])
def test_elastic_smoother_is_scipys(sigma):
    expected = ndimage.gaussian_filter1d(np.eye(30), sigma, axis=0, mode="reflect", truncate=3)
    np.testing.assert_allclose(digital._smoother(30, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("c", PARAMETERS["imagenet"]["defocus_blur"] + PARAMETERS["cifar"]["defocus_blur"])
def test_defocus_is_a_mirrored_correlation_with_the_disk(c):
    x = picture(1, 3, 24, 33)
    kernel = filters.disk(*c)
    # a disk that touches its grid's border is mirrored there when it is softened, so it sums to a little over 1
    assert kernel.sum().item() == pytest.approx(1 if c[0] < 8 else {8: 1.0129755, 10: 1.0107858}[c[0]], abs=1e-6)
    torch.testing.assert_close(kernel, kernel.flip(0))
    torch.testing.assert_close(kernel, kernel.T)
    expected = ndimage.correlate(x[0].double().numpy(), kernel[None].double().numpy(), mode="mirror")
    np.testing.assert_allclose(blur.defocus_blur(x, c, streams(1))[0], expected, atol=1e-5)


def motion_by_loop(x: np.ndarray, angle: float, radius: int, sigma: float) -> np.ndarray:
    """Half a Gaussian walked along the angle, one pixel at a time."""
    H, W = x.shape
    weights = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    out = np.zeros((H, W))
    for i, weight in enumerate(weights):
        right = int(np.ceil(i * np.cos(np.deg2rad(angle)) - 0.5))
        down = int(np.ceil(i * np.sin(np.deg2rad(angle)) - 0.5))
        for h in range(H):
            for w in range(W):
                out[h, w] += weight * x[min(max(h + down, 0), H - 1), min(max(w + right, 0), W - 1)]
    return out / sum(weights)


@pytest.mark.parametrize(("facing", "angles"), [("right", (-45, -11.3, 0, 45)), ("up", (-135, -90, -60, -45))])
def test_motion_is_the_naive_walk(facing, angles):
    x = picture(4, 1, 16, 19)
    for radius, sigma in ((6, 1.5), (10, 3), (20, 15)):
        y = filters.motion_blur_toward(x, torch.tensor(angles).float(), radius, sigma, facing)
        for i, angle in enumerate(angles):
            expected = motion_by_loop(x[i, 0].numpy(), angle, radius, sigma)
            np.testing.assert_allclose(y[i, 0], expected, atol=1e-5)


def zoom_by_scipy(x: np.ndarray, factor: float) -> np.ndarray:
    """Crop, order-1 zoom, trim."""
    H, W = x.shape[-2:]
    h, w = int(np.ceil(H / factor)), int(np.ceil(W / factor))
    crop = x[..., (H - h) // 2 :, (W - w) // 2 :][..., :h, :w]
    big = ndimage.zoom(crop, (1, factor, factor), order=1)
    top, left = (big.shape[1] - H) // 2, (big.shape[2] - W) // 2
    return big[:, top : top + H, left : left + W]


def test_zoom_blur_is_scipys():
    x = picture(1, 3, 56, 37)
    counts = []
    for c in PARAMETERS["imagenet"]["zoom_blur"]:
        factors = np.arange(1, *c)
        counts.append(len(factors))
        expected = (x[0].numpy() + sum(zoom_by_scipy(x[0].numpy(), f) for f in factors)) / (len(factors) + 1)
        np.testing.assert_allclose(blur.zoom_blur(x, c, streams(1))[0], expected, atol=1e-5)
    assert counts == [12, 16, 11, 13, 11]


def scatter_by_loop(image: np.ndarray, offsets: np.ndarray, delta: int) -> np.ndarray:
    """The published scan: lower right to upper left, each pixel copies its neighbour's present value."""
    H, W = image.shape
    out = image.tolist()
    dy, dx = offsets.tolist()
    for h in range(H - delta, delta, -1):
        for w in range(W - delta, delta, -1):
            out[h][w] = out[h + dy[h][w]][w + dx[h][w]]
    return np.array(out)


@pytest.mark.parametrize(
    ("side", "c"),
    [(224, c) for c in PARAMETERS["imagenet"]["glass_blur"]] + [(32, c) for c in PARAMETERS["cifar"]["glass_blur"]],
)
def test_glass_is_the_sequential_scan(side, c):
    _, delta, rounds = c
    place = np.arange(side * side).reshape(side, side)
    parallel = torch.from_numpy(place.ravel())[None]
    sequential = place
    for i in range(rounds):
        offsets = streams(1).fold(i).integers(2 * delta, 2, side, side) - delta
        parallel = parallel.gather(1, blur.scatter_sources(offsets, delta))
        sequential = scatter_by_loop(sequential, offsets[0].numpy(), delta)
    np.testing.assert_array_equal(parallel[0].view(side, side), sequential)


def plasma_by_loop(noise_: np.ndarray, decay: float) -> np.ndarray:
    """Diamond-square, point by point."""
    n = len(noise_)
    z = np.zeros((n, n))
    step, wibble = n, 100.0
    while step >= 2:
        half = step // 2
        for h in range(0, n, step):
            for w in range(0, n, step):
                corners = z[h, w] + z[(h + step) % n, w] + z[h, (w + step) % n] + z[(h + step) % n, (w + step) % n]
                z[h + half, w + half] = corners / 4 + wibble**2 * noise_[h + half, w + half]
        for h in range(0, n, half):
            for w in range(half if h % step == 0 else 0, n, step):
                around = z[h - half, w] + z[(h + half) % n, w] + z[h, w - half] + z[h, (w + half) % n]
                z[h, w] = around / 4 + wibble**2 * noise_[h, w]
        step, wibble = half, wibble / decay
    z -= z.min()
    return z / z.max()


@pytest.mark.parametrize("decay", [1.4, 3])
def test_plasma_is_diamond_square(decay):
    noise_ = streams(2).uniform(32, 32, low=-1, high=1)
    z = weather.plasma(noise_, decay)
    for i in range(2):
        np.testing.assert_allclose(z[i], plasma_by_loop(noise_[i].double().numpy(), decay), atol=1e-5)


def test_fog_never_passes_the_brightest_value():
    x = picture(2, 3, 20, 20) * 0.5
    y = weather.fog(x, (2, 2), streams(2))
    assert (y.amax((1, 2, 3)) <= x.amax((1, 2, 3)) + 1e-6).all()


@pytest.mark.parametrize("c", [500, 60, 12, 3])
def test_shot_tables_are_poisson(c):
    accept, alias = (t.view(256, -1).double().numpy() for t in noise._poisson_alias(c))
    K = accept.shape[1]
    for level in (0, 1, 77, 255):
        mass = accept[level] / K
        np.add.at(mass, alias[level].astype(int), (1 - accept[level]) / K)
        rate = level / 255 * c
        expected = stats.poisson.pmf(np.arange(c), rate)
        np.testing.assert_allclose(mass[:c], expected, atol=1e-7)
        assert mass[c] == pytest.approx(stats.poisson.sf(c - 1, rate), abs=1e-6)
        assert mass[c + 1 :].sum() == pytest.approx(0, abs=1e-7)


def test_noise_has_its_moments():
    x, n = torch.full((4, 3, 128, 128), 102 / 255), 4 * 3 * 128 * 128
    gauss = noise.gaussian_noise(x, 0.1, streams(4)) - x
    speckle = noise.speckle_noise(x, 0.2, streams(4)) - x
    assert gauss.mean().item() == pytest.approx(0, abs=5 * 0.1 / n**0.5)
    assert gauss.std().item() == pytest.approx(0.1, rel=5 / (2 * n) ** 0.5)
    assert speckle.std().item() == pytest.approx(0.2 * 0.4, rel=5 / (2 * n) ** 0.5)
    shot = noise.shot_noise(x, 12, streams(4)) * 12
    assert shot.mean().item() == pytest.approx(4.8, abs=5 * (4.8 / n) ** 0.5)
    assert shot.var().item() == pytest.approx(4.8, rel=0.03)
    impulse = noise.impulse_noise(x, 0.09, streams(4))
    for value in (0, 1):
        share = (impulse == value).double().mean().item()
        assert share == pytest.approx(0.045, abs=5 * (0.045 / n) ** 0.5)


def by_pixel(x: torch.Tensor, change) -> np.ndarray:
    """colorsys, pixel by pixel: (3, H, W)."""
    out = np.empty(x.shape)
    for h in range(x.shape[1]):
        for w in range(x.shape[2]):
            out[:, h, w] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*x[:, h, w].double().tolist())))
    return out


def test_brightness_and_saturation_are_colorsys():
    x = picture(1, 3, 16, 17)
    x[..., 0], x[..., 1], x[..., 2] = 0, 0.4, 1
    for c in PARAMETERS["imagenet"]["brightness"]:
        expected = by_pixel(x[0], lambda h, s, v, c=c: (h, s, min(v + c, 1)))
        np.testing.assert_allclose(weather.brightness(x, c, streams(1))[0], expected, atol=1e-5)
    for a, b in PARAMETERS["imagenet"]["saturate"]:
        expected = by_pixel(x[0], lambda h, s, v, a=a, b=b: (h, min(s * a + b, 1), v))
        np.testing.assert_allclose(digital.saturate(x, (a, b), streams(1))[0], expected, atol=1e-5)


def test_contrast_shrinks_towards_each_channels_mean():
    x = picture(2, 3, 16, 16)
    y = digital.contrast(x, 0.25, streams(2))
    torch.testing.assert_close(y.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(y.std((2, 3)), 0.25 * x.std((2, 3)))


def test_snow_without_flakes_whitens():
    x = picture(1, 3, 16, 16)
    y = weather.snow(x, (0.0, 0.0, 1, 0.5, 10, 4, 0.7), streams(1))
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    torch.testing.assert_close(y, 0.7 * x + 0.3 * torch.maximum(x, 1.5 * grey + 0.5))


def test_snow_falls_with_its_half_turn():
    x = torch.zeros(1, 3, 32, 48)
    layer = weather.snow(x, PARAMETERS["imagenet"]["snow"][1], streams(1)) - 0.3 * 0.5
    torch.testing.assert_close(layer, layer.flip(2, 3))
    assert layer.std() > 0.05


def test_frost_adds_a_crop():
    x = picture(3, 3, 16, 20)
    textures = picture(2, 40, 50, 3)
    y = weather.frost(x, (0.8, 0.6, 1), streams(3), textures)
    for i in range(3):
        crop = ((y[i] - 0.8 * x[i]) / 0.6).permute(1, 2, 0)
        gaps = [
            (textures[t, h : h + 16, w : w + 20] - crop).abs().max().item()
            for t in range(2)
            for h in range(24)
            for w in range(30)
        ]
        assert min(gaps) < 1e-5


@pytest.mark.parametrize(("align", "mode"), [(True, "mirror"), (False, "reflect")])
def test_sampling_is_scipys(align, mode):
    x = picture(1, 2, 17, 22)
    at = streams(1).uniform(9, 11, 2, low=-14, high=34)
    y = digital._sample(x, at, align=align)
    where = at[0].flip(-1).movedim(-1, 0).double().numpy()
    for channel in range(2):
        expected = ndimage.map_coordinates(x[0, channel].double().numpy(), where, order=1, mode=mode)
        np.testing.assert_allclose(y[0, channel], expected, atol=1e-4)


def test_affine_takes_the_three_points_along():
    shift = streams(2).uniform(3, 2, low=-4, high=4)
    H, W = 40, 31
    s, centre = 31 // 3, torch.tensor([31 // 2, 40 // 2])
    before = centre + s * torch.tensor([[1, 1], [1, -1], [-1, -1]])
    origin = digital._affine(shift, H, W)
    across, down = origin[:, 0, 1] - origin[:, 0, 0], origin[:, 1, 0] - origin[:, 0, 0]
    after = before + shift
    back = origin[:, None, 0, 0] + after[..., :1] * across[:, None] + after[..., 1:] * down[:, None]
    torch.testing.assert_close(back, before.float().expand(2, 3, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(224, 224), (37, 64)])
def test_pixelate_is_pils(size):
    x = picture(1, 3, *size)
    for c in PARAMETERS["imagenet"]["pixelate"] + PARAMETERS["cifar"]["pixelate"]:
        small = Image.fromarray(levels(x[0])).resize((int(size[1] * c), int(size[0] * c)), Image.Resampling.BOX)
        expected = np.asarray(small.resize((size[1], size[0]), Image.Resampling.BOX)).astype(int)
        gap = np.abs(levels(digital.pixelate(x, c, streams(1))[0]).astype(int) - expected)
        assert gap.max() <= 1
        assert (gap > 0).mean() < 0.002


def test_jpeg_is_pils():
    x = picture(3, 3, 24, 40)
    for quality in PARAMETERS["imagenet"]["jpeg_compression"]:
        y = digital.jpeg(x, quality)
        for i in range(3):
            coded = io.BytesIO()
            Image.fromarray(levels(x[i])).save(coded, "JPEG", quality=quality)
            np.testing.assert_array_equal(levels(y[i]), np.asarray(Image.open(coded)))


def test_canny_draws_one_closed_line_around_a_square():
    a = np.zeros((2, 30, 30), np.uint8)
    a[0, 8:20, 10:22] = 200
    a[1] = 90
    edges = spatter.canny(a, 50, 150)
    assert not edges[1].any()
    assert ndimage.label(edges[0], np.ones((3, 3)))[1] == 1
    inside = ndimage.binary_fill_holes(edges[0])
    assert inside[8:20, 10:22].all()
    assert inside.sum() <= 14 * 14
    assert edges[0].sum() <= 4 * 13


def test_canny_joins_weak_edges_to_strong_ones_only():
    a = np.zeros((1, 20, 40), np.uint8)
    a[0, :, 5:] = 20
    a[0, :12, 20:] = 90
    a[0, 12:, 20:] = 40
    edges = spatter.canny(a, 50, 150)[0]
    assert not edges[:, :10].any()
    assert edges[:, 18:22].any(1).all()


def test_equalise_spreads_the_histogram():
    a = np.array([[[10, 10, 20, 30]], [[7, 7, 7, 7]]], np.uint8)
    assert spatter.equalise(a).tolist() == [[[0, 0, 128, 255]], [[7, 7, 7, 7]]]


def test_mud_is_brown_and_water_brightens():
    x = torch.full((2, 3, 96, 96), 0.5)
    mud = spatter.spatter(x, PARAMETERS["imagenet"]["spatter"][4], streams(2))
    darkest = mud.flatten(2).amin(2)
    torch.testing.assert_close(darkest, (torch.tensor([63.0, 42, 20]) / 255).expand(2, 3), atol=0.03, rtol=0)
    water = spatter.spatter(x, PARAMETERS["imagenet"]["spatter"][2], streams(2))
    assert (water >= 0.5).all()
    assert water.amax().item() == pytest.approx(0.5 + 0.5 * 238 / 255, abs=1e-3)
