"""A calibration from scanned networks: fitted on some, and judged on those that it was not fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustsuite.methods.backdoors.calibrated import Calibration, Judged, Kind, deviations, fitted, summary
from robustsuite.scenarios.scan.zoo import Member

CHANCE = 0.5
"""AUROC that says nothing: a kind whose interval holds it is silent, and no probability is given for it."""

TROJANED = 5
"""Trojaned networks of a kind from which on it has weights of its own."""

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


class Asked(NamedTuple):
    """What is the same for every fold. silent: architectures whose networks no others are judged by."""

    pictures: str
    scanners: dict[str, str]
    kept_out: tuple[str, ...]
    kept_out_arch: str
    silent: tuple[str, ...] = ()


def fit(
    rows: Sequence[Row], pictures: str, scanners: dict[str, str], kept_out: Sequence[str], kept_out_arch: str,
    dropped: dict[str, tuple[int, int, int]],
) -> Calibration:  # fmt: skip
    """The calibration of these networks, with every one of them judged by a fit that it had no part in.

    scanners: identity by name. Nothing is fitted on attacks and the architecture that are kept out; clean networks of
    that architecture are what others of it are ranked among, and it says whether weights carry over to another. A fold
    has every FOLDS-th network of each architecture, clean and trojaned apart.
    """
    names = sorted(scanners)  # in an order that a json file keeps: weights have no names
    whole = [row for row in rows if all(np.isfinite(_scores(row, name)).all() for name in names)]
    plain = Asked(pictures, dict(sorted(scanners.items())), tuple(kept_out), kept_out_arch)
    first = _judged(whole, plain)
    archs = {row.member.arch for row in whole if row.member.arch != kept_out_arch}
    silent = tuple(sorted(arch for arch in archs if not summary(first, "seen", arch=arch).get("lo", 0.0) > CHANCE))
    asked = plain if len(silent) == len(archs) else plain._replace(silent=silent)
    made, judged = _calibration(whole, asked), _judged(whole, asked)
    said = tuple(kind for kind, known in made.kinds.items() if known.arch in silent)
    said += ("",) if not summary(judged, "arch").get("lo", 0.0) > CHANCE else ()
    return made.model_copy(update={"judged": tuple(judged), "dropped": dropped, "silent": said})


def _judged(rows: Sequence[Row], asked: Asked) -> list[Judged]:
    """Every network by what was fitted on the other folds."""
    fold, names, judged = _folds(rows), list(asked.scanners), list[Judged]()
    for k in range(FOLDS):
        made = _calibration([row for row, f in zip(rows, fold, strict=True) if f != k], asked)
        for row in (row for row, f in zip(rows, fold, strict=True) if f == k):
            member, known = row.member, made.kinds[row.kind]
            z = dict(zip(names, _deviations(row, known, names), strict=True))
            classes = {n: deviations(_scores(row, n), known.scores[n]).tolist() for n in names}
            out = member.attack in asked.kept_out
            group = "arch" if member.arch == asked.kept_out_arch else "kept_out" if out else "seen"
            judged.append(Judged(
                arch=member.arch, attack=member.attack, group=group, probability=made.probability(z, row.kind),
                hit=bool(member.attack) and made.target(classes, row.kind) == member.target, below=rounded(row.below),
                anomaly_index=row.found["neural_cleanse"]["figures"]["anomaly_index"], deviations=z,
            ))  # fmt: skip
    return judged


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


def _calibration(rows: Sequence[Row], asked: Asked) -> Calibration:
    """What these networks alone say; a clean one's deviations are beside the others."""
    names, kinds = list(asked.scanners), dict[str, Kind]()
    for kind in dict.fromkeys(row.kind for row in rows):
        clean = [row for row in rows if row.kind == kind and not row.member.attack]
        kinds[kind] = Kind(
            arch=clean[0].member.arch,
            suspicions={n: tuple(rounded(row.found[n]["suspicion"]) for row in clean) for n in names},
            scores={n: tuple(tuple(map(rounded, _scores(row, n))) for row in clean) for n in names},
        )
    own = [r for r in rows if r.member.arch != asked.kept_out_arch and r.member.attack not in asked.kept_out]
    place = {id(row): i for kind in kinds for i, row in
             enumerate(row for row in rows if row.kind == kind and not row.member.attack)}  # fmt: skip
    z = np.array([_deviations(row, kinds[row.kind], names, place.get(id(row))) for row in own])
    bad, of = np.array([bool(row.member.attack) for row in own]), np.array([row.kind for row in own])
    told = np.array([row.member.arch not in asked.silent for row in own])
    joined = {"": fitted(z[told], bad[told])}
    joined |= {kind: fitted(z[of == kind], bad[of == kind]) for kind in kinds if (bad & (of == kind)).sum() >= TROJANED}
    return Calibration(
        pictures=asked.pictures, scanners=asked.scanners, joined=joined, kinds=kinds, kept_out=asked.kept_out,
        kept_out_arch=asked.kept_out_arch,
    )  # fmt: skip


def rounded(value: float) -> float:
    """Six digits: a calibration is a small file."""
    return float(f"{value:.6g}")


def _deviations(row: Row, kind: Kind, names: Sequence[str], without: int | None = None) -> list[float]:
    """Of each scanner's scalar beside the clean networks of a kind, without the one at this place."""
    known = ([v for i, v in enumerate(kind.suspicions[name]) if i != without] for name in names)
    return [float(deviations(row.found[n]["suspicion"], values)) for n, values in zip(names, known, strict=True)]
