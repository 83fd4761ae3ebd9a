"""Our verdicts on VNN-COMP 2021 instances beside those that the competition's tools gave, instance by instance.

    python -m robustsuite.benchmarks.peers.vnncomp --shared FOLDER --out FOLDER --instances LIST.csv --results FOLDER
        [--model resnet2b] [--only resnet_2b] [--first 48] [--nodes 3000]

LIST.csv is a list of github.com/stanleybak/vnncomp2021 with its instances beside it, FOLDER the results_csv of
github.com/stanleybak/vnncomp2021_results. Tools that disagree among themselves say nothing of an instance. What each
comes to is kept and found again. Seconds are of the process, as other work on the machine would count besides.
"""

import argparse
import csv
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from robustsuite.app.commands_vet import listed
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.benchmarks.peers.lirpa import MODELS, trained
from robustsuite.methods.verification.branching import Limits
from robustsuite.methods.verification.properties import decided
from robustsuite.methods.verification.vnnlib import read_instance

MEANS = {"unsat": "verified", "holds": "verified", "sat": "falsified", "violated": "falsified"}


def looked_at(net: nn.Module, file: Path, nodes: int) -> dict[str, Any]:
    """One instance: the verdict, its parts and seconds, and how many cases the tuned bounds alone had left open."""
    seen: list[tuple[int, int]] = []
    start = time.process_time()
    parts = read_instance(file, 3072, 10)
    answer = decided(net, parts, (3, 32, 32), Limits(nodes), lambda n, left: seen.append((n, left)))
    seconds = time.process_time() - start
    return {"status": answer.status, "nodes": answer.nodes, "seconds": seconds, "left": seen[0][1] if seen else 0}


def published(folder: Path) -> dict[str, dict[str, str]]:
    """Verdicts by an instance's file name and tool: verified, falsified, or as the tool said."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(folder.glob("*.csv")):
        with file.open(newline="") as stream:
            for row in csv.reader(stream):
                if len(row) > 4:
                    key = f"{Path(row[1]).name} {Path(row[2]).name}"
                    found.setdefault(key, {})[file.stem] = MEANS.get(row[4].lower(), row[4].lower())
    return found


def main() -> None:
    """Fill what is missing, then print a line an instance and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("shared", "out", "instances", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="resnet2b")
    parser.add_argument("--only", default="resnet_2b")
    parser.add_argument("--first", type=int)
    parser.add_argument("--nodes", type=int, default=3000)
    parser.add_argument("--inside", action="store_true", help="inputs are pictures in [0, 1], not normalised ones")
    args = parser.parse_args()
    whole = trained(args.shared, args.model)
    net = whole if args.inside else whole.get_submodule("net")
    others, rows = published(args.results), []
    onnx = args.only if args.only.endswith(".onnx") else f"{args.only}.onnx"
    for file in list(listed([args.instances], args.only))[: args.first]:
        mine = kept(args.out / f"{args.only}-{args.nodes}-{file.name}.json", partial(looked_at, net, file, args.nodes))
        theirs = {tool: said for tool, said in others.get(f"{onnx} {file.name}", {}).items() if said in MEANS.values()}
        agreed = set(theirs.values())
        rows.append((mine, agreed.pop() if len(agreed) == 1 else "unknown", theirs.get("a-b-CROWN", "unknown")))
        print(f"{file.name:36} {mine['status']:9} {mine['nodes']:5} parts {mine['seconds']:6.1f} s   "
              f"published: {rows[-1][1]} ({len(theirs)} tools)", flush=True)  # fmt: skip
    for title, place in (("any tool", 1), ("a-b-CROWN", 2)):
        both = [(row[0]["status"], row[place]) for row in rows]
        print(f"beside {title}: " + ", ".join(f"{both.count(pair)} x ours {pair[0]}, theirs {pair[1]}"
              for pair in sorted(set(both))))  # fmt: skip
    wrong = sum({row[0]["status"], row[1]} == {"verified", "falsified"} for row in rows)
    open_ = [row[0] for row in rows if row[0]["left"] and row[0]["status"] != "falsified"]
    left = sum(row["status"] == "unknown" for row in open_)
    seconds = np.array([row[0]["seconds"] for row in rows])
    print(f"n={len(rows)}: {wrong} contradictions; tuned bounds leave {len(open_)} that no attack breaks, branch and "
          f"bound {left}; {np.median(seconds):.1f} s an instance (median), {seconds.max():.0f} s at most")  # fmt: skip


if __name__ == "__main__":
    main()
