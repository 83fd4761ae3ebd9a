"""A shallow network of prototypes, trained on the radius that it can prove (the certifier `prototypes` tells it).

Saralajew, Rana, Villmann, Shaker (2025, arXiv 2412.15499): components w_k in the pictures' own space, a few reasoning
concepts a class over them (`methods/prototypes.py` has the formulas), and the loss

    max(0, margin - R(x, y)),

R being the proven l2 radius of the true class, negative where it is not answered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.threats import parse_number
from robustsuite.errors import BadValue
from robustsuite.methods.prototypes import Parts, agreement, said, similarities
from robustsuite.methods.prototypes import margin as proven
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Reshaping, Training
from robustsuite.serve.training import Batch, Recipe, fitted


@stages.train(
    paper="Saralajew et al., 2025, arXiv:2412.15499",
    differs=(
        "one sigma is shared by all components, and distances are Euclidean: no squared and no tangent distances",
        "Adam's decoupled form without weight decay",
    ),
)
def prototype_network(
    fit: Fit,
    *,
    components: int = 20,
    concepts: int = 2,
    negative: bool = True,
    margin: float | str = 1.58,
    sigma: float = 58.0,
    epochs: int = 40,
    lr: float = 5e-3,
) -> Fit:
    """Train a network of prototypes instead of what the recipe returns, which is not looked at but for its classes.

    components: in all; concepts: of each class. negative: also argue by what is absent; without, it is an RBF network.
    margin: the l2 radius in [0, 1] pixels to prove, sigma: the first width of a similarity; both as published for
    28 x 28 digits. Raises BadValue. Source: arXiv 2412.15499.
    """
    wanted = parse_number(margin, "margin")
    if min(components, concepts, epochs) < 1 or min(wanted, sigma, lr) <= 0:
        raise BadValue(
            f"expected positive numbers for prototype_network, got {components=}, {concepts=}, {margin=}, {sigma=}, "
            f"{epochs=}, {lr=}; see robustsuite show prototype_network"
        )
    recipe = Recipe(epochs, lambda _: lr, batch=128, optimiser="adamw", weight_decay=0.0)

    def shape(net: nn.Module, training: Training) -> nn.Module:
        picture = training.train.images(torch.arange(1))
        with torch.no_grad():
            classes = net.cpu().eval()(picture).shape[1]
        return Prototypes(picture.numel(), classes, components, concepts, negative, sigma, training.seed)

    def objective(net: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(net, Prototypes)
        net.clip()  # after the step before
        parts = net.parts()
        return (wanted - proven(parts, similarities(parts, batch.x.float()), batch.y)).relu().mean()

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        found = fitted(shape(net, training), training, recipe, objective=objective)
        assert isinstance(found, Prototypes)
        found.clip()
        return found

    return Reshaping(tuned, shape)


class Prototypes(nn.Module):
    """(N, C, H, W) in [0, 1] -> sigma log of what each class says (N, classes): logits in the unit of a distance."""

    def __init__(
        self, values: int, classes: int, components: int, concepts: int, negative: bool, sigma: float, seed: int
    ) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.components = nn.Parameter(torch.rand(components, values, generator=draws) * 0.1 + 0.45)
        self.reasons = nn.Parameter(torch.randn((1 + negative) * components, classes * concepts, generator=draws))
        self.log_sigma = nn.Parameter(torch.tensor(sigma).log())
        self.each = concepts

    @torch.no_grad()
    def clip(self) -> None:
        """Components back into [0, 1]."""
        self.components.clamp_(0, 1)

    def parts(self) -> Parts:
        """The components, and how they argue."""
        share = self.reasons.softmax(0)
        k = len(self.components)
        positive = share[:k]
        negative = share[k:] if len(share) > k else torch.zeros_like(positive)
        return Parts(self.components, positive, negative, self.log_sigma.exp(), self.each)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts()
        return parts.sigma * said(parts, agreement(parts, similarities(parts, x))).log()
