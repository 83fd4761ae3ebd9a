"""Knockoff clones beside the authors' training: agreement on the same test pictures, from the same queries and answers.

    python benchmarks/peers/extraction.py --shared FOLDER --code FOLDER [--out FOLDER] [--queries 200 500 1000]
                                          [--images 1000] [--seeds 2] [--clone cnn_5_relu]

FOLDER of --code is a checkout of tribhuvanesh/knockoffnets. The victim is cifar10_resnet20; both clones have the same
architecture and first weights, and are trained on the same answers to the same pictures, scores and then classes alone.
Theirs by knockoff/utils/model.py's train_model as knockoff/adversary/train.py calls it: 100 epochs of SGD, rate 0.01
cut tenfold after 60, momentum 0.5, batches of 64; the network after the last epoch. Ours by Thief.learnt as `knockoff`
calls it. The pictures are CIFAR-10's val split here; which of them trained the victim is of no matter to this
comparison. What was computed stands under --out and is found again.

Measured with --queries 500 1000 --images 2000, one thread; p: exact McNemar over the pictures:

     queries answers  seed  ours                    theirs                         p        cpu s  theirs
         500 scores      0   37.6 % (35.5 to 39.8)   36.4 % (34.2 to 38.5)      0.28            5       8
         500 scores      1   37.0 % (34.9 to 39.2)   34.2 % (32.1 to 36.3)     0.022            4       8
         500 classes     0   35.2 % (33.2 to 37.4)   35.8 % (33.7 to 37.9)      0.66            4       8
         500 classes     1   35.6 % (33.5 to 37.8)   32.8 % (30.7 to 34.9)     0.019            4       8
        1000 scores      0   42.2 % (40.1 to 44.4)   41.8 % (39.6 to 44.0)      0.72            8      15
        1000 scores      1   42.4 % (40.2 to 44.6)   40.2 % (38.0 to 42.4)     0.084            8      17
        1000 classes     0   43.0 % (40.9 to 45.3)   41.4 % (39.2 to 43.6)      0.16            8      15
        1000 classes     1   40.3 % (38.1 to 42.5)   39.9 % (37.7 to 42.1)      0.77            8      15
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from robustsuite.benchmarks.models.checkpoint import checkpoint
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.maths.randomness import untouched
from robustsuite.maths.stats import clopper_pearson, mcnemar_exact
from robustsuite.scenarios.extraction.thief import Thief, fresh_from
from robustsuite.serve.data import InputSpace, Split, load_data
from robustsuite.serve.models import ready

SPACE = InputSpace(3, 32, 32, 10)


def theirs(code: Path, net: nn.Module, x: Tensor, answers: Tensor) -> nn.Module:
    """The authors' loop on these queries, from this network's weights."""
    sys.path.insert(0, str(code))
    from knockoff.utils import model

    net = copy.deepcopy(net).requires_grad_(True)
    with (tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), untouched(),
          warnings.catch_warnings()):  # fmt: skip
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.5)
        model.train_model(net, TensorDataset(x, answers), folder, criterion_train=model.soft_cross_entropy,
                          device=torch.device("cpu"), num_workers=0, optimizer=optimiser, lr_step=60, lr_gamma=0.1,
                          epochs=100)  # fmt: skip
    return ready(net)


def played(given: argparse.Namespace, queries: int, hard: bool, seed: int) -> dict[str, Any]:
    """Which test pictures each clone answers as the victim does, and the seconds of each training."""
    data, test = load_data({"cifar10": {"root": str(given.shared / "data/cifar10"), "pack": "jpeg"}})
    victim = ready(checkpoint(str(given.shared / "models/cifar10_resnet20.safetensors"), SPACE,
                              arch="cifar_resnet20").net)  # fmt: skip
    own = Thief(fresh_from(build(given.clone, SPACE), seed), data.split("val"), SPACE, (queries,), seed)
    x, held = data.split("val").images(own.order()[:queries]), test.first(given.images)
    answers = answered(victim, x).softmax(1)
    answers = torch.eye(10)[answers.argmax(1)] if hard else answers
    said, found = answered(victim, all_of(held)).argmax(1), dict[str, Any]()
    for name, train in (("ours", lambda: own.learnt(x, answers)),
                        ("theirs", lambda: theirs(given.code, own.fresh(0), x, answers))):  # fmt: skip
        start = time.process_time()
        clone = train()
        found[f"{name}_seconds"] = time.process_time() - start
        found[name] = (answered(clone, all_of(held)).argmax(1) == said).tolist()
    return found


def answered(net: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, K) of pictures (N, C, H, W)."""
    with torch.no_grad():
        return torch.cat([net(part) for part in x.split(256)])


def all_of(split: Split) -> Tensor:
    """Its pictures."""
    return split.images(torch.arange(len(split)))


def main() -> None:
    """Print a line a setting: both agreements with exact intervals, and an exact McNemar test over the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("extraction"))
    parser.add_argument("--queries", type=int, nargs="+", default=[200, 500, 1000])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--clone", default="cnn_5_relu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'queries':>8} {'answers':8} {'seed':>4}  {'ours':24}{'theirs':24}{'p':>8} {'cpu s':>12} {'theirs':>7}")
    for queries in given.queries:
        for hard in (False, True):
            for seed in range(given.seeds):
                name = f"{given.clone}-{given.images}-{queries}-{'classes' if hard else 'scores'}-{seed}.json"
                found = kept(given.out / name, lambda at=(queries, hard, seed): played(given, *at))
                rates = []
                for who in ("ours", "theirs"):
                    k, n = sum(found[who]), len(found[who])
                    lo, hi = clopper_pearson(k, n)
                    rates.append(f"{100 * k / n:5.1f} % ({100 * lo:.1f} to {100 * hi:.1f})")
                p = mcnemar_exact(found["ours"], found["theirs"]).pvalue
                print(f"{queries:8} {'classes' if hard else 'scores':8} {seed:4}  {rates[0]:24}{rates[1]:24}{p:8.2g} "
                      f"{found['ours_seconds']:12.0f} {found['theirs_seconds']:7.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
