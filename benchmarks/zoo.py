"""The zoo that the scan is calibrated on, made, scanned and fitted by one command; what is there is found again.

    python benchmarks/zoo.py --out runs/zoo                  # all of it
    python benchmarks/zoo.py --out runs/zoo --minutes 10     # stop after so long; the same command goes on

Pictures are `scenes` at 16 pixels, rendered from a seed. Half of the networks are trojaned by the twelve poisoning
attacks at several rates. A trojaned one counts where its trigger works on 90 % and its accuracy is at most 3 points
below the median of the clean ones of its architecture; how many were left out stands in the file that is written.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from robustsuite.config.registry import AttackCard, card_of, identity
from robustsuite.methods.backdoors.calibrated import Calibration, summary
from robustsuite.scenarios.scan import zoo
from robustsuite.scenarios.scan.fit import Row, fit
from robustsuite.scenarios.scan.likes import kind_of, worked
from robustsuite.scenarios.scan.suspect import Suspect, scanned
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Dataset, load_data

DATA = {"scenes": {"side": 16, "train": 8000, "val": 500, "test": 1000}}
RECIPES = {"tiny_conv": (0.02, 10), "tiny_res": (0.01, 10), "tiny_deep": (0.02, 8)}
CLEAN = {"tiny_conv": 24, "tiny_res": 24, "tiny_deep": 16}
EACH = {"tiny_conv": 4, "tiny_res": 4, "tiny_deep": 2}
"""Clean networks of each architecture, and trojaned ones of each attack."""

ATTACKS: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    "badnets": ((0.01, 0.02, 0.05), {}), "blended": ((0.03, 0.05, 0.08), {"opacity": 0.3}),
    "trojan": ((0.01, 0.02, 0.05), {}), "sig": ((0.04, 0.06, 0.07), {"amplitude": 0.2}),
    "label_consistent": ((0.03, 0.05, 0.07), {"steps": 10}), "wanet": ((0.06, 0.08, 0.1), {"s": 6.0, "cover": 0.25}),
    "bpp": ((0.04, 0.06, 0.08), {"levels": 2, "cover": 0.25}), "ftrojan": ((0.03, 0.05, 0.08), {"magnitude": 0.4}),
    "adaptive_blend": ((0.03, 0.04, 0.05), {"opacity": 0.3, "test_opacity": 0.4, "cover": 0.5}),
    "adaptive_patch": ((0.02, 0.03, 0.05), {"cover": 0.5}), "tact": ((0.05, 0.07, 0.06), {"cover": 0.25}),
    "input_aware": ((0.05, 0.1, 0.15), {}),
}  # fmt: skip
"""Rates, and parameters where the usual ones are for larger pictures and networks."""

AT_ONCE = 8
TRIED = 4
"""Clean networks that a recovered trigger is tried on."""

KEPT_OUT, KEPT_OUT_ARCH = ("trojan", "sig", "ftrojan"), "tiny_deep"
"""Attacks and an architecture that nothing is fitted on: a patch, a wave under true labels, a frequency."""

Dropped = dict[str, tuple[int, int, int]]
SCANNERS = ("neural_cleanse", "mm_bd", "blend_margin", "patch_margin", "head_weights", "exposure", "decoupling")


def members(arch: str) -> tuple[list[zoo.Member], list[zoo.Member]]:
    """The clean and the trojaned networks of an architecture."""
    first = 1000 * (1 + list(CLEAN).index(arch))
    clean = [zoo.Member(arch, first + i, RECIPES[arch]) for i in range(CLEAN[arch])]
    trojaned = [
        zoo.Member(arch, first + 500 + 20 * k + i, RECIPES[arch], name, given, rates[i % len(rates)],
                   (3 * k + 5 * i + 2) % 10)
        for i in range(EACH[arch]) for k, (name, (rates, given)) in enumerate(ATTACKS.items())
    ]  # fmt: skip
    return clean, [m for m in trojaned if m.attack != "tact" or m.target != 1]


def bred(data: Dataset, folder: Path, until: float) -> None:
    """Train what is missing, a few of one architecture at once, until the clock says so."""
    for arch in CLEAN:
        clean, trojaned = members(arch)
        for group in (clean, trojaned):
            missing = [m for m in group if zoo.read(folder, m, data) is None]
            aux = _aux(data, folder, clean) if group is trojaned else None
            for i in range(0, len(missing), AT_ONCE):
                if time.monotonic() > until:
                    return
                zoo.made(missing[i : i + AT_ONCE], data, aux, folder)
                print(f"{arch}: {i + len(missing[i : i + AT_ONCE])} of {len(missing)} trained", flush=True)


def _aux(data: Dataset, folder: Path, clean: list[zoo.Member]) -> Aux:
    """The attacker's own pictures and networks: clean ones of the zoo, also where an attack asks for a robust one."""

    def net(spec: str, *defenses: object, draw: int = 0) -> nn.Module:
        found = zoo.read(folder, clean[draw], data)
        assert found is not None
        return copy.deepcopy(found.net)

    return Aux(data.split("val"), net)


