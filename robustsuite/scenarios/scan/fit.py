"""A calibration from scanned networks: fitted on some, and judged on those that it was not fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustsuite.methods.backdoors.calibrated import Calibration, Floats, Judged, Kind, deviations, fitted
from robustsuite.scenarios.scan.zoo import Member

FOLDS = 4
"""Parts of the networks, each judged by what was fitted on the others."""


class Row(NamedTuple):
    """A network, the kind of its architecture, what each scanner found: suspicion, scores, figures, and its accuracy
    below the clean ones' median.
    """

    member: Member
    kind: str
    found: Mapping[str, Any]
    below: float = 0.0


def fit(
    rows: Sequence[Row], pictures: str, scanners: dict[str, str], kept_out: Sequence[str], kept_out_arch: str,
    dropped: dict[str, tuple[int, int, int]],
) -> Calibration:  # fmt: skip
    """The calibration of these networks, with every one of them judged by a fit that it had no part in.

    scanners: identity by name. Nothing is fitted on attacks and the architecture that are kept out; clean networks of
    that architecture are what others of it are ranked among. A fold has every FOLDS-th network of each architecture,
    clean and trojaned apart.
    """
    names = list(scanners)
    whole = [row for row in rows if all(np.isfinite(_scores(row, name)).all() for name in names)]
    fold = _folds(whole)
    judged = list[Judged]()
    for k in range(FOLDS):
        learnt = [row for row, f in zip(whole, fold, strict=True) if f != k]
        made = _calibration(learnt, pictures, scanners, kept_out, kept_out_arch)
        for row in (row for row, f in zip(whole, fold, strict=True) if f == k):
            member, known = row.member, made.kinds[row.kind]
            p, named = made.probability({name: _deviations(row, known, name).tolist() for name in names})
            group = "arch" if member.arch == kept_out_arch else "kept_out" if member.attack in kept_out else "seen"
            judged.append(Judged(
                arch=member.arch, attack=member.attack, group=group, probability=p,
                hit=bool(member.attack) and named == member.target, below=rounded(row.below),
                anomaly_index=row.found["neural_cleanse"]["figures"]["anomaly_index"],
                deviations={n: float(deviations(row.found[n]["suspicion"], known.suspicions[n])) for n in names},
            ))  # fmt: skip
    made = _calibration(whole, pictures, scanners, kept_out, kept_out_arch)
    return made.model_copy(update={"judged": tuple(judged), "dropped": dropped})


def _scores(row: Row, name: str) -> list[float]:
    found = row.found.get(name, {}).get("scores", [math.nan])
    return [math.nan if value is None else float(value) for value in found]


def _folds(rows: Sequence[Row]) -> list[int]:
    seen: dict[tuple[str, bool], int] = {}
    found = []
    for row in rows:
        key = row.member.arch, bool(row.member.attack)
        seen[key] = seen.get(key, -1) + 1
        found.append(seen[key] % FOLDS)
    return found


def _calibration(
    rows: Sequence[Row], pictures: str, scanners: dict[str, str], kept_out: Sequence[str], kept_out_arch: str
) -> Calibration:
    """What these networks alone say; a clean one's deviations are among the others."""
    names, kinds = list(scanners), dict[str, Kind]()
    for kind in dict.fromkeys(row.kind for row in rows):
        clean = [row for row in rows if row.kind == kind and not row.member.attack]
        kinds[kind] = Kind(
            arch=clean[0].member.arch,
            suspicions={n: tuple(rounded(row.found[n]["suspicion"]) for row in clean) for n in names},
            scores={n: tuple(tuple(map(rounded, _scores(row, n))) for row in clean) for n in names},
        )
    own = [row for row in rows if row.member.arch != kept_out_arch and row.member.attack not in kept_out]
    place = {id(row): i for kind in kinds for i, row in
             enumerate(row for row in rows if row.kind == kind and not row.member.attack)}  # fmt: skip
    z = np.array([[_deviations(row, kinds[row.kind], n, place.get(id(row))) for n in names] for row in own])
    weights, slope, intercept = fitted(z.transpose(0, 2, 1), np.array([row.member.target for row in own]))
    return Calibration(
        pictures=pictures, scanners=scanners, weights=weights, slope=slope, intercept=intercept, kinds=kinds,
        kept_out=tuple(kept_out), kept_out_arch=kept_out_arch,
    )  # fmt: skip


def rounded(value: float) -> float:
    """Six digits: a calibration is a small file."""
    return float(f"{value:.6g}")


def _deviations(row: Row, kind: Kind, name: str, without: int | None = None) -> Floats:
    """Of each class (K,) beside the clean networks of a kind, without the one at this place."""
    known = [scores for i, scores in enumerate(kind.scores[name]) if i != without]
    return deviations(_scores(row, name), known)
