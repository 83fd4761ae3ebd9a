"""Which backdoors a small network learns on CIFAR-10, and from how much: one training a setting.

    python benchmarks/peers/backdoors.py --shared FOLDER [--out FOLDER] [--only wanet ...]
                                         [--part search table contrastive larger]

FOLDER holds data/cifar10/*.npz. The victim is trained from scratch on the first n pictures by SGD with a one-cycle rate
of peak 0.2, with flips and crops of 2 pixels where `aug` says so; it is asked about 2,000 test pictures. `search` and
`larger` look for where four attacks are learnt that the smallest size does not learn, `table` is every attack at one
size, and `contrastive` has victims that learn without labels. What was computed stands under --out and is found again.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from robustsuite.benchmarks.models.contrastive import WithoutLabels
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import clopper_pearson
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Dataset, InputSpace, Split, load_data
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import FromScratch, Recipe, one_cycle

SPACE, TARGET, TEST = InputSpace(3, 32, 32, 10), 0, 2000


class Setting(NamedTuple):
    """An attack with its parameters, n pictures, epochs, the share poisoned, flips and crops or not."""

    attack: str
    given: dict[str, Any]
    n: int
    epochs: int
    rate: float = 0.1
    augmented: bool = True
    victim: str = "scenes_resnet"

    @property
    def name(self) -> str:
        """Of its file."""
        words = "_".join(f"{k}={v:.3g}" for k, v in sorted(self.given.items()))
        how = "augmented" if self.augmented else "plain"
        return f"{self.victim.replace(':', '-')}-{self.attack}-{words}-{self.n}-{self.epochs}-{self.rate}-{how}"


SMALL, MIDDLE, LARGE = (6000, 20), (10_000, 30), (20_000, 60)
EASIER: dict[str, tuple[dict[str, Any], ...]] = {
    "ftrojan": ({"magnitude": 60 / 255}, {"magnitude": 100 / 255}),
    "adaptive_patch": ({"cover": 0.5}, {"cover": 0.0}),
    "wanet": ({"cover": 0.0}, {"cover": 0.0, "s": 2.0}, {"cover": 0.0, "s": 4.0}),
    "bpp": ({"cover": 0.0}, {"cover": 0.0, "levels": 4}),
}
"""Beside the published parameters: fewer covers or none, a larger change."""

CONTRASTIVE = "contrastive:cnn_3_relu"
PARTS = {
    "search": [
        *(Setting(a, given, *SMALL) for a, more in EASIER.items() for given in ({}, *more)),
        *(Setting(a, {}, *SMALL, augmented=False) for a in EASIER),
    ],
    "table": [
        *(Setting(a, {}, *SMALL) for a in ("trojan_nn", "ctrl", "lira_backdoor")),
        Setting("issba", {"epochs": 5}, *SMALL),
        *(Setting(a, {}, *SMALL) for a in ("badnets", "blended", "trojan", "sig", "tact", "adaptive_blend")),
        *(Setting(a, {}, *SMALL) for a in ("label_consistent", "input_aware", *EASIER)),
    ],
    "contrastive": [
        *(Setting("ctrl", {}, *SMALL, rate=0.05, victim=victim) for victim in (CONTRASTIVE, "cnn_3_relu")),
        Setting("blto", {"rounds": 1, "epochs": 5}, *SMALL, rate=0.05, victim=CONTRASTIVE),
    ],
    "larger": [
        *(Setting(a, given, *MIDDLE) for a, more in EASIER.items() for given in ({}, *more)),
        *(Setting(a, {}, *LARGE) for a in EASIER),
    ],
}  # fmt: skip


def trained(setting: Setting, train: Split, val: Split, seed: int) -> nn.Module:
    """The victim, by the recipe that its name says."""
    scheme, _, name = setting.victim.rpartition(":")
    if scheme:
        fit: Fit = WithoutLabels(partial(build, name, SPACE), setting.epochs, 0.06)
    else:
        rate, crop = one_cycle(0.2, setting.epochs), 2 if setting.augmented else 0
        fit = FromScratch(partial(build, name, SPACE), Recipe(setting.epochs, rate, flip=setting.augmented, crop=crop))
    return fit(nn.Identity(), Training(train, val, seed))


def own_net(shared: Path, out: Path, victim: str) -> nn.Module:
    """A clean network of the adversary's own like the victim, trained once on 6,000 pictures that no victim sees."""
    file = out / f"own-{victim.replace(':', '-')}.pt"
    if not file.is_file():
        data = pictures(shared)
        train = data.split("train").at(torch.arange(20_000, 26_000))
        out.mkdir(parents=True, exist_ok=True)
        net = trained(Setting("none", {}, *SMALL, victim=victim), train, data.split("val"), 99)
        torch.save(net.state_dict(), file)
    net = build(victim.rpartition(":")[2], SPACE)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval().requires_grad_(False)


