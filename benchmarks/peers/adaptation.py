"""Test-time adaptation: ours beside the public suite test-time-adaptation, on the same net and stream, image by image.

    python benchmarks/peers/adaptation.py --code FOLDER [--shared FOLDER] [--out FOLDER] [--n 400]

FOLDER is a checkout of github.com/mariodoebler/test-time-adaptation; nothing of it is kept. Its methods run as they
are; what they import of data sets and model zoos is replaced, by this net and these training pictures. Without draws
(TENT, EATA without its penalty, SAR, CoTTA that neither looks at other views nor restores) both are to answer alike but
for rounding. With draws (CoTTA, RoTTA, RMT) both draw for themselves, and errors are held against each other in pairs.
RoTTA of the public suite raises without mixed precision (it hands its loss an argument too much); here it takes one.
Three corruptions at severity 5 one after the other, n JPEG test pictures of CIFAR-10 each, batches of 200, resnet20,
one thread. Results are kept in `--out`, a file a method, and found again.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustsuite.benchmarks.peers.kept import kept
from robustsuite.benchmarks.shifts.sets import imagenet_c
from robustsuite.config.registry import card_of
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.methods.adaptation.heads import with_features
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.models import Training, load_model, ready
from robustsuite.serve.system import Session, System

SPACE, BATCH = InputSpace(3, 32, 32, 10), 200
CORRUPTIONS = ["gaussian_noise", "fog", "jpeg_compression"]

METHODS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "tent": ("tent", "Tent", {}, {}),
    "eata, no penalty": ("eata", "EATA", {"penalty": 0.0, "samples": 200}, {"EATA.FISHER_ALPHA": 0.0}),
    "sar": ("sar", "SAR", {}, {}),
    "cotta, no draws": ("cotta", "CoTTA", {"confident": 0.0, "restored": 0.0},
                        {"COTTA.AP": 0.0, "COTTA.RST": 0.0}),
    "cotta, 8 views": ("cotta", "CoTTA", {"views": 8}, {"TEST.N_AUGMENTATIONS": 8}),
    "rotta": ("rotta", "RoTTA", {}, {}),
    "rmt, warmed by 4000": ("rmt", "RMT", {"samples": 4000}, {"RMT.NUM_SAMPLES_WARM_UP": 4000}),
}  # fmt: skip
"""Name -> ours, theirs, our parameters, theirs."""

Inputs = tuple[nn.Module, list[tuple[Tensor, Tensor]], Training]


def inputs(folder: Path, n: int) -> Inputs:
    """The net, the stream's batches, and training pictures."""
    spec = f"checkpoint:{folder}/models/cifar10_resnet20.safetensors?arch=cifar_resnet20"
    data, split = load_data({"cifar10": {"root": str(folder / "data/cifar10"), "first": n, "train": 10000}})
    made = imagenet_c(split, data, seed=0, corruptions=CORRUPTIONS, severities=5)
    batches = [(x, y) for part in made.variants.values() for _, x, y in part.batches(BATCH)]
    net = ready(load_model(spec, SPACE).net)
    return net, batches, Training(data.split("train"), data.split("val"), 0)


def ours(name: str, given: dict[str, Any], net: nn.Module, stream: list[tuple[Tensor, Tensor]],
         training: Training) -> list[Tensor]:  # fmt: skip
    """Logits of each batch."""
    card = card_of("defense", name)
    made = card.function(*((net, training) if card.learns else (net,)), **given)
    session = Session.of(System(ready(made), SPACE, adapts=True))
    return [session.answer(x, Rng.of(0, f"peer/{i}", torch.arange(len(x)))) for i, (x, _) in enumerate(stream)]


