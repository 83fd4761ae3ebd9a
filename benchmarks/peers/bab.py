"""Branch and bound beside alpha-CROWN: what each leaves undecided, and in how many seconds a picture.

    python -m robustsuite.benchmarks.peers.bab --shared FOLDER --out FOLDER [--n 100] [--nodes 8000] [--only resnet2b]

FOLDER holds models/*.safetensors and data/cifar10/cifar10_test_lossless.npz, CIFAR-10 test pictures with their original
pixels. On the first n of them that a network answers right: its bounds untuned (CROWN), tuned (alpha-CROWN of
auto-LiRPA where --lirpa is given, which takes half a minute a picture; ours always), then branch and bound. What
a picture comes to is stored as it is done, and found again. The attack comes first; what it breaks is not undecided.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.benchmarks.peers.kept import kept
from robustsuite.benchmarks.peers.lirpa import trained
from robustsuite.config.threats import Linf, parse_number
from robustsuite.defenses.certifiers.bab import outcomes
from robustsuite.defenses.certifiers.lirpa import verified
from robustsuite.maths.stats import clopper_pearson
from robustsuite.methods.verification.branching import Limits

SETTINGS = (("resnet2b", "2/255"), ("cnn_a", "2/255"), ("oval_base", "4/255"), ("marabou_medium", "0.5/255"))
"""Networks of `peers.lirpa`, and the radius at which each leaves something to decide."""


def pictures(folder: Path) -> tuple[Tensor, Tensor]:
    """All 667 pictures (N, 3, 32, 32) in [0, 1] and labels (N,)."""
    pack = np.load(folder / "data/cifar10/cifar10_test_lossless.npz")
    x = torch.from_numpy(pack["images"]).permute(0, 3, 1, 2).contiguous().float() / 255
    return x, torch.from_numpy(pack["labels"].astype("int64"))


def searched(net: nn.Module, x: Tensor, y: Tensor, eps: float, nodes: int) -> dict[str, Any]:
    """What one picture (1, C, H, W) comes to with tuned bounds alone, and with branch and bound; seconds of both."""
    said: dict[str, Any] = {}
    for name, limit in (("root", 1), ("bab", nodes)):
        start = time.process_time()
        (found,) = outcomes(net, x, y, Linf(eps), Limits(nodes=limit))
        said[name] = {"status": found.status, "nodes": found.nodes, "seconds": time.process_time() - start}
        if found.status != "unknown":
            return {"bab": said[name], **said}
    return said


def by_lirpa(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
    """Whether auto-LiRPA's alpha-CROWN proves this picture, and in how many seconds; it starts at CROWN's bounds."""
    start = time.process_time()
    method = "crown"
    proven = bool(verified(net, x, y, Linf(eps), method="crown")[0])
    if not proven:
        method, start = "alpha-crown", time.process_time()
        proven = bool(verified(net, x, y, Linf(eps), method="alpha-crown")[0])
    return {"method": method, "proven": proven, "seconds": time.process_time() - start}


def told(name: str, eps: str, rows: list[dict[str, Any]]) -> str:
    """One line a setting: counts with intervals of what is decided."""
    n = len(rows)
    said = [row["bab"]["status"] for row in rows]
    root = sum(row["root"]["status"] == "unknown" for row in rows)
    seconds = np.array([row["bab"]["seconds"] for row in rows])
    low, high = clopper_pearson(said.count("verified"), n)
    line = (
        f"{name} linf {eps} n={n}: proven {said.count('verified')} ({100 * low:.0f}-{100 * high:.0f} %), broken "
        f"{said.count('falsified')}, undecided {said.count('unknown')}; tuned bounds alone leave {root} undecided; "
        f"{np.median(seconds):.1f} s a picture (median), {seconds.max():.0f} s at most"
    )
    known = [row for row in rows if "lirpa" in row]
    if known:
        open_ = [row for row in known if not row["lirpa"]["proven"]]
        left = sum(row["bab"]["status"] == "unknown" for row in open_)
        lost = sum(row["lirpa"]["proven"] and row["bab"]["status"] != "verified" for row in known)
        line += (
            f"; of {len(known)} that no attack broke auto-LiRPA's alpha-CROWN leaves {len(open_)} undecided, of which "
            f"{left} stay, and proves {lost} that stay unproven here, in {_typical(known):.0f} s where CROWN did not"
        )
    return line


def _typical(rows: list[dict[str, Any]]) -> float:
    """The median seconds of alpha-CROWN, of the pictures that needed it."""
    return float(np.median([row["lirpa"]["seconds"] for row in rows if row["lirpa"]["method"] != "crown"] or [0.0]))


def main() -> None:
    """Fill what is missing, then print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=8000)
    parser.add_argument("--lirpa", type=int, default=0, help="auto-LiRPA's alpha-CROWN on the first so many as well")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    x, y = pictures(args.shared)
    for name, eps in SETTINGS:
        if args.only not in ("", name):
            continue
        net, radius = trained(args.shared, name), float(parse_number(eps))
        with torch.no_grad():
            right = (net(x).argmax(1) == y).nonzero().flatten()[: args.n].tolist()
        rows = []
        for place, i in enumerate(right):
            one = partial(searched, net, x[i : i + 1], y[i : i + 1], radius, args.nodes)
            theirs = partial(by_lirpa, net, x[i : i + 1], y[i : i + 1], radius)
            folder = args.out / f"{name}-{eps.replace('/', 'of')}"
            rows.append(kept(folder / f"bab-{args.nodes}-{i}.json", one))
            if place < args.lirpa and rows[-1]["bab"]["status"] != "falsified":
                rows[-1]["lirpa"] = kept(folder / f"lirpa-{i}.json", theirs)
            if not (place + 1) % 10 or place + 1 == len(right):
                print(told(name, eps, rows), flush=True)


if __name__ == "__main__":
    main()
