"""What is honest raises no flag while it is attacked: networks of the field, and defenses that say what they do."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from robustsuite.app.api import evaluate
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine.runner import Runner
from robustsuite.scenarios.cell import Cell
from robustsuite.serve import stages
from robustsuite.serve.data import InputSpace, Subjects, load_data
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, load_model, ready, weights_sha256
from robustsuite.serve.stages import Applied, applied
from tests.frauds import honest
from tests.nets import Noised

DIGITS = digits()
TEST = DIGITS.split("test").first(96)
ATTACKS: dict[str, dict[str, Any]] = {"pgd": {"steps": 10}, "apgd": {"steps": 10}, "square": {"steps": 50}}


@stages.serve(stochastic=True, eot=20, surrogate=lambda base, served: base)
def noised(net: nn.Module) -> nn.Module:
    """Input noise, declared as such."""
    return Noised(net, 0.1)


class Compressed(nn.Module):
    """Pictures saved as JPEG and read again: no gradient passes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.stack([_jpeg(one) for one in x.detach()]).to(x))  # type: ignore[no-any-return]


def _jpeg(x: Tensor) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((x[0] * 255).round().byte().numpy()).save(file, "JPEG", quality=90)
    return torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255)[None]


@stages.serve(hides=Access.GRADIENTS, surrogate=lambda base, served: base)
def compressed(net: nn.Module) -> nn.Module:
    """JPEG in front of the network, attacked through the network behind it (BPDA)."""
    return Compressed(net)


class Mean(nn.Module):
    """The mean logits of three networks."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(0)


def perturbed(seed: int) -> nn.Module:
    """The adversarially trained network with other weights."""
    streams = torch.Generator().manual_seed(seed)
    net = ready(honest(adversarial=True))
    weights = {k: v * (1 + 0.05 * torch.randn(v.shape, generator=streams)) if v.is_floating_point() else v
               for k, v in net.state_dict().items()}  # fmt: skip
    twin = copy.deepcopy(net)
    twin.load_state_dict(weights)
    return twin  # type: ignore[no-any-return]


def flagged(net: nn.Module, defense: Applied | None, attack: str) -> set[str]:
    """The flags of one attack on the digits, those for weak attacks aside."""
    model = Model("net", ready(net), DIGITS.space, weights_sha256(net))
    data = replace(DIGITS, splits={**DIGITS.splits, "test": TEST})
    card = card_of("attack", attack)
    cycle = Lifecycle(model, data, (defense,) if defense else ())
    cell = Cell("honest", cycle, Subjects(TEST), Threat("t", "evasion", Access.WHITE_BOX, Linf(0.1)), card,
                tuple(sorted(ATTACKS[attack].items())))  # fmt: skip
    facts, _ = Runner(64).played(cell)
    return {flag.name for flag in facts["flags"]}


SYSTEMS: dict[str, Any] = {
    "plain": lambda: (honest(), None),
    "adversarially trained, batch norm in eval mode": lambda: (honest(adversarial=True), None),
    "three networks": lambda: (Mean([perturbed(i) for i in range(3)]), None),
    "noise, declared": lambda: (honest(adversarial=True), Applied(noised.card)),  # type: ignore[attr-defined]
    "jpeg": lambda: (honest(adversarial=True), Applied(compressed.card)),  # type: ignore[attr-defined]
    "detector": lambda: (honest(adversarial=True), applied("scaleup", {"fpr": 0.1})),
    "smoothing": lambda: (honest(adversarial=True), applied("randomized_smoothing", {"sigma": 0.1, "n": 32})),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_an_honest_system_raises_no_flag_under_attack(system: str, attack: str) -> None:
    assert flagged(*SYSTEMS[system](), attack) == set()


CIFAR = {
    "2c2f": "cnn_2c2f", "cnn_a_adv": "cnn_a", "cnn_a_adv4": "cnn_a", "cnn_a_mix4": "cnn_a",
    "conv_small_pgd": "conv_small", "kw_small_8px": "cnn_a", "kw_small_l2_36px": "cnn_a", "marabou_large": "conv_large",
    "marabou_medium": "conv_medium", "oval_base": "cnn_base", "oval_wide": "cnn_a", "resnet20": "cifar_resnet20",
    "resnet2b_adv2": "resnet2b", "resnet4b_adv2": "resnet4b", "vit_pgd_2_3_16": "small_vit",
}  # fmt: skip
MNIST = {
    "fashion_mnist_kw_small": "cnn_a", "mnist_cnn_a_adv": "cnn_a", "mnist_kw_small_0.1": "cnn_a",
    "mnist_kw_small_0.3": "cnn_a", "mnist_lenet5_adv": "lenet5", "mnist_lenet5_clean": "lenet5",
}  # fmt: skip


@pytest.mark.parametrize("name", [*CIFAR, *MNIST])
def test_a_published_network_raises_no_flag_under_attack(shared: Path, name: str) -> None:
    if name in CIFAR:
        root = str(shared / "data" / "cifar10")
        _, split = load_data({"cifar10": {"root": root, "pack": "lossless", "first": 48}})
        x, y, eps = split.images(torch.arange(48)), split.y, 8 / 255
        spec = f"checkpoint:{shared}/models/cifar10_{name}.safetensors?arch={CIFAR[name]}"
        net = load_model(spec, InputSpace(3, 32, 32, 10)).net
    else:
        kind = "fashion_mnist" if "fashion" in name else "mnist"
        pack = np.load(shared / "data" / kind / f"{kind}_test8000.npz")
        x, y, eps = torch.from_numpy(pack["images"][:48])[:, None], pack["labels"][:48], 0.2
        spec = f"checkpoint:{shared}/models/{name}.safetensors?arch={MNIST[name]}"
        net = load_model(spec, InputSpace(1, 28, 28, 10)).net
    for attack in ("pgd", "apgd"):
        found = evaluate(net, x, y, attack=attack, budget=Linf(eps), steps=10)
        assert {flag.name for flag in found.flags} <= {"weak_alone", "one_family"}  # of any one attack alone
