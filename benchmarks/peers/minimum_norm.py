"""Minimum-norm attacks beside adversarial-library's: same weights, pictures, settings and number of gradients.

    python benchmarks/peers/minimum_norm.py --shared FOLDER --code CHECKOUT [--out FOLDER] [--n 100] [--only TEXT ...]

FOLDER holds models/*.safetensors and data/{cifar10,mnist}/*.npz (default: $ROBUSTSUITE_SHARED). CHECKOUT is a copy of
github.com/jeromerony/adversarial-library (0.2.8; or `pip install --no-deps adv-lib`, and leave --code out). Its visdom
is for drawing alone and is stood in for. Each setting is kept in --out as json and found again. Without the library
our side is played alone, and the table says so.

Both are handed the n first pictures that the net gets right and ask for the same number of gradients. Of ours, a break
is a wrong answer that leads by more than 1e-5, of theirs one that leads at all, which is what they look for; distances
in float64. Ratio: of our median distance over all pictures to theirs (no break: infinite), with its bootstrap interval
over pictures. Nearer, farther: share of pictures where ours is by more than 0.1 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import types
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.config.threats import BALLS, Access
from robustsuite.maths import losses, stats
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.oracle import Oracle

NETS = {
    "cifar10_resnet4b_adv2": "resnet4b", "cifar10_cnn_a_adv": "cnn_a", "cifar10_resnet20": "cifar_resnet20",
    "mnist_lenet5_adv": "lenet5",
}  # fmt: skip
LEAD = {"ours": losses.CONFIDENCE_MARGIN, "theirs": 0.0}
P = {"linf": float("inf"), "l2": 2, "l1": 1, "l0": 0}


class Pair(NamedTuple):
    """Our attack and theirs in one norm with as many steps, and what the peer is told besides."""

    ours: str
    norm: str
    steps: int
    theirs: str
    given: dict[str, Any]


PAIRS = [
    *(Pair("fmn", norm, steps, "fmn", {"norm": P[norm]}) for norm in P for steps in (100, 500)),
    *(Pair("ddn", "l2", steps, "ddn", {"levels": None}) for steps in (100, 500)),
    *(Pair("alma", norm, steps, "alma", {"distance": norm, "init_lr_distance": first})
      for norm, first in (("l2", 0.1), ("l1", 0.5)) for steps in (100, 500)),
    *(Pair("pdpgd", norm, 500, "pdpgd", {"norm": P[norm]} | ({"proximal_operator": 23} if norm == "l0" else {}))
      for norm in P),
    *(Pair("sigma_zero", "l0", steps, "sigma_zero", {}) for steps in (100, 500)),
    *(Pair("fab", norm, 100, "fab", {"norm": P[norm], "targeted_restarts": True}) for norm in ("linf", "l2", "l1")),
]  # fmt: skip
"""The peer's settings are those of AttackBench (arXiv 2404.19460)."""
STEPS = {"alma": "num_steps", "pdpgd": "num_steps", "sigma_zero": "num_steps", "fab": "n_iter"}
"""What the peer calls its steps, where that is not `steps`. It asks at as many points, we at one more."""


def library(code: str) -> types.ModuleType | None:
    """adv_lib.attacks, None where it is not installed."""
    if code:
        sys.path.insert(0, code)
    sys.modules.setdefault("visdom", types.SimpleNamespace(Visdom=object))  # type: ignore[arg-type]
    try:
        import adv_lib.attacks
    except ImportError as missing:
        print(f"expected adversarial-library, got {missing}; pip install --no-deps adv-lib, or --code CHECKOUT")
        return None
    return adv_lib.attacks  # type: ignore[no-any-return]


