"""What an attack's own loop costs beside its peer's: microseconds an evaluation outside the net, on a small net.

    python benchmarks/peers/loops.py [--repeats 15] [--images 64] [--few 4] [--side 32] [--code CGBA] [--only pgd]

pgd beside torchattacks, apgd and square beside pyautoattack, cgba beside the authors' code (--code: a checkout of
Farhamdur/CGBA; left out without one). One process, one thread; each repetition runs ours and the peer's, one after the
other. The net takes its own time, forward and backward, and that is taken off; an evaluation is one picture asked
about by the attack, what ours pads its batches with not counted. `net` is what the net itself took for each of them,
padding and all. Median and quartiles over the repetitions; the ratio is of the pairs. Pictures and weights are random.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchattacks
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robustsuite.attacks.evasion.apgd import apgd
from robustsuite.attacks.evasion.decisions.cgba import cgba
from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.attacks.evasion.square import square
from robustsuite.config.threats import L2, Access, Linf
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle

STEPS, PROPOSALS, QUERIES = 50, 200, 1000
STEEP = 10
"""The weights times this: so bent a net lets few runs of pgd come back to where they were, and end there."""
EPS = {"pgd": 8 / 255, "apgd": 8 / 255, "square": 1e-6}
"""Of square small enough that no image is broken: both sides leave such an image alone from then on."""


class Clocked(nn.Module):
    """A small net that adds up its own seconds, forward and backward, and the pictures it was given."""

    def __init__(self, side: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Tanh(),
            nn.Flatten(), nn.Linear(8 * (side // 4) ** 2, 10),
        )  # fmt: skip
        for weights in self.parameters():
            weights.data *= STEEP
        self.seconds, self.pictures, self.most = 0.0, 0, math.inf

    def forward(self, x: Tensor) -> Tensor:
        begin = time.process_time()
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: self._add(-time.process_time()))
            x.register_hook(lambda _: self._add(time.process_time()))
        self.pictures += len(x)
        self._add(time.process_time() - begin)
        if self.pictures >= self.most:
            raise Spent
        return logits

    def _add(self, seconds: float) -> None:
        self.seconds += seconds


class Spent(Exception):
    """The authors' code has asked enough."""


class Took(NamedTuple):
    """Microseconds an evaluation: outside the net, and in it."""

    outside: float
    inside: float


def measured(net: Clocked, run: Callable[[], int | None]) -> Took:
    """Run once; `run` returns how many evaluations it made, or None for all the net was given."""
    net.seconds, net.pictures, net.most = 0.0, 0, math.inf
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluations = run()
    whole, count = time.process_time() - begin, evaluations or net.pictures
    return Took((whole - net.seconds) / count * 1e6, net.seconds / count * 1e6)


def ours(name: str, net: Clocked, x: Tensor, y: Tensor) -> int:
    """One of our attacks; how many evaluations it made."""
    ids = torch.arange(len(x))
    access = Access.LABELS if name == "cgba" else Access.GRADIENTS | Access.SCORES
    endless: dict[str, Any] = {"confidence_margin": math.inf} if name in ("pgd", "apgd") else {}  # as peers do not stop
    model = Oracle.over(net, access, Rng.of(0, "oracle", ids), width=64, **endless)
    rng = Rng.of(0, "attack", ids)
    if name == "cgba":
        cgba(model, x, y, L2(math.inf), rng=rng, queries=QUERIES)
    else:
        attack, steps = {"pgd": (pgd, STEPS), "apgd": (apgd, STEPS), "square": (square, PROPOSALS)}[name]
        attack(model, x, y, Linf(EPS[name]), rng=rng, steps=steps)  # type: ignore[operator]
    return model.counts.totals()[0]


def peers(name: str, net: Clocked, x: Tensor, y: Tensor, code: Path | None) -> None:
    """The same by its peer."""
    if name == "pgd":
        torchattacks.PGD(net, eps=EPS[name], alpha=EPS[name] / 4, steps=STEPS)(x, y)
    elif name == "apgd":
        attack = APGDAttack(net, n_iter=STEPS, norm="Linf", n_restarts=1, eps=EPS[name], loss="ce", device="cpu")
        attack.init_hyperparam(x)
        attack.attack_single_run(x, y)
    elif name == "square":
        SquareAttack(net, norm="Linf", n_queries=PROPOSALS, eps=EPS[name], p_init=0.8, device="cpu").perturb(x, y)
    else:
        _authors(net, x, y)


def _authors(net: Clocked, x: Tensor, y: Tensor) -> None:
    """CGBA by its authors, one picture after the other, which is all it takes."""
    from proposed_attack import Proposed_attack  # type: ignore[import-not-found]

    class Theirs(Proposed_attack):  # type: ignore[misc]
        def inv_tf(self, image: Tensor, mean: object, std: object) -> Tensor:
            return image

    for i in range(len(x)):
        torch.manual_seed(i)
        net.most = net.pictures + QUERIES
        attack = Theirs(net, x[i : i + 1], [0] * 3, [1] * 3, torch.zeros(1), torch.ones(1), dim_reduc_factor=2,
                        attack_method="CGBA", iteration=1000, initial_query=30, tol=2e-3, sigma=3e-3,
                        verbose_control="No")  # fmt: skip
        with contextlib.suppress(Spent), torch.no_grad():
            attack.Attack()


def quartiles(values: Iterable[float]) -> str:
    """Median (first to third quartile)."""
    low, middle, high = torch.tensor(list(values), dtype=torch.float64).quantile(
        torch.tensor([0.25, 0.5, 0.75]).double()
    )
    return f"{middle:7.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print one row an attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--few", type=int, default=4, help="pictures for cgba")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--code", type=Path)
    parser.add_argument("--only", default="pgd,apgd,square,cgba")
    given = parser.parse_args()
    torch.set_num_threads(1)
    net = Clocked(given.side).eval().requires_grad_(False)
    x = torch.rand(given.images, 3, given.side, given.side, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    if given.code:
        sys.path.insert(0, str(given.code))
    print(f"n = {given.repeats} pairs, {given.images} pictures 3 x {given.side} x {given.side} ({given.few} for cgba)")
    print("us an evaluation outside the net: median (quartiles)      ours                     peer          "
          "    peer / ours           net ours, peer")  # fmt: skip
    for name in given.only.split(","):
        if name == "cgba" and not given.code:
            print("cgba: no --code, left out")
            continue
        n = given.few if name == "cgba" else len(x)
        pairs = []
        for _ in range(given.repeats + 1):
            mine = measured(net, partial(ours, name, net, x[:n], y[:n]))
            pairs.append((mine, measured(net, partial(peers, name, net, x[:n], y[:n], given.code))))
        pairs = pairs[1:]  # the first warms up
        ratio = quartiles(b.outside / a.outside for a, b in pairs)
        nets = [quartiles(pair[side].inside for pair in pairs).split("(")[0] for side in (0, 1)]
        outside = [quartiles(pair[side].outside for pair in pairs) for side in (0, 1)]
        print(f"{name:8} {outside[0]:>30} {outside[1]:>30} {ratio:>28} {' '.join(nets)}", flush=True)


if __name__ == "__main__":
    main()
