"""Smoothing certificates: votes and CPU seconds an image, ours beside the authors' loop, on the same images.

    python benchmarks/peers/smoothing.py --shared FOLDER [--peer CODE] [--images 20] [--radius 0.25] [--n 100000]

FOLDER holds models/cifar10_cnn_a_mix4.safetensors and data/cifar10/*_jpeg.npz; the network is first fine-tuned under
noise. CODE is a folder with core.py of github.com/locuslab/smoothing, which has no package; without it the loop below
stands in: one image at a time, noise and counts as in the paper's listing. core.py needs scipy.stats.binom_test,
which scipy dropped, and draws its noise on "cuda" only; both are supplied here, nothing of its arithmetic is changed.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from PIL import Image
from torch import Tensor, nn

from robustsuite.benchmarks.models import small_nets
from robustsuite.defenses.certifiers.smoothing import certify, decide
from robustsuite.defenses.train.gaussian_augmentation import gaussian_augmentation
from robustsuite.maths.randomness import Rng
from robustsuite.methods.smoothing import votes
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Normalised, Training, as_it_is

Certifier = Callable[[Tensor, int, int], tuple[int, float]]
"""(one image (C, H, W), n0, n) -> class or -1, radius."""


def pictures(pack: Path, n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures (n, 3, 32, 32) as bytes and labels (n,)."""
    stored = np.load(pack)
    blob, spans = stored["jpeg"].tobytes(), list(pairwise(stored["offsets"]))[:n]
    decoded = [np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB")) for a, b in spans]
    x = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    return x, torch.from_numpy(stored["labels"][:n].astype("int64"))


def network(folder: Path, sigma: float, epochs: int, pictures_seen: int) -> nn.Module:
    """The published weights, fine-tuned under noise."""
    from safetensors import safe_open

    net = small_nets.ARCHITECTURES["cnn_a"](InputSpace(3, 32, 32, 10))
    with safe_open(folder / "models/cifar10_cnn_a_mix4.safetensors", "pt") as file:
        net.load_state_dict({k: file.get_tensor(k).float() for k in file.keys()})  # noqa: SIM118
        mean, std = ([float(v) for v in file.metadata()[key].split(",")] for key in ("mean", "std"))
    net = Normalised(net, mean, std)
    if not epochs:
        return net.eval().requires_grad_(False)
    split = Split.of(*pictures(folder / "data/cifar10/cifar10_train50000_jpeg.npz", pictures_seen))
    training = Training(split, split.first(1), seed=0, tell=lambda line: print(line, file=sys.stderr))
    return gaussian_augmentation(as_it_is, sigma=sigma, epochs=epochs, lr=0.002)(net, training)


def plain_loop(net: nn.Module, sigma: float, alpha: float, batch: int) -> Certifier:
    """CERTIFY as the paper's listing reads, one image at a time."""

    def count(x: Tensor, n: int) -> list[int]:
        counts = [0] * 10
        with torch.no_grad():
            while n > 0:
                size = min(batch, n)
                copies = x.repeat(size, 1, 1, 1)
                for label in net(copies + torch.randn_like(copies) * sigma).argmax(1).tolist():
                    counts[label] += 1
                n -= size
        return counts

    def one(x: Tensor, n0: int, n: int) -> tuple[int, float]:
        chosen = count(x, n0)
        top = chosen.index(max(chosen))
        k = count(x, n)[top]
        p_lo = float(scipy.stats.beta.ppf(alpha, k, n - k + 1)) if k else 0.0
        return (top, sigma * float(scipy.stats.norm.ppf(p_lo))) if p_lo >= 0.5 else (-1, 0.0)

    return one


def authors_loop(code: Path, net: nn.Module, sigma: float, alpha: float, batch: int) -> Certifier:
    """Smooth.certify of the authors' core.py."""
    if not hasattr(scipy.stats, "binom_test"):
        scipy.stats.binom_test = lambda k, n, p: scipy.stats.binomtest(k, n, p).pvalue
    sys.path.insert(0, str(code))
    import core  # type: ignore[import-not-found]

    core.torch = types.SimpleNamespace(no_grad=torch.no_grad, randn_like=lambda x, device: torch.randn_like(x))
    smooth = core.Smooth(net, 10, sigma)
    return lambda x, n0, n: smooth.certify(x, n0, n, alpha, batch)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, which a busy machine leaves alone, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


class Counted(nn.Module):
    """Counts the images a network is asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.net(x)  # type: ignore[no-any-return]


def main() -> None:
    """Print the figures of one run as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--peer", type=Path, help="folder with the authors' core.py")
    parser.add_argument("--images", type=int, default=20, help="decided at the radius, and certified at n votes")
    parser.add_argument("--timed", type=int, default=4, help="certified by the peer, too")
    parser.add_argument("--timed-votes", type=int, default=10_000, help="votes in the timing; the cost is linear in it")
    parser.add_argument("--wide", type=int, default=200, help="decided at the radius, beyond the certified ones")
    parser.add_argument("--radius", type=float, default=0.25)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--alpha", type=float, default=0.001)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train", type=int, default=8000)
    print(json.dumps(compared(parser.parse_args()), indent=1))


