"""One training loop for every recipe: batches from a split in memory, a learning rate that follows the epochs.

Everything random comes from `Training.seed`; the global random states are left as they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Split, in_unit
from robustsuite.serve.models import Training

Rate = Callable[[float], float]
"""Learning rate after `epoch` epochs, a fraction such as 2.25 inside the third one."""

Perturb = Callable[[nn.Module, Tensor, Tensor, torch.Generator, float], Tensor]
"""(network, x (N, C, H, W), y (N,), generator, epoch as a fraction) -> the pictures to train on."""


class Batch(NamedTuple):
    """What one step is about: pictures x (N, C, H, W), labels y (N,), their rows (N,) in the train split; the generator
    of all noise, and the epoch as a fraction.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    noise: torch.Generator
    epoch: float


Objective = Callable[[nn.Module, Batch], Tensor]
"""(network in train mode, batch) -> the mean loss to go down."""

EPOCHS = "epochs"
"""The finding that a watched training keeps: its val accuracy after each epoch."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. crop: pixels of zero padding before a random crop back to size (0: none)."""

    epochs: int
    rate: Rate
    batch: int = 128
    optimiser: str = "sgd"
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    flip: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise BadValue(f"expected epochs >= 1 and batch >= 1, got {self.epochs!r} and {self.batch!r}; write 10")
        if self.optimiser not in OPTIMISERS:
            raise BadValue(f"expected an optimiser of {', '.join(OPTIMISERS)}, got {self.optimiser!r}; use sgd")


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.0, momentum=0.9, nesterov=True),
    "heavy_ball": partial(torch.optim.SGD, lr=0.0, momentum=0.9),
    "plain": partial(torch.optim.SGD, lr=0.0),
    "adamw": partial(torch.optim.AdamW, lr=0.0),
}
"""sgd: Nesterov's momentum of 0.9; heavy_ball: the same without looking ahead; plain: SGD without momentum."""


def half_cosine(peak: float, epochs: int) -> Rate:
    """From the peak down to 0."""
    return lambda epoch: 0.5 * peak * (1 + math.cos(math.pi * epoch / epochs))


def thirds(lr: float, epochs: int) -> Rate:
    """lr, lr / 10, lr / 100, a third of the epochs each (Cohen et al., 2019, arXiv 1902.02918)."""
    return lambda epoch: float(lr * 0.1 ** math.floor(3 * epoch / epochs + 1e-9))


def one_cycle(peak: float, epochs: int, warmup: float = 0.25) -> Rate:
    """Up linearly for the share `warmup`, then down by a half cosine to 0 (Smith & Topin, 2018, arXiv 1708.07120)."""

    def rate(epoch: float) -> float:
        t = epoch / epochs
        return peak * (t / warmup if t < warmup else 0.5 * (1 + math.cos(math.pi * (t - warmup) / (1 - warmup))))

    return rate


@dataclass(frozen=True)
class FromScratch:
    """A model's recipe whose parts can be read, so that many networks of it can be trained at once.

    build: () -> the network, its weights drawn from the global random state.
    """

    build: Callable[[], nn.Module]
    steps: Recipe

    def fresh(self, seed: int) -> nn.Module:
        """The network that this seed starts from."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build()

    def __call__(self, net: nn.Module, training: Training) -> nn.Module:
        return fitted(self.fresh(training.seed), training, self.steps)


def fitted(
    net: nn.Module,
    training: Training,
    recipe: Recipe,
    *,
    perturb: Perturb | None = None,
    objective: Objective | None = None,
    select: Callable[[nn.Module, Split], float] | None = None,
    after: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """A trained copy of `net`, in eval mode on `training.device`; `net` itself is left alone.

    perturb: changes every batch before the step, and is handed the network in train mode.
    objective: the loss of what `perturb` returns; left out, the cross-entropy under the recipe's label smoothing.
    select: a score of (network in eval mode, training.val); the epoch with the highest is kept, else the last.
    after: is shown the network in eval mode after each epoch.
    bfloat16 autocast on CUDA only; every other device computes in float32.
    Raises BadData for an empty train split, BadValue where the loss stops being finite.
    """
    if not len(training.train):
        raise BadData("expected at least one training picture, got an empty train split; choose another split")
    device = torch.device(training.device)
    net = _copied(net, device)
    descended = objective or partial(_cross_entropy, recipe.label_smoothing)
    pictures, y = held(training.train, device)
    optimiser = OPTIMISERS[recipe.optimiser](net.parameters(), weight_decay=recipe.weight_decay)
    with seeded(training.seed, device):  # layers such as dropout draw from the global state
        order = torch.Generator().manual_seed(training.seed)
        noise = torch.Generator(device).manual_seed(training.seed)
        best: tuple[float, dict[str, Tensor]] | None = None
        seen: list[float] = []
        for epoch in range(recipe.epochs):
            net.train()
            losses = []
            for done, at, x in _shuffled(pictures, recipe, order):
                labels = y[at]
                x = training.train.augment(x, noise) if training.train.augment else x
                with precision(device):
                    x = perturb(net, x, labels, noise, epoch + done) if perturb else x
                    loss = descended(net, Batch(x, labels, at, noise, epoch + done))
                descend(loss, optimiser, recipe.rate(epoch + done))
                losses.append(loss.detach())
            mean = finite(losses, epoch)
            net.eval()
            if training.watch:
                seen.append(accuracy(net, training.val))
            if after:
                after(net)
            score = select(net, training.val) if select else None
            training.tell(_line(epoch, recipe, mean, score))
            if score is not None and (best is None or score > best[0]):
                best = score, copy.deepcopy(net.state_dict())
    if seen:
        rows = [[epoch + 1, value] for epoch, value in enumerate(seen)]
        table = {"columns": ["epoch", "val accuracy"], "rows": rows}
        training.keep(EPOCHS, {"title": "Clean val accuracy, epoch by epoch", "table": table})
    if best:
        net.load_state_dict(best[1])
    # Back from channels last: weights read from a file are not in it, and the same bits have to come out.
    return net.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def _cross_entropy(label_smoothing: float, net: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(net(batch.x).float(), batch.y, label_smoothing=label_smoothing)


def accuracy(net: nn.Module, split: Split, batch: int = 512) -> float:
    """Share of right answers in [0, 1], on the network's own device; raises BadData for an empty split."""
    if not len(split):
        raise BadData("expected at least one picture to score on, got an empty split; give the data set a val split")
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with torch.no_grad():
        right = [(net(x.to(device)).argmax(1).cpu() == y).sum() for _, x, y in split.batches(batch)]
    return int(torch.stack(right).sum()) / len(split)


