"""The speed rows of gpu.py, a function a section: what the suite does on the device, beside what its peers do.

Sizes are read from the bench: one H100-class card takes each section in well under its box, a rehearsal on a CPU takes
all of them in about two minutes.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.attacks.evasion.apgd import apgd
from robustsuite.attacks.evasion.decisions.cgba import cgba
from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.attacks.evasion.square import square
from robustsuite.benchmarks.gpu_agreement import CUDA_ONLY, VARIANTS, variant
from robustsuite.benchmarks.gpu_bench import (
    Attacked,
    Bench,
    Row,
    Stand,
    attacked,
    attempt,
    by_peer,
    calibrated,
    fought,
    paired,
)
from robustsuite.config.threats import L2, Linf
from robustsuite.maths.numerics import float32
from robustsuite.methods.smoothing import votes
from robustsuite.serve.data import InputSpace, Split, in_unit
from robustsuite.serve.models import Normalised, Training, ready
from robustsuite.serve.training import Recipe, fitted, held, one_cycle, precision


def pgd_rows(bench: Bench) -> Iterator[Row]:
    """PGD beside torchattacks', the attacked network asked in every variant."""
    stand, width, steps = bench.stand(bench.arch, bench.size(512, 32)), bench.size(256, 16), bench.size(50, 10)

    def row(name: str) -> Row:
        with float32(tf32=name == "TF32"):
            net = variant(name, stand, width)
            blank = Row("pgd", f"PGD-{steps}, {name}")
            if name in ("torch.compile", "CUDA graphs"):
                blank.note = f"every question filled up to {width} pictures"
            ours = lambda k: attacked(pgd, bench, stand, net, width=width, steps=k)  # noqa: E731
            peer = lambda k: by_peer(bench, stand, net, "pgd", k, width)  # noqa: E731
            return fought(bench, stand, blank, ours, peer, 3, steps)

    for name in VARIANTS:
        if name in CUDA_ONLY and bench.device.type != "cuda":
            yield Row("pgd", f"PGD-{steps}, {name}", note=CUDA_ONLY[name])
        else:
            yield attempt("pgd", f"PGD-{steps}, {name}", partial(row, name))


def apgd_rows(bench: Bench) -> Iterator[Row]:
    """APGD on the cross-entropy beside pyautoattack's."""
    steps = bench.size(100, 10)
    yield beside_autoattack(bench, Row("apgd", f"APGD-CE, {steps} steps"), apgd, "apgd-ce", 5, steps)


def square_rows(bench: Bench) -> Iterator[Row]:
    """Square beside pyautoattack's, as many queries each."""
    steps = bench.size(300, 30)
    yield beside_autoattack(bench, Row("square", f"Square, {steps + 1} queries"), square, "square", 10, steps)


def beside_autoattack(
    bench: Bench, blank: Row, attack: Callable[..., Any], peer: str, warm: int, steps: int
) -> Row:
    """An attack of ours beside pyautoattack's of that name, on the stand both share."""
    stand = bench.stand(bench.arch, bench.size(256, 32))

    def ours(k: int) -> Attacked:
        return attacked(attack, bench, stand, stand.net, steps=k)

    with float32():
        return fought(bench, stand, blank, ours, partial(by_peer, bench, stand, stand.net, peer), warm, steps)


def cgba_rows(bench: Bench) -> Iterator[Row]:
    """CGBA beside foolbox's HopSkipJump, or where that is not installed beside CGBA one picture at a time."""
    stand, few, queries = bench.stand(bench.arch, bench.size(64, 8)), bench.size(4, 2), bench.size(250, 60)
    stand = stand._replace(ball=L2(math.inf))
    rival = find_spec("foolbox") is not None

    def ours(k: int) -> Attacked:
        return attacked(cgba, bench, stand, stand.net, queries=k)

    def alone(k: int) -> Attacked:
        each = [attacked(cgba, bench, stand, stand.net, width=1, rows=slice(i, i + 1), queries=k) for i in range(few)]
        return Attacked(torch.cat([a.x_adv for a in each]), sum(a.forwards for a in each), 0)

    def hopskipjump(k: int) -> Attacked:
        from robustsuite.attacks.evasion import foolbox_bridge

        return attacked(foolbox_bridge.hopskipjump, bench, stand, stand.net, queries=k)

    note = "peer: foolbox's HopSkipJump" if rival else f"peer: the same, {few} pictures one at a time (no foolbox here)"
    blank = Row("cgba", f"CGBA, {queries} queries", n=len(stand.x), note=note)
    done = (len(stand.x), len(stand.x) if rival else min(few, len(stand.x)))
    peer = hopskipjump if rival else alone
    with float32():
        row, both = paired(bench, blank, ours, peer, warm=40, full=queries, amounts=done)
    same = min(done)  # the pictures both sides had
    lengths = [float((a.x_adv[:same] - stand.x[:same]).flatten(1).norm(dim=1).median()) for a in both]
    yield replace(row, note=f"{row.note}; median l2 on the same {same}: {lengths[0]:.3f} and {lengths[1]:.3f}")


