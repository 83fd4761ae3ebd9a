"""What is said of one fraud, cheat or declared defense, in a process of its own: `table.py` starts it.

    python -m robustsuite.benchmarks.frauds.measure {truth,fraud,cheat,declared} NAME --data FOLDER --work FOLDER

It prints a row of JSON a measurement. The truth is told where the suite is not imported and no clean picture exists.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustsuite.benchmarks.frauds.honest import EPS, adversarial, honest, kit, pictures
from robustsuite.benchmarks.frauds.tricks import FRAUDS

Row = dict[str, Any]
KINDS = ("answers", "gradients", "precision", "memory", "callers", "machinery", "informed_gradients", "informed_scores")
ATTACKS: dict[str, dict[str, Any]] = {"pgd": {"steps": 40}, "apgd": {"steps": 40}, "square": {"steps": 500}}
N = 64
AFTER = "after"
"""The row of an honest network in the process that a fraud was in."""


def listed() -> None:
    """Fill FRAUDS."""
    for kind in KINDS:
        import_module(f"robustsuite.benchmarks.frauds.{kind}")


def asked(data: Path, work: Path, n: int = N) -> None:
    """Write the pictures by which each truth shows: attacked ones, on which the honest network is wrong, and clean."""
    net, (x, y), (x2, y2) = honest(data), pictures(data, 0, n), pictures(data, n, n)
    shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]

    def shifted(at: Tensor) -> Tensor:
        return torch.stack([net(at.roll(shift, (2, 3))) for shift in shifts]).mean(0)

    found = {
        "transfer": (adversarial(net, x, y), x, y), "shifts": (adversarial(shifted, x, y), x, y),
        "fresh": (adversarial(net, x2, y2), x2, y2), "clean": (x2, x2, y2),
    }  # fmt: skip
    for name, (attacked, clean, labels) in found.items():
        torch.save({"x": attacked, "y": labels}, work / f"{name}.attacked.pt")
        torch.save({"x": clean, "y": labels}, work / f"{name}.clean.pt")


def truth(name: str, data: Path, work: Path) -> Iterator[Row]:
    """Accuracy as deployed, a picture at a time: under an adversary who knows the trick, and on clean pictures."""
    way = FRAUDS[name].truth if name in FRAUDS else "transfer"
    row = {}
    for which in ("attacked", "clean"):
        disk = work / f"{name}.{which}.disk"
        disk.unlink(missing_ok=True)
        k = kit(data, disk, N if way in ("fresh", "clean") else 0)
        served = (FRAUDS[name].make(k) if name in FRAUDS else k.net).eval()
        rows = torch.load(work / f"{way}.{which}.pt", weights_only=True)
        right = 0
        with torch.no_grad():
            for x, label in zip(rows["x"], rows["y"].tolist(), strict=True):
                z = served(x[None].clone())[0]
                right += int(not bool(z.isnan().any()) and int(z.argmax()) == label)
        row[which] = right / len(rows["y"])
    yield row


def fraud(name: str, data: Path, work: Path) -> Iterator[Row]:
    """What the suite reads under each attack, a network made anew for each; and after it of the honest one, by PGD."""
    from robustsuite.app.api import evaluate
    from robustsuite.config.threats import Linf

    disk = work / f"{name}.disk"
    disk.unlink(missing_ok=True)
    x, y = pictures(data, 0, N)
    for what, attack in [*zip(ATTACKS, ATTACKS, strict=True), (AFTER, "pgd")]:
        k, start, given = kit(data, disk, N), time.monotonic(), ATTACKS[attack]
        net = FRAUDS[name].make(k) if name in FRAUDS and what != AFTER else k.net
        row: Row = {"attack": what}
        try:
            found = evaluate(net, x.clone(), y.clone(), attack=attack, budget=Linf(EPS), **given)
            row |= {"value": found.robust, "clean": found.clean, "grade": found.grade}
            row |= {"flags": [f.name for f in found.flags], "words": [f.detail for f in found.flags]}
        except BaseException as error:  # whatever it raises is its row
            row["raised"] = f"{type(error).__name__}: {error}"[:300]
        yield row | {"seconds": round(time.monotonic() - start, 1)}


def _swept(sweep: Row, work: Path, name: str, audited: bool) -> list[Row]:
    """The rows of robust accuracy of an audited sweep, with what failed cells say."""
    from robustsuite.app.api import run as play

    run = play(sweep, out=work / "runs" / f"{name}-{os.getpid()}", audited=audited)
    scores = json.loads(run.scores.to_json(orient="records"))
    keys = ("attack", "value", "status", "grade", "sentence")
    rows = [{k: s[k] for k in keys} | {"flags": s["flags"].split(";") if s["flags"] else []} for s in scores
            if s["metric"] == "robust_accuracy"]  # fmt: skip
    return [row | ({"raised": row["sentence"]} if row["status"] == "failed" else {}) for row in rows]


def cheat(name: str, data: Path, work: Path) -> Iterator[Row]:
    """What the suite reads of a cheat, and of an honest attack in the same process before and after it."""
    from robustsuite.app.api import evaluate
    from robustsuite.app.own import Data
    from robustsuite.benchmarks.frauds import cheats, cheats_forging, cheats_reading  # noqa: F401
    from robustsuite.config.registry import cards
    from robustsuite.config.threats import Linf

    entry, (x, y) = cheats.CHEATS[name], pictures(data, 0, N)
    eps, usual = (cheats.READS, "noise") if entry.gain == "reads" else (cheats.WRITES, "pgd")

    def plainly() -> float | str:
        try:
            return evaluate(honest(data), x.clone(), y.clone(), attack=usual, budget=Linf(eps)).robust
        except BaseException as error:  # what a cheat left behind
            return f"{type(error).__name__}: {error}"[:200]

    row: Row = {"attack": name, "before": plainly()}
    try:
        if entry.gain == "writes":
            found = evaluate(
                honest(data), x.clone(), y.clone(), attack=entry.attack, budget=Linf(eps), access=entry.granted
            )
            row |= {"value": found.robust, "grade": found.grade, "flags": [f.name for f in found.flags]}
        else:
            cards()["attack", name] = entry.attack.card  # type: ignore[attr-defined]
            budget = {"linf": "4/255"} | ({"queries": entry.queries} if entry.queries else {})
            access = "scores" if entry.queries else "labels"
            threat = {"scenario": "evasion", "access": access, "budget": budget, "attacks": [name]}
            file = data / "models" / "cifar10_marabou_large.safetensors"
            sweep = {
                "name": "cheat",
                "models": [f"checkpoint:{file}"],
                "data": [Data.of(x, y)],
                "threats": {"t": threat},
            }
            row |= _swept(sweep, work, name, audited=True)[0]
    except BaseException as error:
        row["raised"] = f"{type(error).__name__}: {error}"[:300]
    yield row | {"after": plainly()}


def declared(name: str, data: Path, work: Path) -> Iterator[Row]:
    """What a sweep reads of a defense that lies on its card; 'none' for the undefended network."""
    from robustsuite.app.own import Data
    from robustsuite.benchmarks.frauds.declared import DECLARED
    from robustsuite.config.registry import cards

    if name in DECLARED:
        cards()["defense", name] = DECLARED[name].card
    common, radius = {"scenario": "evasion"}, {"linf": "8/255"}
    steps = [{attack: ATTACKS[attack]} for attack in ATTACKS]
    threats = {
        "linf": common | {"access": "white_box", "budget": radius, "attacks": steps[:2]},
        "scores": common | {"access": "scores", "budget": radius | {"queries": 501}, "attacks": steps[2:]},
    }
    file = data / "models" / "cifar10_marabou_large.safetensors"
    sweep = {"name": name, "models": [f"checkpoint:{file}"], "data": [Data.of(*pictures(data, 0, N))],
             "defenses": [name], "threats": threats}  # fmt: skip
    yield from _swept(sweep, work, name, audited=False)


def main(words: list[str] | None = None) -> None:
    """Print the rows of one, and leave at once: a cheat's threads are not waited for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["truth", "fraud", "cheat", "declared"])
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args(words)
    listed()
    rows: Iterable[Row] = globals()[given.what](given.name, given.data, given.work)
    for row in rows:
        sys.stdout.write(f"ROW {json.dumps(row)}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
