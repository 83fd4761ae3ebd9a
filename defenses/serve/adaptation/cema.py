"""CEMA: the edge uploads a few pictures, a larger network in the cloud teaches it by them (Chen et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.methods.adaptation.norms import adaptable, affine
from robustsuite.methods.adaptation.steps import Descent, diverse, entropy, margin, moved, sgd, step, sureness
from robustsuite.serve import stages
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Training, load_model, ready

WEIGHTS = (3.0, 3.0, 1.0)
"""Of the edge's losses: its entropy, the divergence from the teacher, the teacher's class."""

REPLAYED, FROM = 3, 8
"""Replayed pictures to each uploaded one, once there are so many to each."""


class Cema(nn.Module):
    """The edge answers; the cloud adapts its teacher by what is uploaded, and the edge by the teacher."""

    def __init__(
        self, net: nn.Module, teacher: nn.Module, low: float, high: float, different: float, batch: int, kept: int
    ) -> None:
        super().__init__()
        self.edge, self.cloud = adaptable(net), adaptable(teacher)
        self.low, self.high, self.different, self.batch, self.kept = low, high, different, batch, kept
        self.learns = Descent(self.edge, affine, sgd(2.5e-3))
        self.teaches = Descent(self.cloud, affine, sgd(2.5e-4))
        self.mean: Tensor | None = None
        self.waiting: list[Tensor] = []
        self.replay: list[Tensor] = []
        self.chosen = torch.zeros(0, dtype=torch.bool)

    def of_last(self) -> dict[str, Tensor]:
        """Which pictures (N,) of the last batch went to the cloud."""
        return {"uploaded": self.chosen}

    def standing(self, x: Tensor) -> Tensor:
        """What the edge would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.edge(x)
        return logits

    def uploads(self, logits: Tensor) -> Tensor:
        """Which pictures (N,) go to the cloud: neither sure nor hopeless, and answered otherwise than those before."""
        h, p = entropy(logits), logits.softmax(1)
        between = (h < margin(self.high, p.shape[1])) & (h > margin(self.low, p.shape[1]))
        chosen: Tensor = between & diverse(p, self.mean, self.different)
        self.mean = moved(self.mean, p[chosen])
        return chosen

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = self.edge(x)
            chosen = self.uploads(answer)
        self.chosen = chosen
        self.waiting += list(x.detach()[chosen])
        self.replay = [*self.replay, *x.detach()[chosen]][-self.kept :] if self.kept else []
        while len(self.waiting) >= self.batch:
            fresh, self.waiting = torch.stack(self.waiting[: self.batch]), self.waiting[self.batch :]
            with self.teaches.open() as optimiser:
                step(optimiser, _weighted(self.cloud(fresh), margin(self.high, answer.shape[1])))
            self.taught(fresh, margin(self.high, answer.shape[1]))
        return answer

    def taught(self, fresh: Tensor, limit: float) -> None:
        """One step of the edge on what was uploaded, and on some of what was before, under the teacher."""
        x = fresh
        if len(self.replay) >= FROM * self.batch:
            rows = torch.randperm(len(self.replay))[: REPLAYED * self.batch].tolist()
            x = torch.cat([fresh, torch.stack([self.replay[i] for i in rows])])
        with torch.no_grad():
            target = self.cloud(x)
            sure = sureness(entropy(target), limit)
        with self.learns.open() as optimiser:
            logits = self.edge(x)
            divergence = functional.kl_div(logits.log_softmax(1), target.softmax(1), reduction="none").sum(1)
            named = functional.cross_entropy(logits, target.argmax(1), reduction="none")
            alone, alike, same = WEIGHTS
            rest = (sure * (alike * divergence + same * named)).mean()
            step(optimiser, alone * _weighted(logits, limit) + rest)


def _weighted(logits: Tensor, limit: float) -> Tensor:
    h = entropy(logits)
    return (sureness(h, limit) * h).mean()


@stages.serve(
    paper="Chen et al., 2024, arXiv:2402.17316",
    adapts="stream",
    learns=True,
    splits=("train",),
    differs=(
        "the upper entropy stays where it is, as in the official configuration; the paper moves it with the stream",
        "a batch that completes no upload takes no step; the official code then learns from replayed pictures alone",
        "cosines as EATA has them for CIFAR-10: the paper is about ImageNet",
    ),
)
def cema(
    net: nn.Module, training: Training, *, teacher: str = "", low: float = 0.0, high: float = 0.4,
    different: float = 0.4, batch: int = 32, kept: int = 10000,
) -> nn.Module:  # fmt: skip
    """The network at the edge, taught by a larger one in the cloud from the pictures that it uploads.

    teacher: the larger network's model spec; a file that changes under its name is another system, so name it anew.
    low, high: entropies, as shares of the most, between which a picture is uploaded. different: cosine to the mean
    answer below which it is. batch: uploaded pictures of a step; kept: of those before, to replay. Raises BadValue.
    """
    if not teacher:
        raise BadValue("expected the model that teaches in the cloud, got none; write {cema: {teacher: "
                       "'checkpoint:FILE?arch=...'}}")  # fmt: skip
    with torch.no_grad():
        x = training.train.images(torch.arange(1))
        classes = net(x.to(training.device)).shape[1]
    found = load_model(teacher, InputSpace(x.shape[1], x.shape[2], x.shape[3], classes))
    return Cema(net, ready(found.net, training.device), low, high, different, batch, kept)
