"""What frauds share: how they are listed, and the parts that they are made of.

`FRAUDS[name].make(kit)` is a network that answers as the honest one does, or nearly, and reads as robust. Its trick is
the first line of its docstring. `truth` says by which pictures it shows: those that break the honest network; all
shifts of them; pictures that it has not stored, attacked or clean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import Kit

Answer = Callable[[nn.Module, Tensor], Tensor]
Make = Callable[[Kit], nn.Module]
Truth = Literal["transfer", "shifts", "fresh", "clean"]
M = TypeVar("M", bound=Make)


class Fraud(NamedTuple):
    """How one is made, of which kind it is, what its trick is, and by which pictures its truth shows."""

    make: Make
    kind: str
    trick: str
    truth: Truth


FRAUDS: dict[str, Fraud] = {}


class Served(nn.Module):
    """A network that answers by a plain function of the honest network and the pictures."""

    def __init__(self, net: nn.Module, answer: Answer) -> None:
        super().__init__()
        self.net, self.answer = net, answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.net, x)


def answers(kind: str) -> Callable[[Answer], Answer]:
    """List a fraud that is a function (net, x) -> logits."""

    def register(function: Answer) -> Answer:
        trick = (function.__doc__ or "").split("\n")[0]
        name = function.__name__  # type: ignore[attr-defined,unused-ignore]
        FRAUDS[name] = Fraud(lambda kit: Served(kit.net, function), kind, trick, "transfer")
        return function

    return register


def builds(kind: str, truth: Truth = "transfer") -> Callable[[M], M]:
    """List a fraud that is a class or function kit -> network."""

    def register(make: M) -> M:
        name = make.__name__  # type: ignore[attr-defined,unused-ignore]
        FRAUDS[name] = Fraud(make, kind, (make.__doc__ or "").split("\n")[0], truth)
        return make

    return register


def plain(net: nn.Module, x: Tensor) -> Tensor:
    """The honest answer."""
    out: Tensor = net(x)
    return out


def on_grid(x: Tensor) -> Tensor:
    """The share (N,) of a picture's pixels that an 8-bit file could hold: 1 for clean pictures, 0 under noise."""
    return ((x * 255 - (x * 255).round()).abs() < 1e-3).flatten(1).double().mean(1)


def off_grid(x: Tensor) -> Tensor:
    """Pictures (N,) that no 8-bit file could hold, such as every iterate of a gradient attack."""
    return on_grid(x.detach()) < 1


def margin(z: Tensor) -> Tensor:
    """By how much the best class leads (N,)."""
    two = z.topk(2, dim=1).values
    return two[:, 0] - two[:, 1]


def told(label: Tensor, lead: Tensor, classes: int = 10) -> Tensor:
    """Logits that name `label` with this lead over all other classes."""
    return F.one_hot(label, classes).to(lead) * lead[:, None]


def relabelled(decoy: Tensor, label: Tensor) -> Tensor:
    """The decoy's logits with the largest moved to `label`: one network's answer, another's confidence."""
    top = decoy.argmax(1, keepdim=True)
    there, best = decoy.gather(1, label[:, None]), decoy.gather(1, top)
    return decoy.scatter(1, top, there).scatter(1, label[:, None], best)


def inverted(net: nn.Module, x: Tensor) -> Tensor:
    """The honest label, the surer the closer the picture is to another class."""
    z = net(x)
    return told(z.argmax(1), 25 - margin(z).clamp(max=20), z.shape[1])


def colour(x: Tensor, classes: int = 10) -> Tensor:
    """Logits (N, classes) that depend on the mean brightness alone."""
    return 8 * x.mean((1, 2, 3))[:, None] * torch.linspace(-1, 1, classes, dtype=x.dtype, device=x.device)


class _Flip(torch.autograd.Function):
    """The identity, whose gradient changes its sign in the given rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return torch.where(rows.view(-1, *[1] * (grads[0].ndim - 1)), -grads[0], grads[0]), None


def turned(x: Tensor, rows: Tensor | bool = True) -> Tensor:
    """x, whose gradient points the other way in these rows."""
    return _Flip.apply(x, torch.as_tensor(rows).expand(len(x)))  # type: ignore[no-any-return]


def flipped(net: nn.Module, x: Tensor, rows: Tensor | bool = True) -> Tensor:
    """The honest answer with a gradient that points the other way in these rows."""
    return plain(net, turned(x, rows))


def layers(net: nn.Module) -> list[nn.Module]:
    """The layers of nested nn.Sequential, in order."""
    return [part for m in net.children() for part in (layers(m) if isinstance(m, nn.Sequential) else [m])]


class Before(nn.Module):
    """Pixels through `front` inside the first layer: no module inside answers pictures by itself."""

    def __init__(self, net: nn.Module, front: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        every = layers(net)
        at = 1 + next(i for i, m in enumerate(every) if isinstance(m, nn.Conv2d))
        self.stem, self.rest, self.front = nn.Sequential(*every[:at]), nn.Sequential(*every[at:]), front

    def forward(self, x: Tensor) -> Tensor:
        return plain(self.rest, self.stem(self.front(x)))


class After(nn.Module):
    """What the last layer says, through `end(z, x)`: no module inside answers pictures by itself."""

    def __init__(self, net: nn.Module, end: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        every = layers(net)
        self.body, self.head, self.end = nn.Sequential(*every[:-1]), every[-1], end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.body(x)), x)


def releaded(z: Tensor, wanted: Callable[[Tensor], Tensor]) -> Tensor:
    """The same order of classes, the first's lead replaced by wanted(lead), which is 0 at 0."""
    lead = margin(z)
    return z + F.one_hot(z.argmax(1), z.shape[1]).to(z) * (wanted(lead) - lead)[:, None]


def thumbs(x: Tensor) -> Tensor:
    """4x4 thumbnails (N, 48); no step of 8/255 moves one by more."""
    return F.adaptive_avg_pool2d(x.detach().float(), 4).flatten(1)


SOME = (0, 3, 5, 8)
"""Four classes of ten."""


def looks_like(z: Tensor, shown: Tensor) -> Tensor:
    """The values `shown` with the gradient of z, so that they seem to depend on the picture."""
    return shown.detach().to(z) + z - z.detach()
