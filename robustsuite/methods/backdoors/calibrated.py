"""From scanners' scalars to a probability: how far each stands out beside clean networks, joined by fitted weights.

A scalar becomes how surprising it is among the same scanner's of clean networks of the same kind, as a standard normal
deviation (the t distribution of one more draw). Deviations are joined by a logistic regression that was fitted on a
zoo: on networks of that kind, or, for a kind that is not in the zoo, on all of them. Imports no torch: reports read it.
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
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from robustsuite.records.schema import Strict

Floats = NDArray[np.float64]

FEW = 8
"""Clean networks below which nothing is said of how surprising a scalar is."""

WORKS, NATURAL = 0.5, 0.5
"""A recovered trigger is one from this share of pictures on; it is a natural one where it works on clean networks on
more than this share of what it does on the suspect.
"""

PENALTY = 0.3
"""The inverse of the regression's l2 penalty, in networks."""

MOST = 5.0
"""Deviations beyond which none counts as larger: so few networks say nothing of such tails."""


class Kind(Strict):
    """Clean networks of one architecture: what it is called; by scanner, each one's scalar, and its classes' scores."""

    arch: str
    suspicions: dict[str, tuple[float, ...]]
    scores: dict[str, tuple[tuple[float, ...], ...]]


class Judged(Strict):
    """A network kept from the fit that judged it. attack: '' for a clean one; group: seen, kept_out or arch.

    deviations: by scanner, its scalar's. below: its accuracy, below the median of clean ones.
    """

    arch: str
    attack: str = ""
    group: str
    probability: float
    hit: bool = False
    anomaly_index: float = 0.0
    below: float = 0.0
    deviations: dict[str, float] = Field(default={})


class Calibration(Strict):
    """What was fitted on a zoo. pictures: the hash of the clean pictures; scanners: by name, what each was.

    joined: by kind, and under '' for any other, the weights of the deviations in the order of scanners and, last, the
    intercept. silent: of these keys those on which that does no better than chance. judged: by cross-fitting. dropped:
    by attack, how many were tried, and of these left out since the trigger failed, or since accuracy fell.
    """

    pictures: str
    scanners: dict[str, str]
    joined: dict[str, tuple[float, ...]]
    kinds: dict[str, Kind]
    silent: tuple[str, ...] = ()
    kept_out: tuple[str, ...] = ()
    kept_out_arch: str = ""
    judged: tuple[Judged, ...] = ()
    dropped: dict[str, tuple[int, int, int]] = Field(default={})

    def probability(self, deviations: Mapping[str, float], kind: str = "") -> float:
        """That a network is trojaned, at even odds before; deviations: by scanner, its scalar's; kind: '' for another.

        NaN where a scanner is missing or could not measure.
        """
        *weights, intercept = self.joined[self.key(kind)]
        given = [deviations.get(name, math.nan) for name in self.scanners]
        logit = intercept + math.fsum(w * z for w, z in zip(weights, given, strict=True))
        return 1 / (1 + math.exp(-logit)) if math.isfinite(logit) else math.nan

    def target(self, classes: Mapping[str, Sequence[float]], kind: str = "") -> int:
        """The class that a backdoor would lead to, by each scanner's deviations of classes (K,); -1 where one lacks."""
        if any(name not in classes or not np.isfinite(classes[name]).all() for name in self.scanners):
            return -1
        weights = np.maximum(self.joined[self.key(kind)][:-1], 0.0)
        return int((np.stack([classes[name] for name in self.scanners], -1) @ weights).argmax())

    def key(self, kind: str) -> str:
        """Which weights a kind is judged by: its own, or those under ''."""
        return kind if kind in self.joined else ""

    def kind(self, number: int) -> str:
        """The kind of this number, '' for another."""
        return next((kind for kind in self.kinds if kind_number(kind) == number), "")

    @property
    def digest(self) -> int:
        """31 bits that tell this calibration from another."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) >> 1


def natural(works: float, on_clean: float) -> bool:
    """Whether a recovered trigger works on the suspect and on clean networks as well; False where that is not known."""
    return works >= WORKS and on_clean > NATURAL * works


def kind_number(kind: str) -> int:
    """A kind as a number that a column can hold; 0 for none."""
    return int(kind[:7], 16) if kind else 0


@cache
def shipped() -> Calibration | None:
    """The calibration that comes with the suite; None where there is none."""
    file = resources.files("robustsuite.methods.backdoors") / "calibration.json"
    return Calibration.model_validate_json(file.read_text(), strict=False) if file.is_file() else None


def deviations(scores: Any, references: Any) -> Floats:
    """How surprising scores (K,) are as one more draw beside the references' (n, K), in standard normal deviations.

    NaN of fewer than FEW references, of scores that could not be measured, and beside such.
    """
    value, known = np.asarray(scores, dtype=np.float64), np.asarray(references, dtype=np.float64)
    n = len(known)
    if n < FEW:
        return np.full(value.shape, math.nan)
    spread = np.maximum(known.std(0, ddof=1), 1e-9) * math.sqrt(1 + 1 / n)
    t = (value - known.mean(0)) / spread
    beyond = np.maximum(distributions.t.sf(np.abs(t), n - 1), 1e-12)
    found: Floats = np.clip(np.copysign(distributions.norm.isf(beyond), t), -MOST, MOST)
    return found


def rank(value: float, references: Sequence[float]) -> float:
    """The p-value of a scalar among clean networks': the share, itself included, that is as large; NaN of a few."""
    known = np.asarray(references, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) < FEW or not math.isfinite(value):
        return math.nan
    return (1 + int((known >= value).sum())) / (len(known) + 1)


def fitted(deviations: Floats, trojaned: NDArray[np.bool_]) -> tuple[float, ...]:
    """Weights and intercept (D + 1,) of a logistic regression on deviations (N, D), with l2, classes weighing alike.

    No weight is negative: a network that stands out more is never the less suspicious for it.
    """
    n, sign = len(trojaned), np.where(trojaned, 1.0, -1.0)
    each = n / 2 / np.where(trojaned, trojaned.sum(), n - trojaned.sum())
    z = np.column_stack([deviations, np.ones(n)])
    price = np.append(np.full(deviations.shape[1], 1 / PENALTY), 0.0)

    def loss(w: Floats) -> tuple[float, Floats]:
        margins = sign * (z @ w)
        slope: Floats = -each * sign * expit(-margins)
        return float((each * np.logaddexp(0, -margins)).sum() + (price * w * w).sum() / 2), z.T @ slope + price * w

    bounds = [(0.0, None)] * deviations.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    return tuple(map(float, found.x))


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


def summary(judged: Sequence[Judged], group: str, attack: str | None = None, arch: str | None = None) -> dict[str, Any]:
    """The figures of a group beside the clean networks of its architectures; attack, arch: of that one alone."""
    judged = [j for j in judged if arch in (None, j.arch)]
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