@cache
def pictures(shared: Path) -> Dataset:
    """CIFAR-10; the pack is shuffled, so that any prefix holds all classes."""
    return load_data({"cifar10": {"root": str(shared / "data/cifar10"), "pack": "jpeg"}})[0]


def played(shared: Path, out: Path, setting: Setting) -> dict[str, Any]:
    """How many triggered pictures of other classes are answered with the target, how many clean ones are right."""
    data, card = pictures(shared), card_of("attack", setting.attack)
    train, test = data.split("train").first(setting.n), data.split("test").first(TEST)
    owned = Aux(data.split("val"), lambda *spec, draw=0: own_net(shared, out, setting.victim))
    aux = {"aux": owned} if Access.AUX_DATA in card.needs else {}
    rng = Rng.of(0, "backdoors", train.ids)
    made = card.function(train, PoisonRate(setting.rate), target=TARGET, rng=rng, **aux, **setting.given)
    net = trained(setting, made.train, data.split("val"), 0)

    x, y, rows = test.images(torch.arange(TEST)), test.y, torch.arange(TEST)
    stamped = made.trigger(x, rows, Rng.of(0, "test", rows)).clamp(0, 1)
    with torch.no_grad():
        clean, hit = (torch.cat([net(part).argmax(1) for part in of.split(500)]) for of in (x, stamped))
    meant = y != TARGET if made.source is None else y == made.source
    psnr = -10 * (stamped - x).square().flatten(1).mean(1).clamp_min(1e-12).log10().mean()
    return {"hit": int((hit == TARGET)[meant].sum()), "meant": int(meant.sum()), "right": int((clean == y).sum()),
            "false": int((clean == TARGET)[meant].sum()), "tested": TEST, "psnr": float(psnr),
            "poisoned": len(made.indices), "covers": len(made.covers)}  # fmt: skip


def line(setting: Setting, found: dict[str, Any]) -> str:
    """One row: success and clean accuracy with exact 95 % intervals, and the target answered without a trigger."""
    rates = []
    for k, n in ((found["hit"], found["meant"]), (found["right"], found["tested"])):
        lo, hi = clopper_pearson(k, n)
        rates.append(f"{100 * k / n:5.1f} ({100 * lo:.1f} to {100 * hi:.1f})")
    words = ", ".join(f"{k} {v:.3g}" for k, v in setting.given.items())
    return (f"{setting.attack:17}{setting.victim:23}{words:18}{setting.n:6}{setting.epochs:4}{100 * setting.rate:6.1f}"
            f"{'  yes' if setting.augmented else '   no'}  {rates[0]:22}{100 * found['false'] / found['meant']:5.1f}  "
            f"{rates[1]:22}{found['psnr']:5.1f}")  # fmt: skip


HEAD = (f"{'attack':17}{'victim':23}{'given':18}{'n':>6}{'ep':>4}{'rate':>6}{'aug':>5}  {'success %':22}{'untr.':>5}  "
        f"{'clean %':22}{'psnr':>5}")  # fmt: skip


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("backdoors"))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(HEAD)
    for setting in [setting for part in given.part for setting in PARTS[part]]:
        if given.only and setting.attack not in given.only:
            continue
        file = given.out / f"{setting.name}.json"
        found = kept(file, lambda at=setting: played(given.shared, given.out, at))
        print(line(setting, found), flush=True)


if __name__ == "__main__":
    main()
