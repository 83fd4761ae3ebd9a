"""Fine-pruning: channels asleep on clean pictures are cut, the rest fine-tuned (Liu et al., 2018, arXiv:1805.12185)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported
from robustsuite.methods.backdoors.detection import halves
from robustsuite.methods.backdoors.neurons import called
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, accuracy, fitted


def last_convolution(net: nn.Module, picture: Tensor) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """The last convolution called on a picture (1, C, H, W), and the batch norm called right after it, if one is."""
    seen = called(net, picture, nn.Conv2d, nn.BatchNorm2d)
    for i in range(len(seen) - 1, -1, -1):
        if isinstance(conv := seen[i], nn.Conv2d):
            after = seen[i + 1] if i + 1 < len(seen) else None
            return conv, after if isinstance(after, nn.BatchNorm2d) else None
    raise Unsupported("expected a network with a convolution, got none; fine-pruning cuts its channels")


@stages.harden(
    paper="Liu et al., 2018, arXiv:1805.12185",
    splits=("val",),
    differs=("clean pictures are the val split's: one half to rank and fine-tune on, the other to stop by",),
)
def fine_pruning(
    net: nn.Module, training: Training, *, tolerance: float = 0.1, lr: float = 0.01, epochs: int = 5
) -> nn.Module:
    """The last convolution's least active channels cut until val accuracy drops by `tolerance`, then fine-tuning.

    lr, epochs: of the fine-tuning on clean val pictures.
    """
    clean, rest = halves(training)
    device = training.device
    net = net.to(device)
    conv, norm = last_convolution(net, clean.images(torch.arange(1)).to(device))
    order = _activity(net, norm or conv, clean, device).argsort()
    before = accuracy(net, rest)
    parts = [p for m in (conv, norm) if m is not None for p in (m.weight, m.bias) if p is not None]
    with torch.no_grad():
        for channel in order[:-1].tolist():
            saved = [p[channel].clone() for p in parts]
            for p in parts:
                p[channel] = 0
            if accuracy(net, rest) < before - tolerance:
                for p, value in zip(parts, saved, strict=True):
                    p[channel] = value
                break
    own = Training(clean, rest, training.seed, device)
    return fitted(net, own, Recipe(epochs, lambda e: lr * (1 - e / epochs), batch=64))


def _activity(net: nn.Module, layer: nn.Module, clean: Split, device: str) -> Tensor:
    """Mean activation after ReLU (channels,) of a layer's output over clean pictures."""
    total: list[Tensor] = []
    handle = layer.register_forward_hook(lambda m, args, out: total.append(out.relu().mean((2, 3)).sum(0)))
    with torch.no_grad():
        for _, x, _ in clean.batches(256):
            net(x.to(device))
    handle.remove()
    return torch.stack(total).sum(0)
