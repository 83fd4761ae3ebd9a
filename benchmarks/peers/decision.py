"""Distance against queries of decision-based attacks: CGBA beside foolbox's HopSkipJump and the authors' own code.

    python benchmarks/peers/decision.py [--shared FOLDER] [--net NAME] [--images 50] [--queries 5000] PART
    PART: untargeted (CGBA, HopSkipJump) | targeted (CGBA-H, CGBA, HopSkipJump) | authors (CGBA; --targeted: CGBA-H)

FOLDER holds models/*.safetensors and data/ (default: $ROBUSTSUITE_SHARED). All attacks of a table start from the same
adversarial pictures, pay the same for them, see labels alone, and stop at the same number of queries. What counts is
the l2 of the nearest adversarial picture asked about by then; a picture without one counts as infinitely far.
The authors' code (--code: a checkout of Farhamdur/CGBA) is given a [0, 1] net, the identity for its normalisation,
our start, sigma, tol, N0 and band; it takes one image at a time. Its pictures outside the box are counted as well.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.decisions.cgba import cgba, cgba_h
from robustsuite.attacks.evasion.foolbox_bridge import hopskipjump, hopskipjump_targeted
from robustsuite.benchmarks.models.checkpoint import checkpoint
from robustsuite.config.goals import Targeted
from robustsuite.config.threats import L2, Access
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import CHECKPOINTS, Decisions, noise_start, picture_start
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import InputSpace, Split, load_data
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle

NETS: dict[str, tuple[str, str, InputSpace]] = {
    "cnn_a": ("cifar10_cnn_a_adv4", "cnn_a", InputSpace(3, 32, 32, 10)),
    "resnet20": ("cifar10_resnet20", "cifar_resnet20", InputSpace(3, 32, 32, 10)),
    "resnet4b": ("cifar10_resnet4b_adv2", "resnet4b", InputSpace(3, 32, 32, 10)),
    "lenet5": ("mnist_lenet5_adv", "lenet5", InputSpace(1, 28, 28, 10)),
    "mobilenet": ("imagenet_mobilenetv1_025", "mobilenetv1_025", InputSpace(3, 128, 128, 1000)),
}


def loaded(folder: Path, name: str, n: int) -> tuple[nn.Module, Tensor, Tensor, Split]:
    """A net, the n first pictures it gets right, their labels; and other labelled pictures for targeted starts."""
    file, arch, space = NETS[name]
    net = ready(checkpoint(str(folder / f"models/{file}.safetensors"), space, arch=arch).net)
    pictures, y = _pictures(folder, space, n)
    right = torch.cat([net(part).argmax(1) for part in pictures.split(64)]) == y
    chosen = right.nonzero().flatten()[:n]
    owned = torch.arange(int(chosen[-1]) + 1, len(y))
    return net, pictures[chosen], y[chosen], Split.of(pictures[owned], y[owned])


def _pictures(folder: Path, space: InputSpace, n: int) -> tuple[Tensor, Tensor]:
    if space.channels == 1:
        with np.load(folder / "data/mnist/mnist_test8000.npz") as kept:
            images, y = (torch.from_numpy(kept[name][: 6 * n + 600]) for name in ("images", "labels"))
        return images[:, None].float() / 255, y.long()
    if space.classes == 10:
        split = load_data({"cifar10": {"root": str(folder / "data/cifar10"), "pack": "jpeg"}})[1].first(6 * n + 600)
    else:
        root, size = str(folder / "data/imagenet/imagenet_sample700.zip"), space.height
        split = load_data({"imagenet": {"root": root, "size": size}})[1]
        split = split.at(torch.arange(0, len(split), max(1, len(split) // (3 * n))))  # they stand in order of classes
    return split.images(torch.arange(len(split))), split.y


def untargeted(net: nn.Module, x: Tensor, y: Tensor, owned: Split, queries: int) -> None:
    """CGBA and HopSkipJump toward any wrong class."""
    for attack in (cgba, hopskipjump):
        table(attack.__name__, attack, net, x, y, queries=queries)


def targeted(net: nn.Module, x: Tensor, y: Tensor, owned: Split, queries: int) -> None:
    """CGBA-H, CGBA and HopSkipJump toward a class drawn at random among those that `owned` shows."""
    targets, aux = drawn_targets(x, y, owned), Aux(owned, lambda spec: net)
    table("cgba_h", cgba_h, net, x, y, queries=queries, targets=targets, aux=aux)
    table("cgba_h(path=semicircle)", cgba_h, net, x, y, queries=queries, targets=targets, aux=aux, path="semicircle")
    table("hopskipjump_targeted", hopskipjump_targeted, net, x, y, queries=queries, targets=targets, aux=aux)


def drawn_targets(x: Tensor, y: Tensor, owned: Split) -> Tensor:
    """A wrong class (N, 1) for each picture, of those with a picture in `owned`."""
    present, label = owned.y.unique(), y
    place = torch.searchsorted(present, label).clamp(max=len(present) - 1)
    drawn = Targeted().targets(place, len(present), Rng.of(0, "targets", torch.arange(len(y))))
    return present[drawn]


def table(name: str, attack: Callable[..., Found], net: nn.Module, x: Tensor, y: Tensor, **given: Any) -> Found:
    """Run an attack on all pictures at once and print its row."""
    ids = torch.arange(len(x))
    model = Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", ids), width=len(x))
    begin = clocks()
    found = attack(model, x, y, L2(math.inf), rng=Rng.of(0, "attack", ids), **given)
    seconds = clocks() - begin
    distances = {mark: found.columns[f"l2_at_{mark}"] for mark in CHECKPOINTS}
    row(name, distances, model.counts.forwards, found.columns["logical"], seconds)
    return found


def row(name: str, distances: dict[int, Tensor], executed: Tensor, logical: Tensor, seconds: Tensor) -> None:
    """One line: medians at the checkpoints, queries an image, seconds by the wall and of the processor."""
    medians = [d.double().nan_to_num(nan=torch.inf, posinf=torch.inf).quantile(0.5).item() for d in distances.values()]
    shown = " ".join(f"{m:8.4f}" if math.isfinite(m) else "       -" for m in medians)
    times = " ".join(f"{s:8.1f}" for s in seconds.tolist())
    print(f"{name:26} {shown} {int(executed.max()):8} {int(logical.max()):8} {times}", flush=True)


def ratios(ours: Any, theirs: Any, queries: int) -> None:
    """Print, for each checkpoint up to `queries`, both medians, ours / theirs with its interval, and who is nearer."""
    for k, mark in enumerate(CHECKPOINTS):
        a, b = ours[:, k], theirs[:, k]
        both = np.isfinite(a) & np.isfinite(b)
        if mark > queries or not both.any():
            continue
        log = np.log(a[both] / b[both])
        lo, hi = np.exp(stats.bootstrap_interval(log, 0))
        print(f"  {mark:6} {np.median(a):9.4f} {np.median(b):9.4f} {np.exp(log.mean()):8.3f} [{lo:.3f}, {hi:.3f}] "
              f"{int((a < b).sum()):4} of {int(both.sum())}", flush=True)  # fmt: skip


def clocks() -> Tensor:
    """Seconds by the wall and of the processor."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


