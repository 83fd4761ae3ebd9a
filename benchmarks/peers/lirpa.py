"""Our certified bounds beside the figures documented by auto-LiRPA's and alpha-beta-CROWN's authors.

    python -m robustsuite.benchmarks.peers.lirpa FOLDER [--n 1000] [--method crown] [--model resnet2b] [--eps 2/255]

FOLDER holds models/*.safetensors and data/cifar10/cifar10_test8000_jpeg.npz. The documented figures are for all 10,000
original test pictures; ours are for the first n JPEG (quality 75) ones, so a few points of difference are the pictures.
"""

import argparse
import io
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from robustsuite.benchmarks.models import small_nets
from robustsuite.config.threats import Linf, parse_number
from robustsuite.defenses.certifiers.lirpa import METHODS, margin_bounds, predictions, verified
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Normalised

MODELS: dict[str, tuple[str, Callable[[InputSpace], nn.Module]]] = {
    "resnet2b": ("cifar10_resnet2b_adv2", small_nets.ARCHITECTURES["resnet2b"]),
    "cnn_a": ("cifar10_cnn_a_adv", small_nets.ARCHITECTURES["cnn_a"]),
    "oval_base": ("cifar10_oval_base", small_nets.ARCHITECTURES["cnn_base"]),
    "marabou_medium": ("cifar10_marabou_medium", small_nets.ARCHITECTURES["conv_medium"]),
}
# Verified % by plain CROWN, clean %, PGD %: alpha-beta-CROWN's documentation of the VNN-COMP 2021 ResNets.
DOCUMENTED = {("resnet2b", "2/255"): (26.88, 69.25, 54.82), ("resnet2b", "1/255"): (57.16, 69.25, 62.24)}


def pictures(folder: Path, n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures (n, 3, 32, 32) in [0, 1] and labels (n,)."""
    pack = np.load(folder / "data/cifar10/cifar10_test8000_jpeg.npz")
    offsets, blob = pack["offsets"], pack["jpeg"].tobytes()
    spans = list(pairwise(offsets))[:n]
    decoded = [np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB")) for a, b in spans]
    x = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().float() / 255
    return x, torch.from_numpy(pack["labels"][:n].astype("int64"))


def trained(folder: Path, name: str) -> nn.Module:
    """The published weights, normalisation in front."""
    file, build = MODELS[name]
    net = build(InputSpace(3, 32, 32, 10))
    with safe_open(folder / f"models/{file}.safetensors", "pt") as weights:
        front = {k: [float(v) for v in weights.metadata()[k].split(",")] for k in ("mean", "std")}
        net.load_state_dict({k: weights.get_tensor(k).float() for k in weights.keys()})  # noqa: SIM118
    return Normalised(net, front["mean"], front["std"]).eval()


def main() -> None:
    """Print one line: clean and verified accuracy, mean bound, seconds an image, and the documented figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--model", choices=MODELS, default="resnet2b")
    parser.add_argument("--method", choices=METHODS, default="crown")
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--mean-bound", action="store_true", help="bound every picture, not only those classified well")
    args = parser.parse_args()
    net, (x, y) = trained(args.folder, args.model), pictures(args.folder, args.n)
    ball, options = Linf(parse_number(args.eps)), {"method": args.method, "batch_size": args.batch_size}
    clean = (predictions(net, x) == y).float().mean() * 100
    start = time.perf_counter()
    if args.mean_bound:
        bounds = margin_bounds(net, x, y, ball, **options)
        result = f"mean margin bound {bounds.mean():.4f}"
    else:
        result = f"verified {verified(net, x, y, ball, **options).float().mean() * 100:.2f} %"
    seconds = time.perf_counter() - start
    print(
        f"{args.model} {ball} {args.method} n={len(x)}: clean {clean:.2f} %, {result}, {seconds / len(x):.3f} s/image"
    )
    if not args.mean_bound and args.method == "crown" and (args.model, args.eps) in DOCUMENTED:
        proven, right, pgd = DOCUMENTED[args.model, args.eps]
        print(f"  documented, 10,000 original pictures: clean {right} %, CROWN-verified {proven} %, PGD {pgd} %")


if __name__ == "__main__":
    main()
