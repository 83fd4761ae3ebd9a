"""Multi-resolution self-ensemble: one network sees a picture at many resolutions, and answers from many layers.

Fort, Lakshminarayanan (2024, arXiv 2408.05446), sections 3.1 and 3.3. For r = H, H/2, H/4, H/8 a picture's contrast is
changed, it is shifted, mixed with its grey, shrunk to r, made noisy, enlarged, made noisy and clipped; the results are
stacked as channels, drawn anew at each call. On the outputs of the network's blocks stand heads of batch norm and one
linear layer, trained while the network stays frozen. Called, it answers with the mean logits; the defense crossmax
joins its predictors otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.serve import stages
from robustsuite.serve.data import in_unit
from robustsuite.serve.models import Fit, Normalised, Reshaping, Training
from robustsuite.serve.oracle import feed
from robustsuite.serve.training import Recipe, fitted, held

CONTRAST, COLOUR, SHIFT, NOISE = (0.7, 1.5), (0.5, 1.0), 3, 0.2
BATCH, HEAD_BATCH = 128, 64
HEADS, LOWEST = 7, 0.4
"""At most 7 heads, over the upper six tenths of the blocks: blocks 20 ... 52 of 52 in the authors' code."""


@stages.train(
    paper="Fort, Lakshminarayanan, 2024, arXiv:2408.05446",
    stochastic=True,
    eot=10,
    differs=(
        "any network of any size; the authors enlarge pictures to 224 pixels for a ResNet-152",
        "it starts from what the recipe returns, the first convolution's weights shared out among the resolutions",
        "contrast and grey are drawn apart and the noise is Gaussian, as the paper says; the authors' code uses one "
        "number for both and uniform noise",
        "heads are trained with the network in eval mode, and all predictors see the same draw",
    ),
)
def self_ensemble(
    fit: Fit,
    *,
    resolutions: int = 4,
    epochs: int = 6,
    lr: float = 3.3e-5,
    head_epochs: int = 1,
    head_lr: float = 3.3e-5,
) -> Fit:
    """Fine-tune what the recipe returns on stacks of resolutions, then give its layers heads.

    resolutions: each half of the one before. lr, head_lr: Adam's rates, as published for a ResNet-152; small networks
    want 1e-3. Serve it by crossmax. Raises BadValue, Unsupported. Source: arXiv 2408.05446.
    """
    if min(resolutions, epochs, head_epochs) < 1 or min(lr, head_lr) <= 0:
        raise BadValue(f"expected positive numbers for self_ensemble, got {resolutions=}, {epochs=}, {lr=}, {head_lr=}")
    recipe = Recipe(epochs, lambda _: lr, batch=BATCH, optimiser="adamw", weight_decay=0.0)

    def shape(net: nn.Module, training: Training) -> nn.Module:
        return SelfEnsemble(net, training.train.images(torch.arange(1)), resolutions, training.seed)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        ensemble = SelfEnsemble(fit(net, training), training.train.images(torch.arange(1)), resolutions, training.seed)
        body = fitted(nn.Sequential(ensemble.stack, ensemble.backbone), training, recipe, perturb=fresh)
        _, ensemble.backbone = body.children()
        train_heads(ensemble.to(training.device), training, head_epochs, head_lr)
        return ensemble

    return Reshaping(tuned, shape)


class Stack(nn.Module):
    """(B, C, H, W) in [0, 1] -> (B, R C, H, W) in [0, 1]. rng: one stream a picture, set before each call."""

    def __init__(self, resolutions: int) -> None:
        super().__init__()
        self.resolutions = resolutions
        self.rng: Rng | None = None

    def forward(self, x: Tensor) -> Tensor:
        rng, self.rng = self.rng, None  # streams are for one batch: a call without any must not reuse another's
        if rng is None or len(rng) != len(x):
            rng = Rng.of(0, "self_ensemble", torch.zeros(len(x), dtype=torch.int64))
        rng = rng.to(x.device)
        return torch.cat([at_resolution(x, 2**level, rng.fold(level)) for level in range(self.resolutions)], 1)


def at_resolution(x: Tensor, shrink: int, rng: Rng) -> Tensor:
    """The pictures (B, C, H, W) as seen with H / shrink rows, in [0, 1]; every picture by its own stream."""
    channels, height, width = x.shape[1:]
    small, whole = (max(1, height // shrink), max(1, width // shrink)), (height, width)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + rng.fold("contrast").uniform(1, 1, 1, low=CONTRAST[0], high=CONTRAST[1]).to(x) * (x - mean)
    x = rolled(x, rng.fold("shift").integers(2 * SHIFT + 1, 2) - SHIFT)
    colour = rng.fold("colour").uniform(1, 1, 1, low=COLOUR[0], high=COLOUR[1]).to(x)
    x = colour * x + (1 - colour) * x.mean(1, keepdim=True)
    x = functional.interpolate(x, small, mode="bicubic") + NOISE * rng.fold("below").normal(channels, *small).to(x)
    x = functional.interpolate(x, whole, mode="bicubic") + NOISE * rng.fold("above").normal(channels, *whole).to(x)
    return torch.where(x < 0, 0.0, torch.where(x > 1, 1.0, x))  # not a clamp: its gradient at the bounds is 0


def rolled(x: Tensor, by: Tensor) -> Tensor:
    """Pictures (B, C, H, W) shifted down and right by `by` (B, 2) pixels, each its own; what leaves comes in again."""
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device) - by[:, :1]) % height
    columns = (torch.arange(width, device=x.device) - by[:, 1:]) % width
    each = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()


