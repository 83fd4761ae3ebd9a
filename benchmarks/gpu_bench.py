"""What the rows of gpu.py are measured with: networks, clocks, the judge, and the two sides of a comparison.

The two sides of a row stand in one process: each once to warm up, at the same batch size, then in turn, up to three
times while it fits, between two synchronisations; the median is kept. What is not called a variant runs in float32
without TF32. Who survives an attack is read by the judge, in float32 without TF32, from the plain network.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.config.threats import L2, Access, Linf
from robustsuite.maths.numerics import float32
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.context import WIDTH
from robustsuite.serve.data import Dataset
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import Training, ready
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.training import Recipe, fitted, one_cycle

T = TypeVar("T")
Span = tuple[float, float]
ROUNDS = 3
HALVINGS = (8, 4, 2, 1, 0.5, 0.25, 0.125)
"""Budgets in 255ths that are tried, from the largest, until two fifths of the pictures survive PGD-10."""


@dataclass
class Row:
    """One line of the table; None is what could not be measured, and `note` or `error` says why."""

    section: str
    name: str
    ours: float | None = None
    peer: float | None = None
    unit: str = ""
    ratio: float | None = None
    survivors: str | None = None
    utilisation: str | None = None
    n: int | None = None
    note: str = ""
    error: str = ""


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    words = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def attempt(section: str, name: str, make: Callable[[], Row]) -> Row:
    """The row, or one that says why there is none; the rows after it are measured all the same."""
    try:
        return make()
    except Exception as error:
        return Row(section, name, error=sentence(error))


class Stand(NamedTuple):
    """Who is attacked: the plain network, pictures (N, C, H, W) it gets right, labels (N,), and the budget."""

    net: nn.Module
    x: Tensor
    y: Tensor
    ball: Linf | L2


class Attacked(NamedTuple):
    """What an attack returned (N, C, H, W), and the images it asked about, forward and backward."""

    x_adv: Tensor
    forwards: int
    backwards: int


def unknown(spans: list[Span]) -> tuple[float | None, float | None]:
    """The load of a card that nobody watches."""
    return None, None


@dataclass
class Bench:
    """The device, the sizes, and what reads the card's load: spans of time -> per cent busy, GiB."""

    device: torch.device
    out: Path
    tiny: bool = False
    seconds: float = 4.0
    usage: Callable[[list[Span]], tuple[float | None, float | None]] = unknown
    nets: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def arch(self) -> str:
        """The network of the speed rows."""
        return "scenes_resnet" if self.tiny else "resnet18_cifar"

    @cached_property
    def data(self) -> Dataset:
        """The embedded scenes."""
        from robustsuite.benchmarks.datasets.scenes import scenes

        return scenes(train=800, val=16, test=160) if self.tiny else scenes(train=4000, val=16, test=1000)

    def size(self, full: int, tiny: int) -> int:
        """A number of the real run, or the one that stands for it in a rehearsal."""
        return tiny if self.tiny else full

    def streams(self, name: str, n: int) -> Rng:
        """A random stream an example, its keys on the device."""
        return Rng(Rng.of(0, name, torch.arange(n)).keys.to(self.device))

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """The global random states at a fixed seed, for peers that draw from them; as they were afterwards."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            yield

    def victim(self, arch: str) -> nn.Module:
        """One of the small nets, trained for some epochs on the scenes, on the device."""
        if arch not in self.nets:
            from robustsuite.benchmarks.models.small_nets import build

            with self.seeded():
                fresh = build(arch, self.data.space)
            training = Training(self.data.split("train"), self.data.split("val"), 0, str(self.device))
            # The wide one learns in these few steps by Adam alone, where SGD is still at chance.
            peak, epochs = (0.002 if arch == "resnet18_cifar" else 0.01), self.size(5, 16)
            recipe = Recipe(epochs, one_cycle(peak, epochs), batch=64, optimiser="adamw")
            trained = fitted(fresh, training, recipe)
            self.nets[arch] = ready(trained, str(self.device))
        return self.nets[arch]

    def stand(self, arch: str, n: int) -> Stand:
        """The first n test pictures that the trained network gets right, under the budget that leaves some standing."""
        net, split = self.victim(arch), self.data.split("test")
        x, y = split.images(torch.arange(len(split))).to(self.device), split.y.to(self.device)
        right = survivors(self, Stand(net, x, y, Linf(0.0)), x).nonzero().flatten()[:n]
        return calibrated(self, Stand(net, x[right], y[right], Linf(0.0)))

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clocked(self, run: Callable[[], T]) -> tuple[Span, T]:
        """When it began and ended, and its result."""
        self.wait()
        begin = time.perf_counter()
        result = run()
        self.wait()
        return (begin, time.perf_counter()), result

    def used(self, ours: list[Span], peer: list[Span]) -> str | None:
        """'97 / 60 %, 3.1 GiB': the card's load under the two sides, None where nobody watched."""
        (mine, most), (theirs, also) = self.usage(ours), self.usage(peer)
        memory = [m for m in (most, also) if m is not None]
        if not memory:
            return None
        return f"{' / '.join('-' if v is None else f'{v:.0f}' for v in (mine, theirs))} %, {max(memory):.1f} GiB"


