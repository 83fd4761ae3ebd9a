"""mCE: AlexNet scores 100 by definition, and the published table of severities gives the normalisers back."""

import pytest

from robustsuite.errors import BadValue, UnknownName
from robustsuite.reports.measure import mce as m

# AlexNet's errors by severity, as its authors posted them (hendrycks/robustness, issue 10)
BY_SEVERITY = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}


def test_alexnet_scores_one_hundred():
    assert m.mce(BY_SEVERITY) == pytest.approx(100, abs=1e-3)
    assert m.relative_mce(BY_SEVERITY, clean=m.ALEXNET_CLEAN) == pytest.approx(100, abs=1e-2)
    assert all(ce == pytest.approx(100, abs=1e-3) for ce in m.corruption_errors(BY_SEVERITY).values())


def test_a_model_that_fails_everywhere_and_one_that_never_does():
    always = {name: [1.0] * 5 for name in m.ALEXNET}
    assert m.mce(always) == pytest.approx(sum(100 / e for e in m.ALEXNET.values()) / 15)
    assert m.mean_error(always) == 1
    assert m.mce({name: [0.0] * 5 for name in m.ALEXNET}) == 0


def test_relative_is_zero_where_nothing_degrades():
    assert m.relative_mce({name: [0.3] * 5 for name in m.ALEXNET}, clean=0.3) == pytest.approx(0)


def test_extras_never_enter_the_mean():
    assert m.mce({**BY_SEVERITY, "spatter": (1.0,) * 5}) == m.mce(BY_SEVERITY)


@pytest.mark.parametrize(
    ("errors", "raises", "says"),
    [
        ({"fog": BY_SEVERITY["fog"]}, BadValue, "gaussian_noise"),
        ({**BY_SEVERITY, "fog": (0.1, 0.2)}, BadValue, "one a severity"),
        ({**BY_SEVERITY, "fog": (67.5, 76.1, 84.4, 87.3, 94.5)}, BadValue, "error rates in"),
        ({**BY_SEVERITY, "fogg": (0.1,) * 5}, UnknownName, "'fog'"),
    ],
)
def test_errors_name_what_is_wrong(errors, raises, says):
    with pytest.raises(raises, match=says):
        m.mce(errors)


def test_clean_must_be_a_rate():
    with pytest.raises(BadValue, match="clean error rate"):
        m.relative_mce(BY_SEVERITY, clean=43.5)