def held(split: Split, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """A whole split in memory: pictures (N, C, H, W), as uint8 where that loses nothing, and labels (N,)."""
    parts = [x for _, x, _ in split.batches(4096)]
    as_bytes = [(x * 255).round().to(torch.uint8) for x in parts]
    exact = all(torch.equal(b.float() / 255, x) for b, x in zip(as_bytes, parts, strict=True))
    return torch.cat(as_bytes if exact else parts).to(device), split.y.to(device)


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Iterator[None]:
    """Whatever draws from the global states, of the CPU and this device, draws from this seed inside; after it they
    stand where they stood.
    """
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def full_batches(
    split: Split, device: torch.device | str, *, epochs: int, size: int, seed: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(epoch, x (B, C, H, W), y (B,)) in a new order each epoch; what does not fill a batch is left out of the epoch.

    size: at most; a smaller split is one batch, and nothing comes of an empty one. seed: of the order; None draws it
    from the CPU's global state, which whoever calls has seeded.
    """
    pictures, y = held(split, device) if len(split) else (torch.empty(0), split.y)
    order, size = None if seed is None else torch.Generator().manual_seed(seed), min(size, len(y))
    for epoch in range(epochs if size else 0):
        for rows in torch.randperm(len(y), generator=order).split(size):
            if len(rows) == size:
                rows = rows.to(y.device)
                yield epoch, in_unit(pictures[rows]), y[rows]


def augmented(x: Tensor, recipe: Recipe, order: torch.Generator) -> Tensor:
    """Pictures (N, C, H, W) with the recipe's random flips and crops, each picture its own."""
    n, _, height, width = x.shape
    if recipe.crop:
        pad = recipe.crop
        top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=order).to(x.device)
        rows = (top + torch.arange(height, device=x.device))[:, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None, :]
        padded = functional.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        x = padded[torch.arange(n, device=x.device)[:, None, None], rows, columns].permute(0, 3, 1, 2)
    if recipe.flip:
        mirrored = torch.randint(2, (n, 1, 1, 1), generator=order).bool().to(x.device)
        x = torch.where(mirrored, x.flip(3), x)
    return x


def _shuffled(pictures: Tensor, recipe: Recipe, order: torch.Generator) -> Iterator[tuple[float, Tensor, Tensor]]:
    """(share of the epoch done, positions, x) a batch, in a new order."""
    size = min(recipe.batch, len(pictures))
    batches = torch.randperm(len(pictures), generator=order).split(size)
    if len(batches[-1]) < size:  # a last batch of one or two would spoil batch norm's statistics
        batches = batches[:-1]
    for i, positions in enumerate(batches):
        rows = positions.to(pictures.device)
        x = augmented(in_unit(pictures[rows]), recipe, order).contiguous(memory_format=torch.channels_last)
        yield i / len(batches), rows, x


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One step down this loss at this rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on CUDA, nothing elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _copied(net: nn.Module, device: torch.device) -> nn.Module:
    net = copy.deepcopy(net).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for p in net.parameters():
        p.requires_grad_(p.is_floating_point())
    return net


def finite(losses: list[Tensor], epoch: int) -> float:
    """The mean loss of an epoch; raises BadValue where it is not finite."""
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise BadValue(f"expected a finite training loss, got {loss!r} in epoch {epoch + 1}; lower the learning rate")
    return loss


def _line(epoch: int, recipe: Recipe, loss: float, score: float | None) -> str:
    chosen = "" if score is None else f", val score {score:.4f}"
    return f"epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}{chosen}"


def untrained(net: nn.Module, seed: int) -> nn.Module:
    """A copy with freshly drawn weights, each layer's by its own rule; parameters without one get 0.02 N(0, 1)."""
    fresh = copy.deepcopy(net)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                parameter.copy_(0.02 * torch.randn(parameter.shape))
    return fresh
