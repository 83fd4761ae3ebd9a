"""ImageNet-C's scores: corruption errors normalised by AlexNet, their mean, and the relative kind.

CE_c = sum_s E_{s,c} / sum_s E^AlexNet_{s,c}; mCE is their mean over the fifteen corruptions; the relative kind
subtracts the clean error from every E first (Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261).
The normalisers belong to the published files, full validation set: on other images, or corrupted on the fly, the
scores are a comparison between models and not the leaderboard's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustsuite.errors import BadValue, UnknownName

ALEXNET_CLEAN = 0.435
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
    "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
"""AlexNet's error on each corruption, the mean over severities 1 to 5."""

ALEXNET_EXTRA = {"speckle_noise": 0.845388, "gaussian_blur": 0.787108, "spatter": 0.717512, "saturate": 0.658248}
"""The same for the four validation corruptions, which no mean over the fifteen includes."""

Errors = Mapping[str, Sequence[float]]


def mean_error(errors: Errors) -> float:
    """Mean error over the fifteen corruptions and five severities, in [0, 1].

    errors: corruption -> five error rates in [0, 1], severities 1 to 5; the four extra ones may stand in it and
    are left out. Raises BadValue where a corruption or severity is missing or a value is no rate (a percentage),
    UnknownName for a corruption that is neither.
    """
    checked = _checked(errors)
    return sum(sum(row) / 5 for row in checked.values()) / len(checked)


def corruption_errors(errors: Errors) -> dict[str, float]:
    """CE of each of the fifteen, in percent of AlexNet's. Arguments and errors as in mean_error."""
    return {name: 100 * (sum(row) / 5) / ALEXNET[name] for name, row in _checked(errors).items()}


def mce(errors: Errors) -> float:
    """Mean corruption error in percent: 100 is AlexNet. Arguments and errors as in mean_error."""
    each = corruption_errors(errors)
    return sum(each.values()) / len(each)


def relative_mce(errors: Errors, clean: float) -> float:
    """Mean relative corruption error in percent: 100 degrades as AlexNet does. clean: error rate on clean images.

    Other arguments and errors as in mean_error.
    """
    if not 0 <= clean <= 1:
        raise BadValue(f"expected a clean error rate in [0, 1], got {clean!r}; divide a percentage by 100")
    each = [100 * (sum(row) / 5 - clean) / (ALEXNET[name] - ALEXNET_CLEAN) for name, row in _checked(errors).items()]
    return sum(each) / len(each)


def _checked(errors: Errors) -> dict[str, Sequence[float]]:
    """The fifteen rows, complete."""
    for name, row in errors.items():
        if name not in ALEXNET and name not in ALEXNET_EXTRA:
            raise UnknownName("corruption", name, [*ALEXNET, *ALEXNET_EXTRA])
        if len(row) != 5 or not all(0 <= e <= 1 for e in row):
            raise BadValue(f"expected five error rates in [0, 1] for {name}, got {list(row)!r}; one a severity")
    missing = [name for name in ALEXNET if name not in errors]
    if missing:
        raise BadValue(f"expected all fifteen corruptions, got no {', '.join(missing)}; a part has no mCE")
    return {name: errors[name] for name in ALEXNET}
