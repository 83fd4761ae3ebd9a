"""How far pictures made on one net carry to others: ours beside torchattacks, and LGV beside the net it started from.

    nice python benchmarks/peers/transfer.py --out FOLDER [--folder SHARED] [--images 200] [--part peers|lgv|csgld]

SHARED holds models/*.safetensors and data/cifar10/*.npz (default: $ROBUSTSUITE_SHARED). Surrogate: ResNet-20; targets:
ResNet-32, ResNet-44 and a ResNet-18 of other authors, on test pictures that all four answer right. Each setting's
verdicts are stored in FOLDER and found again. peers: torchattacks' classes at equal steps, step size, momentum and
copies; lgv: 50 steps of eps/10, one snapshot a step, of weights that 10 epochs on --train pictures passed (0: all, as
in the paper); csgld: the same from --cycles cycles of --epochs. Tests: exact McNemar, two-sided.

These nets were trained on the original pictures; the folder's are JPEGs. So snapshots are of other pictures than their
start and the targets were, which counts against them. Measured, 200 pictures, linf 4/255, --train 10000: the starting
net fools 79.0, 81.5 and 68.5 %, LGV 75.5, 73.0 and 65.0 % (p 0.32, 0.016, 0.35), its last snapshot alone 63.5, 63.5 and
54.5 % (LGV against it: p < 0.002 each). That LGV beats the net that it starts from is not seen here; that forty
snapshots beat one is. Of --part peers, 100 pictures, linf 8/255, no pair differs (21 tests, the least p is 0.06).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from robustsuite.attacks.evasion.transfer import _transforms as how
from robustsuite.attacks.evasion.transfer.iterative import transfer
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.threats import Access, Linf
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import clopper_pearson, mcnemar_exact
from robustsuite.methods.snapshots import Snapshots
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split, load_data
from robustsuite.serve.judge import Judge
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.oracle import Oracle

SURROGATE = ("cifar10_resnet20", "cifar_resnet20")
TARGETS = [("cifar10_resnet32", "cifar_resnet32"), ("cifar10_resnet44", "cifar_resnet44"),
           ("cifar10_resnet18_std", "resnet18_cifar")]  # fmt: skip
STEPS, REL_STEP, WIDTH, SIDE = 10, 0.2, 64, 15
"""Of the comparison with torchattacks; SIDE: of ti's kernel."""

Attack = Callable[[Tensor, Tensor, Linf], Tensor]

PEERS: dict[str, tuple[list[str], str, dict[str, Any]]] = {
    "i": ([], "BIM", {}),
    "mi": (["mi"], "MIFGSM", {"decay": 1.0}),
    "ni": (["ni"], "NIFGSM", {"decay": 1.0}),
    "mi+di": (["mi", "di"], "DIFGSM", {"decay": 1.0, "resize_rate": how.SMALLEST, "diversity_prob": how.DIVERSE}),
    "mi+di+ti": (["mi", "di", "ti"], "TIFGSM", {"decay": 1.0, "resize_rate": how.SMALLEST,
                                                  "diversity_prob": how.DIVERSE, "len_kernel": SIDE}),
    "ni+si": (["ni", "si"], "SINIFGSM", {"decay": 1.0, "m": how.SCALES}),
    "mi+vt": (["mi", "vt"], "VMIFGSM", {"decay": 1.0, "N": how.NEIGHBOURS, "beta": how.REACH}),
}  # fmt: skip
"""Ours, theirs, and what theirs is given to be the same."""

ALONE = (["mi"], ["di"], ["mi", "di"], ["si"], ["mi", "di", "si"])
"""What the one net is given where LGV has none."""


def spec_of(folder: Path, name: str, arch: str) -> str:
    """A model spec of these weights."""
    return f"checkpoint:{folder / f'models/{name}.safetensors'}?arch={arch}"


def ours(aux: Aux, surrogates: str, x: Tensor, y: Tensor, ball: Linf, **given: Any) -> Tensor:
    """x_adv of our attack."""
    rng = Rng.of(0, "transfer", torch.arange(len(x)))
    model = Oracle.over(nn.Identity(), Access.AUX_DATA, rng, width=WIDTH)
    return transfer(model, x, y, ball, rng=rng, targets=None, aux=aux, surrogates=surrogates, **given)


def theirs(net: nn.Module, name: str, given: dict[str, Any], x: Tensor, y: Tensor, ball: Linf) -> Tensor:
    """x_adv of torchattacks' class, batch by batch."""
    torch.manual_seed(0)
    attack = getattr(torchattacks, name)(net, eps=ball.eps, alpha=REL_STEP * ball.eps, steps=STEPS, **given)
    return ball.project(x, torch.cat([attack(a, b) for a, b in zip(x.split(WIDTH), y.split(WIDTH), strict=True)]))


