"""ImageNet-C corruptions: time and statistics of ours beside the imagecorruptions package, one core, one process.

    taskset -c 0 python benchmarks/peers/corruptions.py [--peer-path CHECKOUT] [--images 8] [--side 224]

The peer (PyPI 1.1.2, or its git head through --peer-path) needs opencv-python-headless, scikit-image, imageio
and a setuptools that still has pkg_resources; its head also numba. Three names that newer numpy, scikit-image
and scipy dropped are supplied before it is imported; nothing of its arithmetic is changed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage
import torch

from robustsuite.benchmarks.shifts.engine import corrupt
from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA
from robustsuite.maths.randomness import Rng


def load_peer(path: str | None) -> Callable[..., np.ndarray]:
    """imagecorruptions.corrupt, with what current releases took away from under it."""
    if path:
        sys.path.insert(0, path)
    for name in ("float_", "float"):
        if not hasattr(np, name):
            setattr(np, name, np.float64)
    import skimage.filters

    plain = skimage.filters.gaussian

    def gaussian(image: np.ndarray, *args: Any, multichannel: bool = False, **rest: Any) -> np.ndarray:
        if multichannel:
            rest["channel_axis"] = -1
        return plain(image, *args, **rest)

    skimage.filters.gaussian = gaussian
    if "scipy.ndimage.interpolation" not in sys.modules:
        shim = types.ModuleType("scipy.ndimage.interpolation")
        shim.map_coordinates = scipy.ndimage.map_coordinates  # type: ignore[attr-defined]
        sys.modules["scipy.ndimage.interpolation"] = shim
    return importlib.import_module("imagecorruptions").corrupt  # type: ignore[no-any-return]


def blobs(number: int, side: int) -> torch.Tensor:
    """(N, 3, side, side) of smooth coloured noise on the 8-bit grid: photograph-like spectra, nothing to download."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side
    white = np.fft.rfft2(rng.standard_normal((number, 3, side, side)))
    image = np.fft.irfft2(white / f**1.2, s=(side, side))
    image = image[:, :1] + 0.3 * image
    image = 0.45 + 0.22 * image / image.std((1, 2, 3), keepdims=True)
    return torch.from_numpy((image.clip(0, 1) * 255).round() / 255).float()


def milliseconds(call: Callable[[], object], number: int, repeats: int) -> float:
    """The best of `repeats`, by image."""
    call()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best / number * 1e3


def compare(
    name: str, x: torch.Tensor, images: list[np.ndarray], peer: Callable[..., np.ndarray]
) -> tuple[np.ndarray, list[str]]:
    """Milliseconds an image (ours, peer), mean of severities, and how much both change an image."""
    rng = Rng.of(0, "peer", torch.arange(len(x)))
    cost, changes = np.zeros(2), []
    for severity in range(1, 6):
        ours = functools.partial(corrupt, name, x, severity, rng=rng)
        theirs = functools.partial(_each, peer, images, name, severity)
        cost += milliseconds(ours, len(x), 5), milliseconds(theirs, len(images), 2)
        gap = np.mean([np.abs(y.astype(float) - i).mean() for y, i in zip(theirs(), images, strict=True)])
        changes.append(f"{(ours() - x).abs().mean().item() * 255:5.1f} {gap:5.1f}")
    return cost / 5, changes


def _each(peer: Callable[..., np.ndarray], images: list[np.ndarray], name: str, severity: int) -> list[np.ndarray]:
    return [peer(image, corruption_name=name, severity=severity) for image in images]


def main() -> None:
    """Print a line for each corruption, then the sum of the fifteen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-path", help="a checkout of imagecorruptions to use instead of the installed one")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    peer = load_peer(args.peer_path)
    import cv2

    cv2.setNumThreads(1)
    x = blobs(args.images, args.side)
    images = [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in x]
    sums = np.zeros(2)
    print(f"{'ms per image, mean of severities':34}    ours     peer   ratio   mean |change| of 255 (ours, peer)")
    for name in CORRUPTIONS + EXTRA:
        cost, changes = compare(name, x, images[:2] if name == "glass_blur" and not args.peer_path else images, peer)
        sums += cost if name in CORRUPTIONS else 0
        print(f"{name:34}{cost[0]:8.2f}{cost[1]:9.2f}{cost[1] / cost[0]:8.1f}   {' | '.join(changes)}")
    print(f"{'sum of the fifteen':34}{sums[0]:8.2f}{sums[1]:9.2f}{sums[1] / sums[0]:8.1f}")


if __name__ == "__main__":
    main()