@cache
def victim(shared: Path, name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The net with the first n pictures that it gets right, and their labels."""
    if "mnist" in name:
        pack = np.load(shared / "data/mnist/mnist_test8000.npz")
        x = torch.from_numpy(pack["images"][: 4 * n])[:, None] / 255
        y = torch.from_numpy(pack["labels"][: 4 * n]).long()
    else:
        split = load_data({"cifar10": {"root": str(shared / "data/cifar10"), "pack": "jpeg"}})[1].first(4 * n)
        x, y = split.images(torch.arange(len(split))), split.y
    space = InputSpace(*x.shape[1:], 10)
    net = ready(load_model(f"checkpoint:{shared}/models/{name}.safetensors?arch={NETS[name]}", space).net)
    right = (net(x).argmax(1) == y).nonzero().flatten()[:n]
    return net, x[right].contiguous(), y[right]


def ours(net: nn.Module, x: Tensor, y: Tensor, pair: Pair) -> tuple[Tensor, float]:
    """Our adversarials, and the gradients asked for an image."""
    ids = torch.arange(len(x))
    model = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", ids), width=len(x))
    attack, ball = card_of("attack", pair.ours).function, BALLS[pair.norm](len(x[0].flatten()))
    x_adv = attack(model, x, y, ball, rng=Rng.of(0, pair.ours, ids), steps=pair.steps)
    return x_adv, model.counts.totals()[1] / len(x)


def theirs(attack: Callable[..., Tensor], net: nn.Module, x: Tensor, y: Tensor, pair: Pair) -> tuple[Tensor, float]:
    """The peer's, likewise."""
    asked = 0

    def counted(given: Tensor) -> Tensor:
        nonlocal asked
        asked += len(given)
        return net(given)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    steps = {STEPS.get(pair.theirs, "steps"): pair.steps + 1}
    return attack(counted, x.clone(), y, **pair.given, **steps).detach(), asked / len(x)


def judged(net: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: str, lead: float) -> list[float | None]:
    """Each picture's distance, None where no wrong class leads by more than `lead`, or outside the box."""
    with torch.no_grad():
        margin = losses.margin(net(x_adv), y)
    broken = (margin > lead) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    lengths = BALLS[norm](1).distance(x, x_adv)
    return [float(length) if ok else None for ok, length in zip(broken, lengths, strict=True)]


def measured(shared: Path, name: str, pair: Pair, n: int, peer: types.ModuleType | None) -> dict[str, Any]:
    """Distances, gradients an image and processor seconds of both sides."""
    net, x, y = victim(shared, name, n)
    row: dict[str, Any] = {}
    sides: dict[str, Callable[[], tuple[Tensor, float]]] = {"ours": lambda: ours(net, x, y, pair)}
    if peer is not None:
        sides["theirs"] = lambda: theirs(getattr(peer, pair.theirs), net, x, y, pair)
    for side, play in sides.items():
        start = time.process_time()
        x_adv, asked = play()
        row[side] = {"seconds": time.process_time() - start, "gradients": asked,
                     "distances": judged(net, x, y, x_adv, pair.norm, LEAD[side])}  # fmt: skip
    return row


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    mine, peers = (
        np.array([np.inf if d is None else d for d in row[side]["distances"]]) if side in row else None
        for side in ("ours", "theirs")
    )
    assert mine is not None
    own = f"{np.median(mine):9.4g} {np.isfinite(mine).mean():7.1%} {row['ours']['gradients']:6.0f}"
    if peers is None:
        return f"{own}   (adversarial-library is not installed)"
    nearer, farther = (mine < 0.999 * peers).mean(), (mine > 1.001 * peers).mean()
    ratio = f"{'–':>24}"
    if np.isfinite(np.median(peers)):
        low, high = stats.resampled_interval(lambda i: float(np.median(mine[i]) / np.median(peers[i])), len(mine), 0)
        ratio = f"{np.median(mine) / np.median(peers):6.3f} ({low:.3f} to {high:.3f})"
    return (
        f"{own} | {np.median(peers):9.4g} {np.isfinite(peers).mean():7.1%} {row['theirs']['gradients']:6.0f} |"
        f" {ratio} {nearer:6.0%} {farther:6.0%}"
        f" | {row['ours']['seconds']:5.0f} {row['theirs']['seconds']:5.0f}"
    )


def main() -> None:
    """Print one row a net and pair of attacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--code", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=[], help="settings whose name holds each of these")
    given = parser.parse_args()
    peer = library(given.code)
    print(f"{given.n} pictures, {torch.get_num_threads()} thread(s); median distance, success, gradients an image")
    print(f"{'net, attack, norm, steps':42} ours{'':20} | theirs{'':18} |  ratio of medians{'':8} nearer farther | cpu")
    for name in NETS:
        for pair in PAIRS:
            label = f"{name} {pair.ours} {pair.norm} {pair.steps}"
            if not all(text in label.split() or text in name for text in given.only):
                continue
            made = partial(measured, given.shared, name, pair, given.n, peer)
            row = kept(given.out / f"{label.replace(' ', '-')}-{given.n}.json", made) if given.out else made()
            print(f"{label:42} {line(row)}", flush=True)


if __name__ == "__main__":
    main()
