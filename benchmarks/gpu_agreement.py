"""The rows of gpu.py on agreement: logits and verdicts on the device beside the CPU's; and the variants of a network.

The pictures are the embedded scenes and the networks are trained on them. Verdicts are those of a sweep's cell, once
in a process that allows TF32, which a cell must not care about, and once in one that does not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.gpu_bench import Bench, Row, Stand, attempt
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Threat
from robustsuite.engine.runner import play
from robustsuite.maths.numerics import float32
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import WIDTH
from robustsuite.serve.data import Dataset, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, weights_sha256

VARIANTS = ("float32", "TF32", "bf16 autocast", "channels last", "torch.compile", "CUDA graphs")
CUDA_ONLY = {"TF32": "TF32 is a mode of CUDA alone", "CUDA graphs": "graphs are captured on CUDA alone"}


class Asked(nn.Module):
    """A network asked in another way: how(net, x) -> logits (N, K)."""

    def __init__(self, net: nn.Module, how: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.how = net, how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.net, x)


def in_bf16(net: nn.Module, x: Tensor) -> Tensor:
    """Logits under bf16 autocast, as float32."""
    with torch.autocast(x.device.type, torch.bfloat16):
        logits: Tensor = net(x)
    return logits.float()


def in_channels_last(net: nn.Module, x: Tensor) -> Tensor:
    """Logits of pictures laid out channels last."""
    logits: Tensor = net(x.contiguous(memory_format=torch.channels_last))
    return logits


def at_width(width: int, net: nn.Module, x: Tensor) -> Tensor:
    """Logits of a batch filled up to `width`: what is compiled or captured has one shape."""
    missing = width - len(x)
    filled = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
    # A captured graph writes the next answer over this one.
    return net(filled)[: len(x)].clone()  # type: ignore[no-any-return]


def variant(name: str, stand: Stand, width: int) -> nn.Module:
    """A copy of the attacked network under one of VARIANTS."""
    net = copy.deepcopy(stand.net)
    if name == "bf16 autocast":
        return Asked(net, in_bf16)
    if name == "channels last":
        return Asked(net.to(memory_format=torch.channels_last), in_channels_last)
    if name == "torch.compile":
        net.compile()
        return Asked(net, partial(at_width, width))
    if name == "CUDA graphs":
        sample = torch.zeros(width, *stand.x.shape[1:], device=stand.x.device, requires_grad=True)
        torch.cuda.make_graphed_callables(net, (sample,))  # in place: the module's forward becomes the captured one
        return Asked(net, partial(at_width, width))
    return net


def agreement(bench: Bench) -> Iterator[Row]:
    """Logits and verdicts on the device against those on the CPU, of the same weights and pictures."""
    for arch, n in (("scenes_resnet", bench.size(256, 32)), ("resnet18_cifar", bench.size(128, 0))):
        if not n:
            yield Row("agreement", arch, note="too slow to be trained in a rehearsal")
            continue
        stand, split = bench.stand(arch, 64), bench.data.split("test").first(n)
        for kind in VARIANTS[:3]:
            name = f"{arch} logits, {kind}"
            if kind in CUDA_ONLY and bench.device.type != "cuda":
                yield Row("agreement", name, note=CUDA_ONLY[kind])
            else:
                yield attempt("agreement", name, partial(_logits, bench, name, stand.net, split, kind))
        steps, queries = bench.size(50, 10), bench.size(300, 30)
        asked: list[tuple[str, dict[str, int]]] = [("clean", {}), ("pgd", {"steps": 10})]
        if arch == "scenes_resnet":
            sizes = {"pgd": steps, "apgd": steps, "square": queries}
            asked = [("clean", {}), *((attack, {"steps": size}) for attack, size in sizes.items())]
        for attack, given in asked:
            here = robust_images(bench.data, stand, split, attack, "cpu", given)
            for tf32 in ("TF32 allowed", "TF32 off"):
                name = f"{arch} {attack}{given.get('steps', '')}, {tf32}"
                yield attempt("agreement", name, partial(_verdicts, bench, name, stand, split, (attack, given), here))


def _logits(bench: Bench, name: str, net: nn.Module, split: Split, kind: str) -> Row:
    x = split.images(torch.arange(len(split)))
    how = in_bf16 if kind == "bf16 autocast" else nn.Module.__call__
    with torch.no_grad():
        here = copy.deepcopy(net).cpu()(x)
        with float32(tf32=kind == "TF32"):
            there = how(net, x.to(bench.device)).cpu()
    gap, largest = float((there - here).abs().max()), float(here.abs().max())
    differ = int((there.argmax(1) != here.argmax(1)).sum())
    note = f"absolute {gap:.2e}, largest logit {largest:.3g}; {differ} of {len(x)} answers differ"
    return Row("agreement", name, ours=gap / largest, unit="relative", n=len(x), note=note)


@float32()  # as `execute` plays every cell
def robust_images(data: Dataset, stand: Stand, split: Split, attack: str, device: str, given: dict[str, int]) -> Tensor:
    """Who (N,) stands, as a sweep's cell on that device finds; 'clean' attacks nobody."""
    net, data = copy.deepcopy(stand.net).cpu(), replace(data, splits={"test": split})
    cycle = Lifecycle(Model("given", net, data.space, weights_sha256(net)), data, device=device)
    if attack == "clean":
        return play(Cell("gpu", cycle, Subjects(split)), cycle.served(), width=WIDTH).columns["robust"]
    card = card_of("attack", attack)
    threat = Threat("given", card.place, Access.WHITE_BOX, stand.ball)
    cell = Cell("gpu", cycle, Subjects(split), threat, card, tuple(sorted(given.items())))
    return play(cell, cycle.served(), width=WIDTH).columns["robust"]


def _verdicts(
    bench: Bench, name: str, stand: Stand, split: Split, asked: tuple[str, dict[str, int]], here: Tensor
) -> Row:
    with float32(tf32=name.endswith("allowed")):
        there = robust_images(bench.data, stand, split, asked[0], str(bench.device), asked[1])
    differ = (there != here).nonzero().flatten().tolist()
    note = f"pictures that differ: {', '.join(map(str, differ[:8])) or 'none'}"
    note = note if asked[0] == "clean" else f"{stand.ball}; {note}"
    row = Row("agreement", name, 100 * (1 - len(differ) / len(here)), unit="% equal", n=len(here), note=note)
    return replace(row, survivors=f"{int(there.sum())} / {int(here.sum())}")
