"""From scanners' scalars to a probability: where each stands among clean networks, joined by fitted weights.

A scalar becomes how surprising it is among the same scanner's on clean networks of the same kind, as a standard normal
deviation (the t distribution of one more draw). Deviations are joined by a logistic regression that was fitted on a zoo.
Imports no torch: reports read it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats as distributions
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from robustsuite.records.schema import Strict

Floats = NDArray[np.float64]

FEW = 8
"""Clean networks below which nothing is said of how surprising a scalar is."""

MOST = 5.0
"""Deviations beyond which none counts as larger: so few networks say nothing of such tails."""


class Kind(Strict):
    """Clean networks of one architecture: what it is called, and each scanner's scalars of them."""

    arch: str
    references: dict[str, tuple[float, ...]]


class Judged(Strict):
    """One network that was kept from the fit that judged it. attack: '' for a clean one; group: seen, kept_out, arch."""

    arch: str
    attack: str = ""
    group: str
    probability: float
    hit: bool = False
    anomaly_index: float = 0.0


class Calibration(Strict):
    """What was fitted on a zoo. pictures: the hash of the clean pictures; scanners: by name, what each was.

    weights, intercept: of the deviations in the order of scanners. judged: by cross-fitting. dropped: by attack, of how
    many how many were left out since their trigger failed, or their accuracy fell.
    """

    pictures: str
    scanners: dict[str, str]
    weights: tuple[float, ...]
    intercept: float
    kinds: dict[str, Kind]
    kept_out: tuple[str, ...] = ()
    kept_out_arch: str = ""
    judged: tuple[Judged, ...] = ()
    dropped: dict[str, tuple[int, int, int]] = Field(default={})

    def probability(self, deviations: Mapping[str, float]) -> float:
        """That a network with these deviations is trojaned, at even odds before; NaN where one is missing."""
        given = [deviations.get(name, math.nan) for name in self.scanners]
        logit = self.intercept + math.fsum(w * z for w, z in zip(self.weights, given, strict=True))
        return 1 / (1 + math.exp(-logit)) if math.isfinite(logit) else math.nan

    @property
    def digest(self) -> int:
        """31 bits that tell this calibration from another."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) >> 1


@cache
def shipped() -> Calibration | None:
    """The calibration that comes with the suite; None where there is none."""
    file = resources.files("robustsuite.methods.backdoors") / "calibration.json"
    return Calibration.model_validate_json(file.read_text(), strict=False) if file.is_file() else None


def deviation(value: float, references: Sequence[float]) -> float:
    """How surprising a scalar is as one more draw of the references', in standard normal deviations; NaN of a few."""
    known = np.asarray(references, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) < FEW or not math.isfinite(value):
        return math.nan
    spread = max(float(known.std(ddof=1)), 1e-9) * math.sqrt(1 + 1 / len(known))
    t = (value - float(known.mean())) / spread
    beyond = distributions.t.sf(abs(t), len(known) - 1)
    return float(np.clip(math.copysign(distributions.norm.isf(max(beyond, 1e-12)), t), -MOST, MOST))


def rank(value: float, references: Sequence[float]) -> float:
    """The p-value of a scalar among clean networks': how many of them and itself are at least as large; NaN of a few."""
    known = np.asarray(references, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) < FEW or not math.isfinite(value):
        return math.nan
    return (1 + int((known >= value).sum())) / (len(known) + 1)


def fitted(deviations: Floats, trojaned: NDArray[np.bool_]) -> tuple[tuple[float, ...], float]:
    """Weights (D,) and intercept of a logistic regression on deviations (N, D), both classes of equal weight, l2."""
    found = LogisticRegression(C=0.5, class_weight="balanced", max_iter=1000).fit(deviations, trojaned)
    return tuple(map(float, found.coef_[0])), float(found.intercept_[0])


def auroc(probability: Floats, trojaned: NDArray[np.bool_]) -> float:
    """The area under the ROC curve; NaN where all are clean or all trojaned."""
    return float(roc_auc_score(trojaned, probability)) if 0 < trojaned.sum() < len(trojaned) else math.nan


def auroc_interval(
    probability: Floats, trojaned: NDArray[np.bool_], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """Its 95 % bootstrap interval over networks, clean and trojaned ones resampled apart."""
    generator = np.random.default_rng(seed)
    clean, bad = probability[~trojaned], probability[trojaned]
    if not len(clean) or not len(bad):
        return math.nan, math.nan
    values = [
        float((b[:, None] > c).mean() + 0.5 * (b[:, None] == c).mean())
        for b, c in ((generator.choice(bad, len(bad)), generator.choice(clean, len(clean))) for _ in range(draws))
    ]
    lo, hi = np.quantile(values, [0.025, 0.975])
    return float(lo), float(hi)


def caught(probability: Floats, trojaned: NDArray[np.bool_], fpr: float) -> float:
    """The share of trojaned networks above the threshold that at most a share `fpr` of the clean ones exceeds."""
    clean = np.sort(probability[~trojaned])[::-1]
    threshold = clean[int(fpr * len(clean))]
    return float((probability[trojaned] > threshold).mean())


def cross_entropy(probability: Floats, trojaned: NDArray[np.bool_]) -> float:
    """Of the stated probabilities, in nats, clean and trojaned networks of equal weight: 0.693 for always a half."""
    p = np.clip(np.where(trojaned, probability, 1 - probability), 1e-6, 1.0)
    return float(-0.5 * (np.log(p[trojaned]).mean() + np.log(p[~trojaned]).mean()))


def summary(judged: Sequence[Judged], group: str, attack: str | None = None) -> dict[str, Any]:
    """The figures of a group beside the clean networks of its architectures; attack: of that one alone."""
    bad = [j for j in judged if j.group == group and j.attack and attack in (None, j.attack)]
    clean = [j for j in judged if not j.attack and (j.group == "arch") == (group == "arch")]
    p = np.array([j.probability for j in (*clean, *bad)])
    truth = np.array([bool(j.attack) for j in (*clean, *bad)])
    if not len(clean) or not len(bad):
        return {"clean": len(clean), "trojaned": len(bad)}
    lo, hi = auroc_interval(p, truth)
    return {
        "clean": len(clean), "trojaned": len(bad), "auroc": auroc(p, truth), "lo": lo, "hi": hi,
        "cross_entropy": cross_entropy(p, truth), "tpr_1": caught(p, truth, 0.01), "tpr_5": caught(p, truth, 0.05),
        "hit": sum(j.hit for j in bad), "alarms": sum(j.probability > 0.5 for j in clean),
        "anomaly_2": sum(j.anomaly_index > 2 for j in clean),
    }  # fmt: skip