def right(split: Split, nets: list[nn.Module], n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures, with their labels, that all nets answer right."""
    found = torch.arange(len(split))
    with torch.no_grad():
        for net in nets:
            parts = [i[net(split.images(i)).argmax(1) == split.y[i]] for i in found.split(WIDTH)]
            found = torch.cat(parts)[: n if net is nets[-1] else len(found)]
    return split.images(found), split.y[found]


class Last(nn.Module):
    """The last of some snapshots: what their variety adds is seen beside it, what the training changed beside the net
    that they started from.
    """

    def __init__(self, snapshots: nn.Module) -> None:
        super().__init__()
        assert isinstance(snapshots, Snapshots)
        self.ask = snapshots.members()[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.ask(x)


class Board:
    """Settings whose verdicts are kept: which pictures (N,) each target answers wrong."""

    def __init__(self, out: Path, targets: dict[str, nn.Module], x: Tensor, y: Tensor) -> None:
        self.out, self.x, self.y = out, x, y
        self.judges = {name: Judge(net, stochastic=False, width=WIDTH) for name, net in targets.items()}

    def fooled(self, name: str, eps: int, attack: Attack) -> dict[str, np.ndarray[Any, Any]]:
        """By target; found again where this was played."""
        file = self.out / f"{name.replace(' ', '_').replace(',', '')}-{eps}-{len(self.x)}.json"

        def judged() -> dict[str, list[bool]]:
            ball = Linf(eps / 255)
            x_adv = attack(self.x, self.y, ball)
            assert bool(ball.allows(self.x, x_adv).all())
            rng = Rng.of(0, "judge", torch.arange(len(self.x)))
            return {target: judge(x_adv, self.y, rng).wrong.tolist() for target, judge in self.judges.items()}

        return {target: np.array(wrong) for target, wrong in kept(file, judged).items()}


def row(name: str, found: dict[str, np.ndarray[Any, Any]], base: dict[str, np.ndarray[Any, Any]] | None = None) -> None:
    """Print how many pictures fool each target, and whether that differs from `base` on the same ones."""
    parts = []
    for target, wrong in found.items():
        low, high = clopper_pearson(int(wrong.sum()), len(wrong))
        p = "" if base is None else f" p {mcnemar_exact(wrong, base[target]).pvalue:.2g}"
        parts.append(f"{target} {100 * wrong.mean():5.1f} % ({100 * low:.1f}-{100 * high:.1f}){p}")
    print(f"{name:28} " + " | ".join(parts), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=os.environ.get("ROBUSTSUITE_SHARED", "."))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("peers", "lgv", "csgld"), default="lgv")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--train", type=int, default=10000)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--eps", type=int, nargs="+", default=[4], help="in 255ths")
    given = parser.parse_args()
    root = {"root": str(given.folder / "data/cifar10"), "pack": "jpeg", "train": given.train}
    data, split = load_data({"cifar10": root})
    spec = spec_of(given.folder, *SURROGATE)
    nets = {name: ready(load_model(spec_of(given.folder, name, arch), data.space).net) for name, arch in TARGETS}
    own = ready(load_model(spec, data.space).net)
    x, y = right(split.first(2 * given.images), [own, *nets.values()], given.images)
    aux = Lifecycle(load_model(spec, data.space), data, tell=print).adversary()
    board = Board(given.out, nets, x, y)
    for eps in given.eps:
        print(f"\n{given.part}, linf {eps}/255, {len(x)} pictures that all nets answer right; share that fools")
        if given.part == "peers":
            for name, (transforms, peer, options) in PEERS.items():
                mine = partial(ours, aux, spec, transforms=transforms, steps=STEPS, rel_step=REL_STEP, kernel=SIDE)
                base = board.fooled(f"torchattacks {peer}", eps, partial(theirs, own, peer, options))
                row(f"torchattacks.{peer}", base)
                row(f"ours {name}", board.fooled(f"ours {name}", eps, mine), base)
            continue
        one = board.fooled("one net", eps, partial(ours, aux, spec))
        row("one net", one)
        cycles = {"csgld": {"cycles": given.cycles, "epochs": given.epochs}}
        training: Any = "lgv" if given.part == "lgv" else cycles
        told = f"{given.part} on {given.train}"
        row(told, board.fooled(told, eps, partial(ours, aux, spec, training=training)), one)
        last = Aux(aux.pictures, lambda spec, training=training: Last(aux.net(spec, training)))
        row(f"{told}, last alone", board.fooled(f"{told} last", eps, partial(ours, last, spec)), one)
        for transforms in ALONE:
            told = f"one net, {'+'.join(transforms)}"
            row(told, board.fooled(told, eps, partial(ours, aux, spec, transforms=transforms)), one)


if __name__ == "__main__":
    main()