class Encoder(nn.Module):
    """What the last linear layer of a network sees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return with_features(self.net, x)[1]


def config(changed: dict[str, Any], scratch: str) -> types.SimpleNamespace:
    """Their configuration for CIFAR-10-C, with some values changed."""
    told: dict[str, Any] = {
        "MODEL.EPISODIC": False, "MODEL.RESET_AFTER_NUM_UPDATES": 0, "MODEL.ARCH": "Standard", "MODEL.CKPT_PATH": "",
        "MODEL.ADAPTATION": "", "CORRUPTION.DATASET": "cifar10_c", "MIXED_PRECISION": False, "DATA_DIR": "",
        "CKPT_DIR": scratch, "TEST.BATCH_SIZE": BATCH, "TEST.WINDOW_LENGTH": 1, "TEST.N_AUGMENTATIONS": 32,
        "OPTIM.STEPS": 1, "OPTIM.METHOD": "Adam", "OPTIM.LR": 1e-3, "OPTIM.BETA": 0.9, "OPTIM.WD": 0.0,
        "OPTIM.MOMENTUM": 0.9, "M_TEACHER.MOMENTUM": 0.999, "COTTA.RST": 0.01, "COTTA.AP": 0.92,
        "EATA.MARGIN_E0": 0.4, "EATA.D_MARGIN": 0.4, "EATA.FISHER_ALPHA": 1.0, "SAR.RESET_CONSTANT_EM": 0.2,
        "SOURCE.NUM_SAMPLES": -1, "SOURCE.PERCENTAGE": 1.0, "SOURCE.NUM_WORKERS": 0, "CONTRAST.MODE": "all",
        "CONTRAST.TEMPERATURE": 0.1, "CONTRAST.PROJECTION_DIM": 128, "RMT.LAMBDA_CE_SRC": 1.0,
        "RMT.LAMBDA_CE_TRG": 1.0, "RMT.LAMBDA_CONT": 1.0, "RMT.NUM_SAMPLES_WARM_UP": 50000, "ROTTA.MEMORY_SIZE": 64,
        "ROTTA.UPDATE_FREQUENCY": 64, "ROTTA.NU": 0.001, "ROTTA.ALPHA": 0.05, "ROTTA.LAMBDA_T": 1.0,
        "ROTTA.LAMBDA_U": 1.0, **changed,
    }  # fmt: skip
    found = types.SimpleNamespace()
    for key, value in told.items():
        *path, last = key.split(".")
        inner = found
        for part in path:
            inner.__dict__.setdefault(part, types.SimpleNamespace())
            inner = getattr(inner, part)
        setattr(inner, last, value)
    return found


def packages(code: Path, training: Training) -> Callable[[str], Any]:
    """Their modules by name, without the data sets and zoos that these import."""
    for name in ("methods", "utils", "augmentations", "datasets", "models"):
        package = types.ModuleType(name)
        package.__path__ = [str(code / "classification" / name)]
        sys.modules[name] = package
    x = training.train.images(torch.arange(len(training.train)))
    source = DataLoader(TensorDataset(x, training.train.y), batch_size=BATCH, shuffle=True, drop_last=True)
    models, loading = types.ModuleType("models.model"), types.ModuleType("datasets.data_loading")
    models.ResNetDomainNet126 = type("ResNetDomainNet126", (), {})  # type: ignore[attr-defined]
    models.split_up_model = lambda net, *_: (Encoder(net), last_linear(net))  # type: ignore[attr-defined]
    loading.get_source_loader = lambda **_: (None, source)  # type: ignore[attr-defined]
    sys.modules |= {"models.model": models, "datasets.data_loading": loading}
    return lambda name: importlib.import_module(f"methods.{name}")


def last_linear(net: nn.Module) -> nn.Module:
    """The last linear layer by its place."""
    return [m for m in net.modules() if isinstance(m, nn.Linear)][-1]


def theirs(named: str, cls: str, changed: dict[str, Any], net: nn.Module, stream: list[tuple[Tensor, Tensor]],
           load: Callable[[str], Any]) -> list[Tensor]:  # fmt: skip
    """Logits of each batch, as their method answers."""

    made = getattr(load(named), cls)
    if cls == "RoTTA" and not hasattr(made, "bare"):
        made.bare = made.loss_calculation
        made.loss_calculation = lambda self, x=None: self.bare()
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
        torch.manual_seed(0)
        model = copy.deepcopy(net)
        model.model_preprocess = None  # type: ignore[assignment]
        method = made(config(changed, scratch), model, SPACE.classes)
        return [method(x).detach() for x, _ in stream]


def compared(name: str, given: Inputs, load: Callable[[str], Any]) -> dict[str, Any]:
    """Both on the stream: how far logits are apart, errors, and which pictures one alone gets wrong."""
    named, cls, own, changed = METHODS[name]
    net, stream, training = given
    mine, other = ours(named, own, net, stream, training), theirs(named, cls, changed, net, stream, load)
    y = torch.cat([labels for _, labels in stream])
    a, b = (torch.cat(logits) for logits in (mine, other))
    far = (a - b).abs().amax(1)
    return {"apart": float(far.max()), "scale": float(b.abs().max()), "first": float(far[:BATCH].max()),
            "ours": (a.argmax(1) != y).tolist(), "theirs": (b.argmax(1) != y).tolist()}  # fmt: skip


def main() -> None:
    """Each method in turn, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--code", type=Path, required=True, help="a checkout of test-time-adaptation")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("adaptation-peers"))
    parser.add_argument("--n", type=int, default=400, help="pictures of each corruption")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    given = inputs(asked.shared, asked.n)
    load = packages(asked.code, given[2])
    for name in asked.methods:
        file = asked.out / f"{name.replace(', ', '_').replace(' ', '_')}-{asked.n}.json"
        found = kept(file, lambda name=name: compared(name, given, load))
        a, b = (torch.tensor(found[key]).numpy() for key in ("ours", "theirs"))
        difference = a.astype(float) - b

        def mean(rows: Any, difference: Any = difference) -> float:
            return float(difference[rows].mean())

        lo, hi = stats.resampled_interval(mean, len(a), 0)
        print(f"{name}: {len(a)} pictures; error ours {a.mean():.1%}, theirs {b.mean():.1%}, difference "
              f"{100 * difference.mean():+.1f} points ({100 * lo:+.1f} to {100 * hi:+.1f}); answers right in one alone "
              f"{int((a != b).sum())}; logits apart by {found['apart']:.1e} of {found['scale']:.1f}, in the first "
              f"batch {found['first']:.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
