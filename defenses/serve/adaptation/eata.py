"""EATA: entropy of the sure and the different alone, and nothing far from the source (Niu et al., arXiv:2204.02610)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from robustsuite.methods.adaptation.norms import adaptable, affine
from robustsuite.methods.adaptation.steps import (
    Descent,
    adam,
    diverse,
    entropy,
    gradient,
    margin,
    moved,
    step,
    sureness,
)
from robustsuite.serve import stages
from robustsuite.serve.models import Training


class Eata(nn.Module):
    """TENT on the pictures it selects, weighted, under a penalty for moving what mattered on training pictures."""

    fisher: Tensor
    source: Tensor

    def __init__(self, net: nn.Module, lr: float, limit: float, different: float, penalty: float) -> None:
        super().__init__()
        self.net = adaptable(net)
        self.descent = Descent(self.net, affine, adam(lr))
        self.limit, self.different, self.penalty = limit, different, penalty
        flat = parameters_to_vector(self.descent.params).detach()
        self.register_buffer("source", flat.clone())
        self.register_buffer("fisher", torch.zeros_like(flat))
        self.mean: Tensor | None = None
        self.chosen = torch.zeros(0, dtype=torch.bool)

    def of_last(self) -> dict[str, Tensor]:
        """Which pictures (N,) of the last batch it learnt from."""
        return {"selected": self.chosen}

    def standing(self, x: Tensor) -> Tensor:
        """What it would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.net(x)
        return logits

    def selected(self, logits: Tensor) -> Tensor:
        """Which pictures (N,) are sure, and answered otherwise than the mean of those selected before."""
        with torch.no_grad():
            sure = entropy(logits) < margin(self.limit, logits.shape[1])
            chosen: Tensor = sure & diverse(logits.softmax(1), self.mean, self.different)
            self.mean = moved(self.mean, logits.softmax(1)[chosen])
        return chosen

    def forward(self, x: Tensor) -> Tensor:
        with self.descent.open() as optimiser:
            logits: Tensor = self.net(x)
            chosen = self.selected(logits)
            self.chosen = chosen
            if bool(chosen.any()):
                h = entropy(logits)[chosen]
                loss = (sureness(h, margin(self.limit, logits.shape[1])) * h).mean()
                away = parameters_to_vector(self.descent.params) - self.source
                step(optimiser, loss + self.penalty * (self.fisher * away**2).sum())
        return logits.detach()

    def weighed(self, training: Training, samples: int, batch: int) -> Eata:
        """The same with the diagonal Fisher information of its own answers on training pictures, batch by batch."""
        order = torch.randperm(len(training.train), generator=torch.Generator().manual_seed(training.seed))[:samples]
        parts, total = order.split(batch), torch.zeros_like(self.fisher)
        for rows in parts:
            with self.descent.open() as optimiser:
                logits = self.net(training.train.images(rows).to(total.device))
                gradient(optimiser, functional.cross_entropy(logits, logits.argmax(1)))
                total += parameters_to_vector([p.grad for p in self.descent.params if p.grad is not None]) ** 2
        self.fisher.copy_(total / len(parts))
        return self


def unweighed(net: nn.Module, training: Training, *, lr: float, limit: float, different: float, penalty: float,
              **_: object) -> Eata:  # fmt: skip
    """The adapting network before it has seen training pictures."""
    return Eata(net, lr, limit, different, penalty).to(training.device)


@stages.serve(
    paper="Niu et al., 2022, arXiv:2204.02610",
    adapts="stream",
    learns=True,
    splits=("train",),
    shape=unweighed,
    differs=(
        "Adam at 1e-3 as in the code of later comparisons, where the authors' takes SGD",
        "the Fisher information squares the gradient of a batch's mean, as the authors' code does",
    ),
)
def eata(
    net: nn.Module, training: Training, *, lr: float = 1e-3, limit: float = 0.4, different: float = 0.4,
    penalty: float = 1.0, samples: int = 2000, batch: int = 200,
) -> nn.Module:  # fmt: skip
    """TENT on sure and different pictures, kept near the source by what mattered there.

    limit: entropy, as a share of the most, below which a picture is sure. different: cosine to the mean answer below
    which it is. penalty: of the squared distance, by the Fisher information of `samples` training pictures in batches
    of `batch`; 0 leaves it out. Raises Unsupported for a network without norm layers.
    """
    given = {"lr": lr, "limit": limit, "different": different, "penalty": penalty}
    return unweighed(net, training, **given).weighed(training, samples, batch)