class SelfEnsemble(nn.Module):
    """A network behind a stack, with heads on its blocks; takes a copy of `net`."""

    def __init__(self, net: nn.Module, picture: Tensor, resolutions: int, seed: int) -> None:
        super().__init__()
        self.stack = Stack(resolutions)
        self.backbone = widened(copy.deepcopy(net).cpu(), picture.shape[1], resolutions).eval()
        self.places = blocks(self.backbone)
        with torch.no_grad(), torch.random.fork_rng([]):
            torch.manual_seed(seed)
            *features, logits = self.features(picture.cpu())
            sizes = [f.shape[1] for f in features]
            heads = [nn.Sequential(nn.BatchNorm1d(n), nn.Linear(n, logits.shape[1])) for n in sizes]
        self.heads = nn.ModuleList(heads).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """The flattened outputs (B, D) of the blocks, and last the network's own logits (B, K)."""
        with watched(self.backbone, self.places) as seen:
            logits = self.backbone(self.stack(x))
        return [*(seen[place].flatten(1) for place in self.places), logits]

    def predictors(self, x: Tensor) -> Tensor:
        """Logits of every head and, last, of the network itself (B, N, K), all over the same stack."""
        *features, logits = self.features(x)
        return torch.stack([*(head(f) for head, f in zip(self.heads, features, strict=True)), logits], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Their mean (B, K)."""
        return self.predictors(x).mean(1)


def fresh(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
    """Hand every stack new streams for this batch; the pictures stay."""
    feed(net, Rng(torch.randint(1 << 62, (len(x),), generator=generator, device=x.device)))
    return x


def train_heads(ensemble: SelfEnsemble, training: Training, epochs: int, lr: float) -> None:
    """Cross-entropy of every head, the network frozen and in eval mode."""
    pictures, y = held(training.train, training.device)
    order = torch.Generator().manual_seed(training.seed)
    noise = torch.Generator(training.device).manual_seed(training.seed)
    optimiser = torch.optim.Adam(ensemble.heads.requires_grad_().parameters(), lr)
    ensemble.eval().heads.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=order).split(HEAD_BATCH):
            if len(rows) == 1 < len(y):  # batch norm cannot learn from one
                continue
            x = pictures[rows.to(y.device)]
            x = fresh(ensemble, in_unit(x), y, noise, 0.0)
            with torch.no_grad():
                features = ensemble.features(x)
            answers = [head(f) for head, f in zip(ensemble.heads, features[:-1], strict=True)]
            loss = torch.stack([functional.cross_entropy(z, y[rows.to(y.device)]) for z in answers]).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    ensemble.eval().requires_grad_(False)


def widened(net: nn.Module, channels: int, resolutions: int) -> nn.Module:
    """The network for stacks, in place: its first convolution takes every resolution, with the weight shared out."""
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == channels and conv.groups == 1:
            conv.weight = nn.Parameter(conv.weight.detach().repeat(1, resolutions, 1, 1) / resolutions)
            conv.in_channels *= resolutions
            break
    else:
        raise Unsupported(f"expected a convolution of {channels} channels for self_ensemble, got a network without one")
    for module in net.modules():
        if isinstance(module, Normalised):
            module.mean, module.std = (t.repeat(1, resolutions, 1, 1) for t in (module.mean, module.std))
    return net


def blocks(net: nn.Module) -> list[str]:
    """Where the heads stand: outputs of residual or other blocks, of convolutions where there are too few blocks."""
    wrappers = [n for n, m in net.named_modules() if isinstance(m, Normalised)]
    whole = {"", *wrappers, *(f"{n}.net".lstrip(".") for n in wrappers)}

    def block(name: str, module: nn.Module) -> bool:
        layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())
        return layers > 1 and name not in whole and not isinstance(module, nn.Sequential)

    found = [n for n, m in net.named_modules() if block(n, m)]
    names = [n for n in found if not any(other.startswith(f"{n}.") for other in found)]
    if len(names) < 2:
        names = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    spread = torch.linspace(LOWEST * (len(names) - 1), len(names) - 1, HEADS).round().int().tolist()
    return names if len(names) <= HEADS else [names[i] for i in sorted(set(spread))]


@contextmanager
def watched(net: nn.Module, places: list[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of these modules during the calls inside."""
    seen: dict[str, Tensor] = {}

    def keep(place: str) -> object:
        return net.get_submodule(place).register_forward_hook(lambda module, given, out: seen.update({place: out}))

    handles = [keep(place) for place in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
