"""The latent quantisation filter on MNIST, attacked directly and through its surrogate.

    python benchmarks/peers/latent_quantisation.py --shared FOLDER --out FOLDER [--train 6000] [--images 200]

FOLDER of --shared holds data/mnist/mnist_test8000.npz and models/mnist_lenet5_clean.safetensors. The filter learns from
the first pictures, the last are attacked: by PGD on the network alone, on the filtered one as it is (its code passes no
gradient), through its surrogate, and by the suite, which takes the least. --eps 0.15 on [0, 1] is the 0.3 on [-1, 1] of
the authors' script. Exact 95 % intervals. One thread; what was learnt and found is kept under --out.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.benchmarks.models import small_nets
from robustsuite.benchmarks.peers.kept import kept
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.defenses.serve.latent_quantisation import latent_quantisation, through, untaught
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.kept import key_of, learnt
from robustsuite.serve.models import Normalised, Training, ready
from robustsuite.serve.system import System

SPACE = InputSpace(1, 28, 28, 10)
SIZES: dict[str, Any] = {"latent": 64, "width": 16, "hidden": 256}


def loaded(folder: Path) -> nn.Module:
    """The published clean network."""
    from safetensors import safe_open

    net = small_nets.ARCHITECTURES["lenet5"](SPACE)
    with safe_open(folder / "models/mnist_lenet5_clean.safetensors", "pt") as file:
        net.load_state_dict({k: file.get_tensor(k).float() for k in file.keys()})  # noqa: SIM118
        mean, std = ([float(v) for v in file.metadata()[key].split(",")] for key in ("mean", "std"))
    return ready(Normalised(net, mean, std))


def routes(args: argparse.Namespace) -> dict[str, Any]:
    """Right answers by route, out of --images."""
    stored = np.load(args.shared / "data/mnist/mnist_test8000.npz")
    every = Split.of(torch.from_numpy(stored["images"])[:, None], torch.from_numpy(stored["labels"].astype("int64")))
    train, test = every.first(args.train), every.at(torch.arange(len(every) - args.images, len(every)))
    net, training = loaded(args.shared), Training(train, train.first(1), seed=0, tell=print)
    fit = learnt(partial(latent_quantisation, epochs=args.epochs, **SIZES), key_of([str(args.train), str(args.epochs)]),
                 partial(untaught, **SIZES))  # fmt: skip
    served = ready(fit(net, training))
    stand_in, card = ready(through(net, served)), card_of("attack", "pgd")  # type: ignore[arg-type]
    attack = partial(pgd, steps=40)
    threat, rng = Threat("t", "evasion", Access.WHITE_BOX, Linf(args.eps)), Rng.of(0, "bench", test.ids)
    found: dict[str, Any] = {"images": args.images}
    for name, system in (
        ("network", System(net, SPACE)),
        ("filter", System(served, SPACE, surrogate=stand_in, hides=Access.GRADIENTS)),
    ):
        columns = evasion.judged(system, attack, test, threat, rng, width=128, card=card).columns
        routed = {key: int(columns[key].sum()) for key in columns if key == "clean_ok" or key.startswith("robust")}
        found |= {f"{name} {key}": k for key, k in routed.items()}
    return found


def main() -> None:
    """Print a line a route, with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=float, default=0.15)
    args = parser.parse_args()
    os.environ["ROBUSTSUITE_CACHE"] = str(args.out)
    file = args.out / f"routes-{args.train}-{args.epochs}-{args.images}-{args.eps:g}.json"
    found = dict(kept(file, lambda: routes(args)))
    n = found.pop("images")
    for name, k in found.items():
        lo, hi = stats.clopper_pearson(k, n)
        print(f"{name}: {k / n:.1%} [{lo:.1%}, {hi:.1%}], n = {n}")


if __name__ == "__main__":
    main()