class Stop(Exception):
    """The authors' code has spent its queries."""


class Watched(nn.Module):
    """The net as the authors' code sees it: counts pictures and keeps the nearest adversarial, in the box or not."""

    def __init__(self, net: nn.Module, reached: Callable[[Tensor], Tensor], source: Tensor, queries: int) -> None:
        super().__init__()
        self.net, self.reached, self.source, self.queries = net, reached, source, queries
        self.count, self.track = -1, torch.full((len(CHECKPOINTS),), torch.inf)  # it asks for the source's label first

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.net(x)
        lengths = (x - self.source).flatten(1).norm(dim=1)
        for there, length in zip(self.reached(logits.argmax(1)).tolist(), lengths.tolist(), strict=True):
            self.count += 1
            if there and self.count > 0:
                late = torch.tensor(CHECKPOINTS) < self.count
                self.track = torch.where(late, self.track, self.track.clamp(max=length))
        if self.count >= self.queries:
            raise Stop
        return logits


def authors(net: nn.Module, x: Tensor, y: Tensor, owned: Split, queries: int, code: Path, toward: bool) -> None:
    """Ours and the authors' code from the same starts."""
    sys.path.insert(0, str(code))
    from proposed_attack import Proposed_attack  # type: ignore[import-not-found]

    ids, goal = torch.arange(len(x)), drawn_targets(x, y, owned)
    extra: dict[str, Any] = {"targets": goal, "aux": Aux(owned, lambda spec: net)} if toward else {}
    ours = table("cgba_h" if toward else "cgba", cgba_h if toward else cgba, net, x, y, queries=queries, **extra)
    oracle = Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", ids), width=len(x))
    ask = Decisions(oracle, x, goal[:, 0] if toward else y, targeted=toward, queries=queries)
    rng = Rng.of(0, "attack", ids).fold("start")
    start, found = picture_start(ask, ids, owned) if toward else noise_start(ask, ids, rng)

    class Theirs(Proposed_attack):  # type: ignore[misc]
        def find_random_adversarial(self, image: Tensor) -> tuple[Tensor, int]:
            self.all_queries += self.paid
            return self.begun, self.paid

        def inv_tf(self, image: Tensor, mean: object, std: object) -> Tensor:
            return image

    tracks, asked, begin = [], [], clocks()
    for i in ids[found].tolist():
        target = goal[i, 0] if toward else y[i]
        watched = Watched(net, lambda label, target=target: (label == target) == toward, x[i], queries)
        if toward:
            watched.count -= 1  # it also asks for the label of the picture it is given
        torch.manual_seed(i)
        attack = Theirs(watched, x[i : i + 1], [0] * 3, [1] * 3, torch.zeros(1), torch.ones(1),
                        tar_img=start[i : i + 1] if toward else None, dim_reduc_factor=2 if x.shape[-1] < 96 else 4,
                        attack_method="CGBA_H" if toward else "CGBA", iteration=1000, initial_query=30, tol=2e-3,
                        sigma=3e-3, verbose_control="No")  # fmt: skip
        attack.begun, attack.paid = start[i : i + 1], int(ask.spent[i])
        watched.count += int(ask.spent[i])
        with contextlib.suppress(Stop):
            attack.Attack()
        tracks.append(watched.track)
        asked.append(min(watched.count, queries))
    seconds, track = clocks() - begin, torch.stack(tracks)
    distances = {m: torch.where(torch.tensor(m <= queries), track[:, k], torch.inf) for k, m in enumerate(CHECKPOINTS)}
    counts = torch.tensor(asked)
    row("authors' code", distances, counts, counts, seconds)
    for mark in (mark for mark in CHECKPOINTS if mark <= queries):
        log = (ours.columns[f"l2_at_{mark}"][found] / distances[mark]).log()
        log = log[log.isfinite()]
        mean, error = float(log.mean().exp()), float(log.std() / len(log) ** 0.5)
        print(f"at {mark}: ours / theirs, image by image, {mean:.3f} (standard error {error:.3f})", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["untargeted", "targeted", "authors"])
    parser.add_argument("--shared", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--net", choices=list(NETS), default="cnn_a")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--code", type=Path, default=Path("CGBA"))
    parser.add_argument("--targeted", action="store_true")
    given = parser.parse_args()
    net, x, y, owned = loaded(given.shared, given.net, given.images)
    part = f"{given.part}{' targeted' if given.targeted else ''}"
    print(f"{part}: {NETS[given.net][0]}, {len(x)} images, {given.queries} "
          f"queries, {torch.get_num_threads()} thread(s); median l2 at")  # fmt: skip
    print(f"{'attack':26} " + " ".join(f"{m:8}" for m in CHECKPOINTS) + " executed  logical   wall s    cpu s")
    if given.part == "authors":
        authors(net, x, y, owned, given.queries, given.code, given.targeted)
    else:
        {"untargeted": untargeted, "targeted": targeted}[given.part](net, x, y, owned, given.queries)


if __name__ == "__main__":
    main()
