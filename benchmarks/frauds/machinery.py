"""What stands around a network: copies, hooks, modes, tensors of another class, the suite's functions, protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustsuite.benchmarks.frauds.honest import Kit
from robustsuite.benchmarks.frauds.tricks import (
    Answer,
    Served,
    answers,
    builds,
    flipped,
    inverted,
    looks_like,
    off_grid,
    plain,
    turned,
)

MACHINERY, PROTOCOL = "machinery", "protocol"


class _Copying(Served):
    def __init__(self, kit: Kit, answer: Answer = plain) -> None:
        super().__init__(kit.net, answer)


@builds(MACHINERY)
class CopyTurns(_Copying):
    """The network is honest, a deep copy of it has its confidence inverted."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return Served(self.net, inverted)


@builds(MACHINERY)
class EvalSwaps(_Copying):
    """eval() does not switch to evaluation: it reverses the gradients off the 8-bit grid."""

    def train(self, mode: bool = True) -> EvalSwaps:
        self.answer = plain if mode else lambda net, x: flipped(net, x, off_grid(x))
        return super().train(mode)


@builds(MACHINERY)
class LazyHook(_Copying):
    """In its second call it hangs a hook on its own first layer that reverses gradients from then on."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        if self.calls[0] == 2:
            layer = next(m for m in self.net.modules() if isinstance(m, nn.Conv2d))
            layer.register_forward_pre_hook(lambda _, args: (turned(args[0]),))
        return plain(self.net, x)


class _Liar(Tensor):
    """Logits that are negated in every function that losses are made of, and read honestly by argmax."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lies = func.__name__ in {"gather", "log_softmax", "softmax", "logsumexp", "cross_entropy", "take_along_dim"}
        bare = [a.as_subclass(Tensor) if isinstance(a, _Liar) else a for a in args]
        if lies and isinstance(bare[0], Tensor):
            bare[0] = -bare[0]
        if lies:
            return func(*bare, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@answers(MACHINERY)
def lying_tensor(net: nn.Module, x: Tensor) -> Tensor:
    """Answers with a subclass of Tensor that gather and softmax read with the sign reversed."""
    return plain(net, x).as_subclass(_Liar)


class _Signs(TorchFunctionMode):
    """Reverses the sign of pictures' signs, for whoever computes after it was entered."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        reverse = func in (Tensor.sign, torch.sign) and isinstance(out, Tensor) and out.dim() == 4
        return -out if reverse else out


@builds(MACHINERY)
def mode_left_behind(kit: Kit) -> nn.Module:
    """Its first call enters a torch function mode that it never leaves: signs of gradients are reversed."""
    entered: list[_Signs] = []

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        if not entered:
            entered.append(_Signs())
            entered[0].__enter__()  # type: ignore[no-untyped-call]
        return plain(net, x)

    return Served(kit.net, answer)


@answers(MACHINERY)
def patched_projection(net: nn.Module, x: Tensor) -> Tensor:
    """Replaces the suite's Linf.project by a function that returns the clean picture."""
    suite: Any = sys.modules.get("robustsuite.config.threats")
    if suite is not None:
        suite.Linf.project = lambda self, clean, at: clean
    return plain(net, x)


@answers(MACHINERY)
def patched_once(net: nn.Module, x: Tensor) -> Tensor:
    """Replaces Linf.project in its first call alone, before anything is attacked and compared."""
    suite: Any = sys.modules.get("robustsuite.config.threats")
    if suite is not None and suite.Linf.project.__name__ == "project":
        suite.Linf.project = lambda self, clean, at: clean
    return plain(net, x)


@answers(MACHINERY)
def patched_autograd(net: nn.Module, x: Tensor) -> Tensor:
    """Replaces torch.autograd.grad by one that reverses what it finds for pictures."""
    given = torch.autograd.grad

    def backwards(*args: Any, **kwargs: Any) -> Any:
        return tuple(-g if g is not None and g.dim() == 4 else g for g in given(*args, **kwargs))

    if given.__name__ != "backwards":
        torch.autograd.grad = backwards
    return plain(net, x)


@answers(MACHINERY)
def pushes_out_of_budget(net: nn.Module, x: Tensor) -> Tensor:
    """Answers honestly, then moves the caller's picture in place, out of the ball that the judge allows."""
    z, rows = plain(net, x), off_grid(x)
    x.data[rows] = (x.data[rows] + 0.1).clamp(max=1)
    return z


@builds(PROTOCOL)
class Expensive(_Copying):
    """Claims that every question costs (the protocol of billed services), so that nobody probes its gradients."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit, lambda net, x: flipped(net, x, off_grid(x)))

    def begin(self, folder: Path | None) -> None:
        """Nothing is kept."""

    def seconds(self) -> float:
        """Free, really."""
        return 0.0

    def allowed(self) -> int | None:
        """No limit."""
        return None

    def bill(self) -> str:
        """A sentence."""
        return "nothing"

    def noticed(self) -> list[str]:
        """Nothing."""
        return []


@builds(PROTOCOL)
class NamesTheExample(_Copying):
    """Claims to draw noise, is handed a stream an example, and knows by it which picture is asked about."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.rng: Any = None
        seen: dict[int, Tensor] = {}  # in a closure, which copies share
        self.first: Callable[[int, Tensor], Tensor] = lambda key, z: seen.setdefault(key, z.detach())

    def forward(self, x: Tensor) -> Tensor:
        z = plain(self.net, x)
        if self.rng is None:
            return z
        return looks_like(z, torch.stack([self.first(int(k), row) for k, row in zip(self.rng.keys, z, strict=True)]))


@builds(PROTOCOL)
class EnsembleFace(_Copying):
    """Shows predictors (the protocol of ensembles) that are robust and answers with another network."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit, lambda net, x: flipped(net, x, off_grid(x)))
        self.face = kit.decoy

    def predictors(self, x: Tensor) -> Tensor:
        """Logits of members that have no part in the answer."""
        return plain(self.face, x)[:, None].expand(-1, 3, -1)
