"""Learning without labels: two views of a picture shall look alike (SimSiam, Chen and He, 2021, arXiv:2011.10566)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.methods.head import last_linear
from robustsuite.serve.data import in_unit

SCALE, JITTER, GREY = (0.2, 1.0), 0.4, 0.2
"""A crop's share of the picture, how far brightness, contrast and saturation move, and how often colour goes."""


def view(x: Tensor) -> Tensor:
    """A random view of each picture (N, C, H, W), differentiable: cropped, mirrored, its colours jittered or gone.

    Draws from the CPU's global state, which whoever calls has seeded, so that every device sees the same views.
    """
    n, drawn = len(x), torch.rand(8, len(x)).to(x)
    side = (SCALE[0] + (SCALE[1] - SCALE[0]) * drawn[0]).sqrt()
    theta = x.new_zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side * torch.where(drawn[1] < 0.5, -1, 1), side
    theta[:, :, 2] = ((1 - side) * (2 * drawn[2:4] - 1)).T
    x = functional.grid_sample(x, functional.affine_grid(theta, list(x.shape), align_corners=False),
                               padding_mode="border", align_corners=False)  # fmt: skip
    if x.shape[1] != 3:
        return x
    bright, contrast, colour = (1 + JITTER * (2 * drawn[4:7, :, None, None, None] - 1)).unbind()
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + contrast * (x - mean)) * bright
    grey = x.mean(1, keepdim=True)
    colour = torch.where(drawn[7].view(n, 1, 1, 1) < GREY, 0.0, colour)
    return grey + colour * (x - grey)


def last_layer(net: nn.Module, shape: tuple[int, ...]) -> nn.Linear:
    """The linear layer that is called last, of a network of such pictures (C, H, W). Raises as `last_linear` does."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    training = net.training
    with torch.no_grad():
        layer = last_linear(net.eval(), torch.full((1, *shape), 0.5, device=device)).layer
    net.train(training)
    return layer


def features(net: nn.Module, x: Tensor) -> Tensor:
    """What the last linear layer is handed (N, D), with its gradient."""
    return last_linear(net, x).entering.flatten(1)


def two_layers(before: int, hidden: int, after: int) -> list[nn.Module]:
    """A linear layer with batch norm and ReLU, and one without."""
    return [nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, after)]


class Siamese(nn.Module):
    """A network's features under a projector and a predictor."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        self.net, d = net, last_layer(net, shape).in_features
        self.projector = nn.Sequential(*two_layers(d, width, width), nn.BatchNorm1d(width, affine=False))
        self.predictor = nn.Sequential(*two_layers(width, width // 4, width))

    def forward(self, x: Tensor) -> Tensor:
        """Projections (N, D)."""
        projected: Tensor = self.projector(features(self.net, x))
        return projected

    def loss(self, x: Tensor) -> Tensor:
        """How unlike two views of pictures (N, C, H, W) are, in [-1, 1]: each from the other, which stands still."""
        first, second = self(torch.cat([view(x), view(x)])).chunk(2)
        return -(alike(self.predictor(first), second.detach()) + alike(self.predictor(second), first.detach())) / 2


def alike(a: Tensor, b: Tensor) -> Tensor:
    """The mean cosine between rows of a and b (N, D)."""
    return functional.cosine_similarity(a, b, dim=1).mean()


def probed(net: nn.Module, shape: tuple[int, ...], x: Tensor, y: Tensor, steps: int = 100) -> None:
    """Fit the last linear layer alone to features of pictures x (N, C, H, W), uint8 or float, and labels y (N,)."""
    head = last_layer(net, shape)
    with torch.no_grad():
        f = torch.cat([features(net, in_unit(part)) for part in x.split(512)])
    mean, deviation = f.mean(0), f.std(0).clamp_min(1e-6)
    weight = torch.zeros_like(head.weight).requires_grad_()
    bias = torch.zeros(len(weight), device=f.device).requires_grad_()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy((f - mean) / deviation @ weight.T + bias, y) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight / deviation)
        if head.bias is not None:
            head.bias.copy_(bias - head.weight @ mean)
