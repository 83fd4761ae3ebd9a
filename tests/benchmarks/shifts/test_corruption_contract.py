"""What holds for every corruption: 8-bit grid, range, its own stream alone, any size, errors in sentences."""

import pytest
import torch

from robustsuite.benchmarks.shifts.engine import corrupt
from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA, PARAMETERS
from robustsuite.errors import BadData, BadValue, UnknownName
from robustsuite.maths.randomness import Rng

ALL = CORRUPTIONS + EXTRA
RANDOM = set(ALL) - {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate",
}  # fmt: skip


def pictures(n: int, h: int, w: int) -> torch.Tensor:
    """Smooth colour with edges, off the 8-bit grid."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic").clamp(0, 1)
    x[:, :, : h // 3] = x[:, :, : h // 3].round()
    return x


def streams(n: int, seed: int = 0) -> Rng:
    return Rng.of(seed, "corruptions", torch.arange(n))


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("name", ALL)
def test_on_the_grid_in_range_and_changed(name, parameters):
    x = pictures(3, 40, 40)
    for severity in range(1, 6):
        y = corrupt(name, x, severity, rng=streams(3), parameters=parameters)
        levels = y * 255
        assert y.shape == x.shape
        assert y.dtype == torch.float32
        assert y.min() >= 0
        assert y.max() <= 1
        assert torch.equal(levels.round() / 255, y)
        assert not torch.equal(y, (x * 255).round() / 255)


@pytest.mark.parametrize("name", ALL)
def test_an_image_never_depends_on_its_batch(name):
    x, rng = pictures(5, 48, 40), streams(5)
    for severity in (1, 3, 5):
        together = corrupt(name, x, severity, rng=rng)
        alone = torch.cat([corrupt(name, x[i : i + 1], severity, rng=rng[i : i + 1]) for i in range(5)])
        assert torch.equal(together, alone)


@pytest.mark.parametrize("name", ALL)
def test_the_stream_decides(name):
    x = pictures(2, 32, 32)
    first = corrupt(name, x, 3, rng=streams(2))
    assert torch.equal(first, corrupt(name, x, 3, rng=streams(2)))
    assert torch.equal(first, corrupt(name, x, 3, rng=streams(2, seed=1))) == (name not in RANDOM)
    same = corrupt(name, x[:1].expand(2, -1, -1, -1), 3, rng=streams(2))
    assert torch.equal(same[0], same[1]) == (name not in RANDOM)


@pytest.mark.parametrize("size", [(16, 16), (17, 51), (130, 64)])
@pytest.mark.parametrize("name", ALL)
def test_any_size(name, size):
    x = pictures(2, *size)
    for severity in range(1, 6):
        y = corrupt(name, x, severity, rng=streams(2))
        assert y.shape == x.shape
        assert torch.isfinite(y).all()


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize(
    "name", ["gaussian_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform"]
)
def test_a_plain_image_stays_itself(name, level):
    x = torch.full((1, 3, 40, 40), level / 255)
    for severity in range(1, 6):
        assert torch.equal(corrupt(name, x, severity, rng=streams(1)), x)


def test_the_input_is_not_written_to():
    x = (pictures(2, 32, 32) * 255).round() / 255
    before = x.clone()
    for name in ALL:
        corrupt(name, x, 2, rng=streams(2))
    assert torch.equal(x, before)


def test_an_empty_batch():
    x = torch.zeros(0, 3, 32, 32)
    assert corrupt("gaussian_noise", x, 1, rng=streams(0)).shape == x.shape


def test_jpeg_round_trip_is_the_jpeg_of_the_result():
    x, rng = pictures(2, 32, 32), streams(2)
    from robustsuite.benchmarks.shifts.digital import jpeg

    plain = corrupt("contrast", x, 1, rng=rng)
    assert torch.equal(corrupt("contrast", x, 1, rng=rng, jpeg_roundtrip=85), jpeg(plain, 85))
    assert not torch.equal(jpeg(plain, 85), plain)


def test_errors():
    x = pictures(2, 32, 32)
    with pytest.raises(UnknownName, match="did you mean 'gaussian_noise'"):
        corrupt("gausian_noise", x, 1, rng=streams(2))
    with pytest.raises(UnknownName, match="did you mean 'imagenet'"):
        corrupt("fog", x, 1, rng=streams(2), parameters="imagnet")
    for severity in (0, 6, 2.5):
        with pytest.raises(BadValue, match="severity from 1 to 5"):
            corrupt("fog", x, severity, rng=streams(2))
    with pytest.raises(BadValue, match="one random stream an image"):
        corrupt("fog", x, 1, rng=streams(3))
    for bad in (x[:, :1], x[0], x[..., :8], x.to(torch.uint8)):
        with pytest.raises(BadValue, match="expected float images"):
            corrupt("fog", bad, 1, rng=streams(len(bad)))


def test_frost_from_a_folder(tmp_path):
    from PIL import Image

    with pytest.raises(BadData, match="frost_folder"):
        corrupt("frost", pictures(1, 32, 32), 1, rng=streams(1), frost_folder=str(tmp_path / "none"))
    for i, size in enumerate([(50, 60), (70, 45)]):
        Image.new("RGB", size, (100, 150, 200)).save(tmp_path / f"frost{i}.png")
    y = corrupt("frost", torch.zeros(2, 3, 32, 32), 3, rng=streams(2), frost_folder=str(tmp_path))
    expected = (torch.tensor([100.0, 150, 200]) * 0.7).add(1e-3).floor() / 255
    assert torch.equal(y, expected.view(1, 3, 1, 1).expand_as(y))
