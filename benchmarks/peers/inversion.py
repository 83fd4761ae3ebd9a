"""Gradient inversion on CIFAR-10: every attack against every share-stage defense; IG and DLG beside `breaching`.

    python benchmarks/peers/inversion.py --shared FOLDER table [--batch 4] [--images 4] [--evaluations 200] [--width 8]
    python benchmarks/peers/inversion.py --shared FOLDER peer --code CHECKOUT [--images 4] [--evaluations 300]

FOLDER holds data/cifar10/*.npz. The victim is a ResNet-18 for 32 x 32 pictures (four stages of two basic blocks), its
first stage `width` filters wide, in eval mode; --weights FILE takes a trained torchvision ResNet-18 in its place.
CHECKOUT is a copy of github.com/JonasGeiping/breaching: both sides get the same gradients, starts, TV weight and number
of gradient evaluations. --png FILE draws originals and reconstructions. PSNR: mean over the pictures, in dB.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.attacks.inversion.dlg import dlg
from robustsuite.attacks.inversion.gias import gias
from robustsuite.attacks.inversion.gifd import gifd
from robustsuite.attacks.inversion.gradinversion import gradinversion
from robustsuite.attacks.inversion.inverting_gradients import inverting_gradients
from robustsuite.benchmarks.models.checkpoint import checkpoint
from robustsuite.benchmarks.models.small_nets import CifarResNet
from robustsuite.config.threats import Update
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.gradient_matching import Observed, Recovered
from robustsuite.methods.federated.image_quality import matched, psnr, ssim
from robustsuite.methods.federated.updates import Client
from robustsuite.scenarios.inversion import observed
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Dataset, InputSpace, Split, load_data
from robustsuite.serve.models import Normalised
from robustsuite.serve.stages import Applied, applied
from robustsuite.serve.training import untrained

SPACE = InputSpace(3, 32, 32, 10)
MEAN, STD = (0.5,) * 3, (0.25,) * 3
DEFENSES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}), ("gradient_noise", {"std": 0.01}), ("gradient_clipping", {"bound": 0.5}),
    ("gradient_sparsification", {"share": 0.9}), ("soteria", {"share": 0.8}),
]  # fmt: skip


def victim(width: int, weights: str = "") -> nn.Module:
    """The network of the round over [0, 1] pictures."""
    if weights:
        return checkpoint(weights, SPACE, arch="resnet18_cifar").net
    return untrained(Normalised(CifarResNet(SPACE, 2, [width * 2**i for i in range(4)]), MEAN, STD), 0)


def sigmoid_net() -> nn.Module:
    """A LeNet with sigmoids, as DLG was shown on: three 5x5 convolutions of 12 filters; weights uniform in +-1/2."""
    convolutions = [nn.Conv2d(a, 12, 5, stride, 2) for a, stride in ((3, 2), (12, 2), (12, 1))]
    layers = [module for convolution in convolutions for module in (convolution, nn.Sigmoid())]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.rand(p.shape, generator=generator) - 0.5)
    return Normalised(net, MEAN, STD)


def scored(x: Tensor, y: Tensor, found: Recovered) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PSNR and SSIM of each picture, which labels are right, and the matched reconstructions (N, C, H, W)."""
    order = matched(x, found.x.nan_to_num(0.5))
    rows = torch.arange(len(x))[:, None]
    x_hat = found.x.nan_to_num(0.5)[rows, order].flatten(0, 1)
    right = (found.y[rows, order] == y).flatten()
    return psnr(x.flatten(0, 1), x_hat), ssim(x.flatten(0, 1), x_hat), right, x_hat