def survivors(bench: Bench, stand: Stand, x_adv: Tensor) -> Tensor:
    """Who (N,) is answered rightly, or was moved beyond the budget."""
    if stand.net.training:
        raise RuntimeError("expected the plain network in eval mode, got it as a peer left it, in train mode")
    with float32():
        answers = Judge(stand.net, stochastic=False, width=WIDTH)(x_adv, stand.y, bench.streams("judge", len(x_adv)))
    return ~(answers.wrong & stand.ball.allows(stand.x, x_adv))


def calibrated(bench: Bench, stand: Stand) -> Stand:
    """The same under the largest budget at which two fifths of the pictures survive PGD-10."""
    part = stand._replace(x=stand.x[:64], y=stand.y[:64])
    for eps in HALVINGS:
        part = part._replace(ball=Linf(eps / 255))
        with float32():
            x_adv = attacked(pgd, bench, part, part.net, steps=bench.size(10, 5)).x_adv
        if float(survivors(bench, part, x_adv).float().mean()) >= 0.4:
            break
    return stand._replace(ball=part.ball)


def attacked(
    attack: Callable[..., Any], bench: Bench, stand: Stand, net: nn.Module, *, width: int = WIDTH,
    rows: slice = slice(None), **given: Any,
) -> Attacked:  # fmt: skip
    """One of our attacks on `net`, asked through an oracle that counts."""
    x, y, n = stand.x[rows], stand.y[rows], len(stand.x)
    oracle = Oracle.over(net, Access.WHITE_BOX, bench.streams("oracle", n)[rows], width=width)
    found = attack(oracle, x, y, stand.ball, rng=bench.streams("attack", n)[rows], **given)
    return Attacked(found.x_adv, *oracle.counts.totals())


class Counted(nn.Module):
    """The network as a peer is handed it: counts images, forward and backward. eval() and train() stop here."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0
        self.training = net.training

    def train(self, mode: bool = True) -> Counted:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad: Tensor) -> None:
        self.backwards += len(grad)


def by_peer(bench: Bench, stand: Stand, net: nn.Module, kind: str, steps: int, width: int = WIDTH) -> Attacked:
    """torchattacks' PGD, or pyautoattack's apgd-ce or square, batch by batch at a fixed seed."""
    asked, eps = Counted(net), stand.ball.eps
    common = {"norm": "Linf", "eps": eps, "seed": 0, "n_restarts": 1, "device": bench.device}
    with bench.seeded():
        if kind == "pgd":
            import torchattacks

            run = torchattacks.PGD(asked, eps=eps, alpha=0.25 * eps, steps=steps, random_start=True)
        elif kind == "apgd-ce":
            from pyautoattack.autopgd_base import APGDAttack

            run = APGDAttack(asked, n_iter=steps, loss="ce", logger=logging.getLogger("auto-attack"), **common).perturb
        else:
            from pyautoattack.square import SquareAttack

            run = SquareAttack(asked, n_queries=steps, p_init=0.8, resc_schedule=False, **common).perturb
        parts = [run(x, y) for x, y in zip(stand.x.split(width), stand.y.split(width), strict=True)]
    return Attacked(torch.cat(parts).detach(), asked.forwards, asked.backwards)


def paired(
    bench: Bench, row: Row, ours: Callable[[int], T], peer: Callable[[int], T], *, warm: int, full: int,
    amounts: tuple[int, int] | None = None,
) -> tuple[Row, tuple[T, T]]:  # fmt: skip
    """The row with both speeds, and what the two sides returned; `warm` and `full` is the effort they are asked for.

    amounts: what each side got through, n pictures where it is not said.
    """
    ours(warm), peer(warm)
    spans: tuple[list[Span], list[Span]] = ([], [])
    begin = time.perf_counter()
    for rounds in range(1, ROUNDS + 1):
        mine, first = bench.clocked(partial(ours, full))
        theirs, second = bench.clocked(partial(peer, full))
        spans[0].append(mine)
        spans[1].append(theirs)
        if (time.perf_counter() - begin) * (1 + 1 / rounds) > bench.seconds:
            break
    seconds = [median(b - a for a, b in side) for side in spans]
    mine_done, theirs_done = amounts or (row.n or 1, row.n or 1)
    row = replace(row, ours=mine_done / seconds[0], peer=theirs_done / seconds[1], unit=row.unit or "images/s")
    row.ratio, row.utilisation = (row.ours or 0.0) / (row.peer or math.nan), bench.used(*spans)
    row.note = "; ".join(filter(None, [row.note, f"median of {rounds}" if rounds > 1 else "timed once"]))
    return row, (first, second)


def fought(
    bench: Bench, stand: Stand, row: Row, ours: Callable[[int], Attacked], peer: Callable[[int], Attacked], warm: int,
    full: int,
) -> Row:  # fmt: skip
    """The row of two attacks on the same pictures: survivors of both, and the evaluations that each paid for."""
    row, both = paired(bench, replace(row, n=len(stand.x)), ours, peer, warm=warm, full=full)
    row.survivors = " / ".join(str(int(survivors(bench, stand, side.x_adv).sum())) for side in both)
    work = [f"{side.forwards / len(stand.x):.1f} f + {side.backwards / len(stand.x):.1f} b" for side in both]
    mine, theirs = (side.forwards + side.backwards for side in both)
    each = f"per evaluation {(row.ratio or math.nan) * mine / max(theirs, 1):.2f} times the peer's speed"
    row.note = f"{stand.ball}; an image: ours {work[0]}, peer {work[1]}; {each}; {row.note}"
    return row