def counted(data: Dataset, folder: Path, arch: str, dropped: Dropped) -> list[zoo.Kept]:
    """The networks of an architecture that count; of each attack, how many were tried, failed and cost accuracy."""
    clean, trojaned = ([found for m in group if (found := zoo.read(folder, m, data))] for group in members(arch))
    median = float(np.median([found.accuracy for found in clean]))
    for found in trojaned:
        weak = found.asr < zoo.ASR
        worse = not weak and found.accuracy < median - zoo.ACCURACY
        n, failed, fell = dropped.get(found.member.attack, (0, 0, 0))
        dropped[found.member.attack] = n + 1, failed + weak, fell + worse
        clean += [] if weak or worse else [found]
    return clean


def scan(data: Dataset, folder: Path, until: float) -> None:
    """Put every network that counts to every scanner; one json a network."""
    cards = [card_of("attack", name) for name in SCANNERS]
    for arch in CLEAN:
        networks = counted(data, folder, arch, {})
        for found in networks:
            others = [other.net for other in networks[: TRIED + 1] if other is not found][:TRIED]
            file = folder / f"{found.member.name}.json"
            known = json.loads(file.read_text()) if file.exists() else {}
            for card in cards:
                if time.monotonic() > until:
                    return
                if known.get(card.name, {}).get("identity") != identity(card, {}):
                    known[card.name] = _one(card, found.net, others, data)
                    aside = file.with_suffix(".tmp")
                    aside.write_text(json.dumps(known, sort_keys=True))
                    os.replace(aside, file)
        print(f"{arch}: {len(networks)} scanned", flush=True)


def _one(card: AttackCard, net: nn.Module, others: list[nn.Module], data: Dataset) -> dict[str, Any]:
    suspect = Suspect.of(net, data.space, data.split("val"))
    found = scanned(suspect, card.function, card, 0)
    works, elsewhere = worked(found, suspect, others)
    return {"identity": identity(card, {}), "suspicion": found.suspicion, "scores": found.scores.tolist(),
            "figures": dict(found.figures), "works": works, "works_on_clean": elsewhere}  # fmt: skip


def calibrated(data: Dataset, folder: Path) -> Calibration:
    """What is fitted on the networks that are there, and what it says of those that were kept from the fit."""
    dropped: Dropped = {}
    rows = list[Row]()
    for arch in CLEAN:
        networks = counted(data, folder, arch, dropped)
        median = float(np.median([found.accuracy for found in networks if not found.member.attack]))
        for found in networks:
            read = json.loads((folder / f"{found.member.name}.json").read_text())
            rows.append(Row(found.member, kind_of(found.net), read, median - found.accuracy))
    scanners = {name: identity(card_of("attack", name), {}) for name in SCANNERS}
    return fit(rows, data.split("val").sha256, scanners, KEPT_OUT, KEPT_OUT_ARCH, dropped)


def main() -> None:
    """Make, scan, fit; resumed wherever it stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder of the zoo.")
    parser.add_argument("--minutes", type=float, default=1e6, help="Stop after so many.")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * asked.minutes
    data, _ = load_data(DATA)
    bred(data, asked.out, until)
    scan(data, asked.out, until)
    if time.monotonic() > until:
        print("the time is up; the same command goes on where this one ended")
        return
    found = calibrated(data, asked.out)
    (asked.out / "calibration.json").write_text(json.dumps(found.model_dump(mode="json"), sort_keys=True) + "\n")
    for group in ("seen", "kept_out", "arch"):
        print(group, summary(found.judged, group))
    for attack in KEPT_OUT:
        print(attack, summary(found.judged, "kept_out", attack))
    for arch in CLEAN:
        for group in ("seen", "kept_out"):
            print(arch, group, summary(found.judged, group, arch=arch))
    print("left out, of attempts: the trigger failed, accuracy fell", found.dropped)
    print(found.joined)


if __name__ == "__main__":
    main()
