"""Images a second into a network, ours and torchvision's ImageFolder with a DataLoader, on the same files in one run.

    python benchmarks/peers/loader.py [--root FOLDER] [--shift fog:3] [--device cuda]

Both resize the shorter side to 256, crop 224 and hand float tensors in [0, 1] over on the device. Without --root, a
folder of 1000 JPEG files of 400 x 300 is written first. With --shift ours corrupts on the device as well, which
torchvision has no counterpart for, so that its figure stays that of the clean pictures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from robustsuite.benchmarks.datasets.folders import imagefolder
from robustsuite.benchmarks.shifts.sets import imagenet_c
from robustsuite.serve.data import Split


def ours(split: Split, batch: int, device: str) -> float:
    """Images a second through Split.batches."""
    start, n = time.perf_counter(), 0
    for _, x, _ in split.batches(batch, device):
        n += len(x)
        x.mean()
    _wait(device)
    return n / (time.perf_counter() - start)


def theirs(root: Path, batch: int, workers: int, device: str) -> float:
    """Images a second through ImageFolder and a DataLoader, its workers started beforehand."""
    steps = [v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    folder = ImageFolder(str(root), v2.Compose(steps), allow_empty=True)
    loader = DataLoader(
        folder, batch, num_workers=workers, persistent_workers=workers > 0, pin_memory=device.startswith("cuda")
    )
    for _ in loader if workers else ():
        break
    start, n = time.perf_counter(), 0
    for x, _ in loader:
        n += len(x.to(device))
    _wait(device)
    return n / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def written(root: Path, n: int) -> Path:
    """n JPEG files of 400 x 300 in ten class folders."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        file = root / "test" / f"class{i % 10}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC).save(file, quality=90)
    return root


def main() -> None:
    """Median of three interleaved rounds each, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, help="a folder of [test/]class/picture")
    parser.add_argument("--n", type=int, default=1000, help="files written without --root")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--shift", default="", help="corruption:severity made on the device by ours")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = given.root or written(Path(scratch), given.n)
        data = imagefolder(root=str(root))
        split = data.split("test")
        if given.shift:
            name, _, severity = given.shift.partition(":")
            made = imagenet_c(split, data, seed=0, corruptions=[name], severities=[int(severity)])
            split = next(iter(made.variants.values()))
        below = root / "test" if (root / "test").is_dir() else root
        rounds = [
            (ours(split, given.batch, given.device), theirs(below, given.batch, given.workers, given.device))
            for _ in range(3)
        ]
    mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{len(split)} pictures, batches of {given.batch}, {given.workers} workers, {given.device} {given.shift}")
    print(f"ours {mine:.0f} images/s, ImageFolder + DataLoader {other:.0f} images/s, ratio {mine / other:.2f}")


if __name__ == "__main__":
    main()
