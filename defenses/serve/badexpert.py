"""BaDExpert: an expert that knows the backdoor alone tells who uses it (Xie et al., 2024, arXiv:2308.12439).

Fine-tuning on wrong labels makes the network forget the task and keep the backdoor (the expert); fine-tuning on right
ones weakens the backdoor and keeps the task (the auxiliary). A picture on whose class the expert agrees and the
auxiliary does not is rejected.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.methods.backdoors.detection import Detector, halves, undetected
from robustsuite.serve import stages
from robustsuite.serve.data import Split, in_unit
from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, accuracy, fitted, held


class Triangle(nn.Module):
    """-min(steep v / u, (1 - u) / max(corner - v, 0)); u, v: expert's and auxiliary's confidence in what `net` says."""

    def __init__(self, expert: nn.Module, auxiliary: nn.Module, steep: float, corner: float) -> None:
        super().__init__()
        self.expert, self.auxiliary = expert, auxiliary
        self.steep, self.corner = steep, corner

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        said = net(x).argmax(1, keepdim=True)
        u, v = (asked(x).softmax(1).gather(1, said).squeeze(1) for asked in (self.expert, self.auxiliary))
        return -torch.minimum(self.steep * v / u.clamp_min(1e-8), (1 - u) / (self.corner - v).clamp_min(1e-8))


def untaught(net: nn.Module, training: Training, *, steep: float, corner: float, **_: object) -> Detector:
    """The detector before its nets have learnt."""
    expert, auxiliary = copy.deepcopy(net), copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    return Detector(net, Triangle(expert, auxiliary, steep, corner))


@stages.serve(
    paper="Xie et al., 2024, arXiv:2308.12439, sections 3.1-3.3",
    learns=True,
    splits=("val",),
    shape=untaught,
    surrogate=undetected,
    rejects=True,
    differs=(
        "clean pictures, early stopping and threshold come from val; the official code takes them from the test set",
        "the expert's epochs go on until it has forgotten the task, at most `epochs`: one is enough for large nets",
    ),
)
def badexpert(
    net: nn.Module, training: Training, *, fpr: float = 0.01, lr: float = 1e-4, forget: float = 0.2, epochs: int = 20,
    auxiliary_lr: float = 0.1, auxiliary_epochs: int = 10, steep: float = 2.0, corner: float = 0.5,
) -> nn.Module:  # fmt: skip
    """The network with BaDExpert in front: inputs that only the backdoor explains are rejected.

    fpr: share of clean val pictures rejected. lr, epochs: of the expert, which stops at the val accuracy `forget`.
    auxiliary_lr, auxiliary_epochs: of the auxiliary's clean fine-tuning. steep, corner: the triangle's sides (2, 0.5
    for ResNets).
    """
    clean, rest = halves(training)
    expert = forgetful(net, clean, rest, training, lr=lr, forget=forget, epochs=epochs)
    fifth = auxiliary_epochs / 5
    drops = Recipe(auxiliary_epochs, lambda epoch: auxiliary_lr * 0.1 ** int(epoch / fifth), batch=64)
    own = Training(clean, rest, training.seed, training.device)
    auxiliary = fitted(copy.deepcopy(net), own, drops)
    return Detector(net, Triangle(expert, auxiliary, steep, corner)).calibrated(rest, fpr, training.device)


def forgetful(
    net: nn.Module, clean: Split, rest: Split, training: Training, *, lr: float, forget: float, epochs: int
) -> nn.Module:
    """The backdoor expert: Adam on clean pictures under the next class's label until accuracy on `rest` < forget."""
    expert = copy.deepcopy(net).to(training.device).requires_grad_(True)
    x, y = held(clean, training.device)
    order = torch.Generator().manual_seed(training.seed)
    optimiser = torch.optim.Adam(expert.parameters(), lr=lr)
    with torch.no_grad():
        classes = expert(x[:1].float()).shape[1]
    for _ in range(epochs):
        expert.train()
        for rows in torch.randperm(len(y), generator=order).split(128):
            if len(rows) < 2:
                continue
            optimiser.zero_grad()
            functional.cross_entropy(expert(in_unit(x[rows])), (y[rows] + 1) % classes).backward()
            optimiser.step()
        if accuracy(expert.eval(), rest) < forget:
            break
    return expert.eval().requires_grad_(False)