def table(given: argparse.Namespace, data: Dataset, pictures: Split) -> None:
    """One row a defense: PSNR, SSIM and labels of IG, GradInversion, GIAS and GIFD at equal gradient evaluations."""
    x = pictures.images(torch.arange(len(pictures))).view(-1, given.batch, *SPACE.shape)
    y, n = pictures.y.view(-1, given.batch), given.evaluations
    aux = Aux(data.split("val"), lambda spec: nn.Identity())
    attacks: dict[str, Callable[[Observed, Rng], Recovered]] = {
        "IG": lambda s, r: inverting_gradients(s, rng=r, iterations=n, tv=given.tv),
        "GradInversion": lambda s, r: gradinversion(s, rng=r, iterations=n, restarts=1, tv=given.tv),
        "GIAS": lambda s, r: gias(s, rng=r, aux=aux, iterations=n // 2, restarts=1, epochs=given.epochs),
        "GIFD": lambda s, r: gifd(s, rng=r, aux=aux, iterations=n // 5, restarts=1, epochs=given.epochs),
    }
    client = Client(
        victim(given.width, given.weights), Update(given.batch, mode=given.mode, trained=bool(given.weights))
    )
    drawn = [x.flatten(0, 1)]
    kind = f"trained, {Path(given.weights).stem}" if given.weights else f"untrained, width {given.width}"
    print(f"ResNet-18 {kind}, {client.size} parameters, batch {given.batch}, {len(pictures)} pictures, "
          f"{n} evaluations, BN {given.mode}, tv {given.tv:g}: PSNR dB / SSIM / labels / processor s")  # fmt: skip
    for name, parameters in [d for d in DEFENSES if given.only in d[0]]:
        share: list[Applied] = [] if name == "none" else [applied(name, parameters)]
        cells = []
        for word, attack in attacks.items():
            rng = Rng.of(0, f"bench/{word}", torch.arange(len(x)))
            started = time.process_time()
            seen = observed(client, x, y, share, Rng.of(0, "share", torch.arange(len(x))))
            db, similar, right, x_hat = scored(x, y, attack(seen, rng))
            seconds = time.process_time() - started
            cells.append(f"{word} {db.mean():5.2f} / {similar.mean():.2f} / {right.float().mean():.0%} / {seconds:.0f}")
            if name in ("none", "gradient_noise"):
                drawn.append(x_hat)
        print(f"{name:24}", "   ".join(cells), flush=True)
    draw(drawn, given.png)


def peer(given: argparse.Namespace, data: Dataset, pictures: Split) -> None:
    """IG on the ResNet and DLG on a sigmoid LeNet, ours and the peer's, on the same gradients from the same starts."""
    x = pictures.images(torch.arange(len(pictures))).view(-1, given.batch, *SPACE.shape)
    y = pictures.y.view(-1, given.batch)
    rng, n = Rng.of(0, "peer", torch.arange(len(x))), given.evaluations
    drawn = [x.flatten(0, 1)]
    jobs: list[tuple[str, nn.Module, Callable[[Observed], Recovered]]] = [
        ("IG", victim(given.width), lambda s: inverting_gradients(s, rng=rng, iterations=n, tv=given.tv)),
        ("DLG", sigmoid_net(), lambda s: dlg(s, rng=rng, iterations=n)),
    ]
    for name, net, ours in jobs:
        client = Client(net, Update(given.batch, trained=False))
        seen = observed(client, x, y, [], rng)
        for side, run in (("ours", lambda s, f=ours: f(s)), ("peer", lambda s, m=name: theirs(s, m, given, rng))):
            wall = cpu = 1e9
            for _ in range(given.repeats):
                started, busy = time.perf_counter(), time.process_time()
                found = run(seen)
                wall, cpu = min(wall, time.perf_counter() - started), min(cpu, time.process_time() - busy)
            db, similar, right, x_hat = scored(x, y, found)
            drawn.append(x_hat)
            print(f"{name} {side}: PSNR mean {db.mean():.2f} median {db.median():.2f} dB, SSIM {similar.mean():.3f}, "
                  f"labels {right.float().mean():.0%}, {wall:.1f} s, processor {cpu:.1f} s", flush=True)  # fmt: skip
    draw(drawn, given.png)


def theirs(seen: Observed, method: str, given: argparse.Namespace, rng: Rng) -> Recovered:
    """The peer's attack, client by client, from the starts that ours draws."""
    attacks = _breaching(given.code)
    inner = copy.deepcopy(seen.client.net.net).requires_grad_()
    metadata = _config(
        shape=seen.shape[1:], mean=MEAN, std=STD, modality="vision", task="classification", classes=10,
        num_data_points=seen.shape[0], labels=None, local_hyperparams=None,
    )  # fmt: skip
    payload = [{"parameters": list(inner.parameters()), "buffers": list(inner.buffers()), "metadata": metadata}]
    optim = _config(
        optimizer="adam", signed="hard", step_size=0.1, boxed=True, step_size_decay="step-lr", warmup=0,
        max_iterations=given.evaluations, callback=10**9, langevin_noise=0.0, grad_clip=None,
    )  # fmt: skip
    cfg = _config(
        type=method, attack_type="optimization", label_strategy="bias-corrected", normalize_gradients=False,
        text_strategy=None, token_recovery=None, init="randn", differentiable_augmentations=False, augmentations=None,
        impl=_config(dtype="float", mixed_precision=False, JIT=""), optim=optim,
        objective=_config(type="cosine-similarity", scale=1.0, task_regularization=0.0),
        restarts=_config(num_trials=1, scoring="cosine-similarity"),
        regularization=_config(total_variation=_config(scale=given.tv, inner_exp=1, outer_exp=1)),
    )  # fmt: skip
    if method == "DLG":
        cfg.update(attack_type="joint-optimization", label_strategy=None, regularization=None)
        cfg["objective"]["type"] = cfg["restarts"]["scoring"] = "euclidean"
        optim.update(optimizer="l-bfgs", signed=None, step_size=1.0, boxed=False, step_size_decay=None,
                     max_iterations=given.evaluations // 20)  # fmt: skip
    starts = (rng if method == "IG" else rng.fold("u")).fold(0).normal(*seen.shape)
    soft = rng.fold("y").fold(0).normal(seen.shape[0], 10)
    pictures, labels = [], []
    for t in range(len(seen)):
        torch.manual_seed(t)
        attacker = attacks.prepare_attack(inner, nn.CrossEntropyLoss(), cfg)
        gradients = [seen.update[f"net.{k}"][t] for k, _ in inner.named_parameters()]
        shared = [{"gradients": gradients, "buffers": None, "metadata": metadata}]
        if method == "DLG":
            first = attacker._initialize_data
            attacker._initialize_data = lambda shape, t=t, first=first: (
                soft[t].clone().requires_grad_() if len(shape) == 2 else first(shape)
            )
        start = starts[t].clamp(-2, 2) if method == "IG" else starts[t]
        found, _ = attacker.reconstruct(payload, shared, {}, initial_data=start)
        pictures.append((0.5 + 0.25 * found["data"]).clamp(0, 1))
        y = found["labels"]
        labels.append(y.argmax(-1) if y.dim() == 2 else y)
    return Recovered(torch.stack(pictures).detach(), torch.stack(labels))


class _Config(dict[str, Any]):
    """A dict whose keys are attributes as well, as the peer's configuration objects are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def _config(**values: Any) -> _Config:
    return _Config(values)


def _breaching(code: Path) -> Any:
    """The peer's attacks alone: its cases would ask for packages that no attack here needs."""
    if "breaching" not in sys.modules:
        for name in ("breaching", "breaching.cases", "breaching.cases.models"):
            package = types.ModuleType(name)
            package.__path__ = [str(code / name.replace(".", "/"))]
            sys.modules[name] = package
    import importlib

    return importlib.import_module("breaching.attacks")


def draw(rows: list[Tensor], png: str) -> None:
    """Originals in the first row, each method's reconstructions below."""
    if not png:
        return
    from torchvision.utils import save_image

    save_image(torch.cat(rows), png, nrow=len(rows[0]), padding=1)


def main() -> None:
    """Print the table or the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("table", "peer"))
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--code", type=Path, default=Path("."))
    parser.add_argument("--weights", default="")
    parser.add_argument("--png", default="")
    parser.add_argument("--mode", default="eval")
    parser.add_argument("--only", default="", help="defenses whose name holds this")
    for name, value in {"batch": 1, "images": 4, "evaluations": 200, "width": 8, "repeats": 1, "epochs": 15}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tv", type=float, default=0.02)
    given = parser.parse_args()
    data, split = load_data({"cifar10": {"root": str(given.shared / "data/cifar10"), "pack": "jpeg"}})
    {"table": table, "peer": peer}[given.part](given, data, split.first(given.images))


if __name__ == "__main__":
    main()
