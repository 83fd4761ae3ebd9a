"""How attacks that cheat are listed: what each is granted, what it takes, what a cheat may build on.

`gain` is "reads" (gradients, queries), measured at 4/255, where white-box PGD leaves few and honest noise most; or
"writes", at 0.5/255, where PGD leaves most, so that a low reading is a forged one. Cheats carry cards and stand in no
package that is searched for plugins: they are registered by whoever measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.scenarios import evasion

Attack = Callable[..., Any]
Gain = Literal["reads", "writes"]
READS, WRITES = 4 / 255, 0.5 / 255


class Cheat(NamedTuple):
    """An attack, what it is granted and takes, its trick, and how many questions a picture it may ask."""

    attack: Attack
    granted: Access
    gain: Gain
    trick: str
    queries: int | None


CHEATS: dict[str, Cheat] = {}


def cheat(granted: Access, gain: Gain, queries: int | None = None) -> Callable[[Attack], Attack]:
    """List a cheat: (model, x, y, budget, *, rng) -> x_adv."""

    def register(function: Attack) -> Attack:
        carded = evasion.attack(needs=granted, norms=("linf",), paper="a cheat")(function)
        name, trick = function.__name__, (function.__doc__ or "").split("\n")[0]
        CHEATS[name] = Cheat(carded, granted, gain, trick, queries)
        return carded

    return register


def climb(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float, steps: int = 20) -> Tensor:
    """What PGD finds by gradients that may not have been given."""
    at = x.clone()
    for _ in range(steps):
        with torch.enable_grad():
            at = at.detach().requires_grad_()
            z = net(at)
            lost = z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0]
            grad = torch.autograd.grad(lost.sum(), at)[0]
        at = torch.minimum(torch.maximum(at.detach() + eps / 4 * grad.sign(), x - eps), x + eps).clamp(0, 1)
    return at.detach()


def estimate(ask: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, eps: float, steps: int = 300) -> Tensor:
    """Random search that needs many questions: ask(rows, x) -> logits."""
    rows, best, at = torch.arange(len(x)), torch.full((len(x),), torch.inf), x.clone()
    stream = torch.Generator().manual_seed(0)
    for _ in range(steps):
        here = torch.rand(x.shape, generator=stream) < 0.05
        new = torch.where(here, x + eps * torch.sign(torch.randn(x.shape, generator=stream)), at).clamp(0, 1)
        z = ask(rows, new)
        lead = z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -torch.inf).amax(1)
        better = lead < best
        best, at = torch.where(better, lead, best), torch.where(better[:, None, None, None], new, at)
    return at


def networks(values: Iterable[Any]) -> list[nn.Module]:
    """Those of these objects that classify pictures of 32 x 32."""
    found = []
    for value in values:
        if isinstance(value, nn.Module) and any(isinstance(m, nn.Conv2d) for m in value.modules()):
            try:
                with torch.no_grad():
                    z = value(torch.rand(2, 3, 32, 32))
            except Exception:  # a part of one
                continue
            if isinstance(z, Tensor) and z.shape == (2, 10):
                found.append(value)
    return found


def among_callers(frame: Any) -> list[nn.Module]:
    """The networks that the nearest caller that has any holds in its local variables, or one step from them."""
    found: list[nn.Module] = []
    while frame is not None and not found:
        held = list(frame.f_locals.values())
        found = networks(held + [v for h in held if hasattr(h, "__dict__") for v in list(vars(h).values())])
        frame = frame.f_back
    return found
