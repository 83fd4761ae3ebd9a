"""RMT: a mean teacher, symmetric, contrastive, fed with the source (Döbler et al., 2023, arXiv:2211.13081)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import Unsupported
from robustsuite.methods.adaptation.heads import contrasted, with_features
from robustsuite.methods.adaptation.norms import adaptable
from robustsuite.methods.adaptation.steps import Descent, adam, follow, step, symmetric_cross_entropy, whole
from robustsuite.methods.adaptation.views import viewed
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training

PROJECTED, TEMPERATURE = 128, 0.1
"""Of the contrastive loss: sides of the space it compares in, and what its cosines are divided by."""


class Rmt(nn.Module):
    """Student and teacher answer together, by the sum of their logits."""

    prototypes: Tensor

    def __init__(
        self, net: nn.Module, source: Split, classes: int, lr: float, momentum: float, replay: float, contrast: float
    ) -> None:
        super().__init__()
        self.student = adaptable(net)
        self.teacher = copy.deepcopy(self.student)
        self.train_split, self.lr, self.momentum = source, lr, momentum
        self.replay, self.contrast = replay, contrast
        with torch.no_grad():
            sides = with_features(self.student, source.images(torch.arange(2)).to(_device(net)))[1].shape[1]
        self.projector = nn.Sequential(nn.Linear(sides, PROJECTED), nn.ReLU(), nn.Linear(PROJECTED, PROJECTED))
        self.register_buffer("prototypes", torch.zeros(classes, sides))
        self.descent = Descent(nn.ModuleList([self.student, self.projector]), whole, adam(lr))

    def standing(self, x: Tensor) -> Tensor:
        """What both would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.student(x) + self.teacher(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target: Tensor = self.teacher(x)
        with self.descent.open() as optimiser:
            logits, features = with_features(self.student, x)
            other, others = with_features(self.student, viewed(x))
            loss = 0.5 * symmetric_cross_entropy(logits, target) + 0.5 * symmetric_cross_entropy(other, target)
            loss = loss.mean() + self.contrast * self.compared(features, others)
            if self.replay:
                rows = torch.randint(len(self.train_split), (len(x),))
                seen = self.student(self.train_split.images(rows).to(x.device))
                loss = loss + self.replay * functional.cross_entropy(seen, self.train_split.y[rows].to(x.device))
            step(optimiser, loss)
        follow(self.teacher, self.student, self.momentum)
        return logits.detach() + target

    def compared(self, features: Tensor, others: Tensor) -> Tensor:
        """The contrastive loss of each picture's two views and the source's prototype that is nearest to it."""
        with torch.no_grad():
            nearest = torch.cosine_similarity(features[:, None], self.prototypes[None], dim=2).argmax(1)
        parts = torch.stack([self.prototypes[nearest], features, others], 1)
        return contrasted(self.projector(parts), TEMPERATURE)

    def warmed(self, training: Training, samples: int, batch: int) -> Rmt:
        """The same with prototypes of the source, and both nets brought to its batch statistics, rates rising to lr."""
        split, device = self.train_split, self.prototypes.device
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(training.seed))
        total, count = torch.zeros_like(self.prototypes), torch.zeros(len(self.prototypes), 1, device=device)
        with torch.no_grad():
            for rows in order.split(batch):
                features = with_features(self.student, split.images(rows).to(device))[1]
                y = split.y[rows].to(device)
                total.index_add_(0, y, features)
                count.index_add_(0, y, torch.ones(len(y), 1, device=device))
        self.prototypes.copy_(total / count.clamp_min(1))
        steps = samples // batch
        for done in range(steps):
            start = done * batch % len(split)
            x = split.images(order[start : start + batch]).to(device)
            with torch.no_grad():
                target = self.teacher(x)
            with self.descent.open() as optimiser:
                for group in optimiser.param_groups:
                    group["lr"] = self.lr * (done + 1) / steps
                step(optimiser, symmetric_cross_entropy(self.student(x), target).mean())
            follow(self.teacher, self.student, self.momentum)
        self.descent.afresh()
        return self


def _device(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def cold(net: nn.Module, training: Training, *, lr: float, momentum: float, replay: float, contrast: float,
         **_: object) -> Rmt:  # fmt: skip
    """Student and teacher before the warm-up."""
    if not len(training.train):
        raise Unsupported("expected training pictures that the network is warmed up and fed with, got none")
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(training.seed)  # the projector's first weights
        classes = net(training.train.images(torch.arange(2)).to(_device(net))).shape[1]
        return Rmt(net, training.train, classes, lr, momentum, replay, contrast).to(training.device)


@stages.serve(
    paper="Döbler et al., 2023, arXiv:2211.13081",
    adapts="stream",
    learns=True,
    splits=("train",),
    shape=cold,
    differs=(
        "Adam starts anew after the warm-up, where the official code keeps its moments",
        "replayed pictures are drawn with replacement, the official code goes through the train set in order",
    ),
)
def rmt(
    net: nn.Module, training: Training, *, lr: float = 1e-3, momentum: float = 0.999, replay: float = 1.0,
    contrast: float = 1.0, samples: int = 50000, batch: int = 200,
) -> nn.Module:  # fmt: skip
    """A student taught by its moving mean under a symmetric loss, two views of a picture and a prototype kept alike.

    momentum: of the teacher. replay, contrast: weights of the cross-entropy on training pictures and of the contrastive
    loss. samples, batch: of the warm-up on training pictures. Raises Unsupported for a network without norm layers or
    without a last linear layer.
    """
    given = {"lr": lr, "momentum": momentum, "replay": replay, "contrast": contrast}
    return cold(net, training, **given).warmed(training, samples, batch)