def compared(args: argparse.Namespace) -> dict[str, object]:
    """Every figure of one run; seconds an image are for `n` votes, scaled from the votes that were timed."""
    net = network(args.shared, args.sigma, args.epochs, args.train)
    as_bytes, y = pictures(args.shared / "data/cifar10/cifar10_test8000_jpeg.npz", max(args.wide, args.images))
    x, rng = as_bytes.float() / 255, Rng.of(0, "bench", torch.arange(len(y)))
    make = (lambda *rest: authors_loop(args.peer, *rest)) if args.peer else plain_loop
    peer, k, m = make(net, args.sigma, args.alpha, args.batch), args.images, args.timed
    options = {"sigma": args.sigma, "alpha": args.alpha, "n": args.n, "batch_size": args.batch}

    peer_seconds, peer_found = seconds(lambda: [peer(image, 100, args.timed_votes) for image in x[:m]])
    timed_seconds, timed = seconds(lambda: certify(net, x[:m], rng=rng[:m], **{**options, "n": args.timed_votes}))
    prediction, radius, *_ = certify(net, x[:k], rng=rng[:k], **options)
    top = votes(net, x, rng.fold("selection").generators(), sigma=args.sigma, n=100).argmax(1)
    counted = Counted(net)
    decided_seconds, found = seconds(
        lambda: decide(counted, x[:k], top[:k], radius=args.radius, rng=rng[:k], **options)
    )
    drawn = counted.asked
    wide_seconds, wide = seconds(lambda: decide(counted, x, top, radius=args.radius, rng=rng, **options))
    fixed = (prediction == top[:k]) & (radius >= args.radius)
    return {
        "peer": "core.py" if args.peer else "plain loop",
        "peer_radii": [round(float(r), 4) for _, r in peer_found],
        "our_radii": [round(float(r), 4) for r in timed[1]],
        "peer_seconds_an_image": peer_seconds / m * args.n / args.timed_votes,
        "our_seconds_an_image": timed_seconds / m * args.n / args.timed_votes,
        "sequential_seconds_an_image": decided_seconds / k,
        "fixed_votes_an_image": args.n,
        "sequential_votes_an_image": float(found.samples.double().mean()),
        "sequential_votes_median": float(found.samples.double().median()),
        "sequential_drawn_an_image": drawn / k,
        "certified_fixed_and_sequential": [int(fixed.sum()), int(found.certified.sum())],
        "verdicts_that_differ": int((fixed != found.certified).sum()),
        "undecided": int((~found.certified & ~found.refused).sum()),
        f"wide_{len(x)}": {
            "votes_an_image": float(wide.samples.double().mean()),
            "votes_median": float(wide.samples.double().median()),
            "drawn_an_image": (counted.asked - drawn) / len(x),
            "seconds_an_image": wide_seconds / len(x),
            "undecided": int((~wide.certified & ~wide.refused).sum()),
            "certified_and_right": int((wide.certified & (top == y)).sum()),
        },
    }


if __name__ == "__main__":
    main()