def smoothing_rows(bench: Bench) -> Iterator[Row]:
    """Votes under Gaussian noise beside a plain loop."""
    stand, k, full, sigma = bench.stand(bench.arch, 8), bench.size(4, 2), bench.size(10_000, 512), 0.25
    x = stand.x[:k]

    def ours(n: int) -> Tensor:
        return votes(stand.net, x, bench.streams("votes", len(x)).generators(bench.device), sigma=sigma, n=n)

    @torch.no_grad()
    def peer(n: int) -> Tensor:
        counts = torch.zeros(len(x), bench.data.space.classes, dtype=torch.int64, device=x.device)
        for image, count in zip(x, counts, strict=True):
            for size in [512] * (n // 512) + [n % 512] * (n % 512 > 0):
                copies = image.expand(size, *image.shape)
                answers = stand.net(copies + sigma * torch.randn_like(copies)).argmax(1)
                count += torch.bincount(answers, minlength=len(count))
        return counts

    blank = Row("smoothing", f"{full} votes an image", n=len(x), unit="votes/s")
    with float32(), bench.seeded():
        row, both = paired(bench, blank, ours, peer, warm=512, full=full, amounts=(full * len(x),) * 2)
    apart = float((both[0] - both[1]).abs().max()) / full
    yield replace(row, note=f"{row.note}; shares of votes differ by at most {apart:.3f}")


def crown_rows(bench: Bench) -> Iterator[Row]:
    """CROWN bounds of our certifier beside auto_LiRPA called directly, in batches of the same size."""
    from robustsuite.defenses.certifiers.lirpa import margin_bounds

    n, size, ball = bench.size(128, 4), bench.size(64, 2), Linf(2 / 255)
    net, x = random_net("resnet2b", bench), smooth(n, 32).to(bench.device)
    with float32(), torch.no_grad():
        y = net(x).argmax(1)

    def ours(k: int) -> Tensor:
        return margin_bounds(net, x[:k], y[:k], ball, method="crown", batch_size=size)

    def peer(k: int) -> Tensor:
        return directly_bounded(net, x[:k], y[:k], ball.eps, size)

    with float32():
        row, both = paired(bench, Row("crown", "CROWN, resnet2b", n=n), ours, peer, warm=size, full=n)
    apart = float((both[0] - both[1]).abs().max() / both[1].abs().max())
    yield replace(row, note=f"{row.note}, the graph built each time; bounds differ by {apart:.1e} of the largest")


def directly_bounded(net: nn.Module, x: Tensor, y: Tensor, eps: float, size: int) -> Tensor:
    """Lower bounds (N, K - 1) of the margins as a user of auto_LiRPA asks for them."""
    from robustsuite.defenses.certifiers import _lirpa_compat

    library, bounds = _lirpa_compat.library(), []
    with _lirpa_compat.running(), torch.no_grad():
        bounded = library.BoundedModule(copy.deepcopy(net), x[:1], bound_opts={"conv_mode": "patches"}, device=x.device)
        classes = net(x[:1]).shape[1]
        e = torch.eye(classes, device=x.device)
        others = torch.stack([torch.arange(classes - 1, device=x.device)] * len(y))
        wanted = e[y][:, None] - e[others + (others >= y[:, None])]
        for rows in torch.arange(len(x), device=x.device).split(size):
            low, high = ((x[rows] + side * eps).clamp(0, 1) for side in (-1, 1))
            ball = library.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
            centre = library.BoundedTensor(x[rows], ball)
            asked = {"x": (centre,), "C": wanted[rows], "method": "CROWN", "bound_upper": False}
            bounds.append(bounded.compute_bounds(**asked)[0].detach())
    return torch.cat(bounds)


def random_net(arch: str, bench: Bench) -> nn.Module:
    """An untrained network at a fixed seed: one of ours, or of torchvision's with normalisation in front."""
    from torchvision import models

    from robustsuite.benchmarks.models.small_nets import ARCHITECTURES

    with bench.seeded():
        if arch in ARCHITECTURES:
            return ready(ARCHITECTURES[arch](InputSpace(3, 32, 32, 10)), str(bench.device))
        net = getattr(models, arch)(weights=None)
    return ready(Normalised(net, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), str(bench.device))


def smooth(n: int, side: int) -> Tensor:
    """Coloured clouds (n, 3, side, side) on the 8-bit grid, the same every time."""
    generator, x = torch.Generator().manual_seed(0), torch.full((n, 3, side, side), 0.5)
    for cells in (4, 8, 16):
        coarse = torch.randn(n, 3, cells, cells, generator=generator)
        x += functional.interpolate(coarse, (side, side), mode="bilinear") / cells
    return (x.clamp(0, 1) * 255).round() / 255


def corruption_rows(bench: Bench) -> Iterator[Row]:
    """ImageNet-C's fifteen at 224 px, severity 3, beside the package imagecorruptions or the CPU, then their sum."""
    from robustsuite.benchmarks.shifts.engine import corrupt
    from robustsuite.benchmarks.shifts.severities import CORRUPTIONS

    x, few = smooth(bench.size(32, 2), 224), bench.size(8, 2)
    there, brief, rows = x.to(bench.device), replace(bench, seconds=1.0), []
    rival = imagecorruptions() if find_spec("imagecorruptions") else None
    images = [(image * 255).byte().permute(1, 2, 0).numpy() for image in x[:few]]

    def row(name: str) -> Row:
        def ours(_: int) -> Tensor:
            return corrupt(name, there, 3, rng=bench.streams(name, len(x)))

        def peer(_: int) -> Any:
            if rival:
                return [rival(image, corruption_name=name, severity=3) for image in images]
            return corrupt(name, x[:few], 3, rng=bench_on_cpu.streams(name, few))

        words = "the package imagecorruptions" if rival else "the same on the CPU"
        blank = Row("corruptions", name, n=len(x), note=f"peer: {words}, {few} pictures")
        found, both = paired(brief, blank, ours, peer, warm=0, full=0, amounts=(len(x), few))
        if not rival:
            equal = float((both[0][:few].cpu() == both[1]).float().mean())
            found.note += f"; {equal:.2%} of the pixels equal the CPU's"
        return found

    bench_on_cpu = replace(bench, device=torch.device("cpu"))
    for name in CORRUPTIONS:
        with float32():
            rows.append(attempt("corruptions", name, partial(row, name)))
        yield rows[-1]
    if any(one.error for one in rows):
        yield Row("corruptions", "all fifteen", n=len(x), note="no sum: one of the fifteen is missing")
        return
    ours, peer = (len(rows) / sum(1 / (getattr(one, side) or math.nan) for one in rows) for side in ("ours", "peer"))
    note = "a picture under one corruption, mean of the seconds"
    yield Row("corruptions", "all fifteen", ours, peer, "images/s", ours / peer, n=len(x), note=note)


def imagecorruptions() -> Callable[..., Any]:
    """The package's function, with what current releases took away from under it."""
    load: Callable[..., Any] = importlib.import_module("robustsuite.benchmarks.peers.corruptions").load_peer(None)
    return load


def training_rows(bench: Bench) -> Iterator[Row]:
    """One epoch of our training loop beside a plain one, under the same autocast, layout, batch and optimiser."""
    n, batch = bench.size(50_000, 512), bench.size(256, 64)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    whole = Split.of(pictures, torch.randint(10, (n,), generator=generator))
    net, recipe = random_net(bench.arch, bench), Recipe(1, one_cycle(0.1, 1), batch=batch)

    def ours(k: int) -> nn.Module:
        return fitted(net, Training(whole.first(k), whole.first(1), 0, str(bench.device)), recipe)

    def peer(k: int) -> nn.Module:
        model = copy.deepcopy(net).to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train().requires_grad_()
        x, y = pictures[:k].to(bench.device), whole.y[:k].to(bench.device)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        for rows in torch.randperm(k, device=bench.device).split(batch)[: k // batch]:
            with precision(bench.device):
                logits = model(in_unit(x[rows]).contiguous(memory_format=torch.channels_last))
                loss = functional.cross_entropy(logits, y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return ready(model, str(bench.device))

    kind = "bf16 autocast" if bench.device.type == "cuda" else "float32"
    blank = Row("training", f"one epoch, {bench.arch}, {kind}", n=n, note=f"batch {batch}, channels last")
    with bench.seeded():
        row, _ = paired(bench, blank, ours, peer, warm=2 * batch, full=n)
    (begin, end), _ = bench.clocked(lambda: held(whole, bench.device))
    yield replace(row, note=f"{row.note}; {end - begin:.2f} s of ours hold the pictures, once a training")


def imagenet_rows(bench: Bench) -> Iterator[Row]:
    """PGD-10 on torchvision's ResNet-50 at 224 px, random weights and its own answers as labels."""
    arch, n, side, steps = ("resnet18", 2, 64, 3) if bench.tiny else ("resnet50", 64, 224, 10)
    net, x = random_net(arch, bench), smooth(n, side).to(bench.device)
    with float32(), torch.no_grad():
        stand = calibrated(bench, Stand(net, x, net(x).argmax(1), Linf(0.0)))

    def ours(k: int) -> Attacked:
        return attacked(pgd, bench, stand, net, steps=k)

    with float32():
        blank = Row("imagenet", f"PGD-{steps}, {arch}, {side} px")
        row = fought(bench, stand, blank, ours, partial(by_peer, bench, stand, net, "pgd"), 2, steps)
    yield row
