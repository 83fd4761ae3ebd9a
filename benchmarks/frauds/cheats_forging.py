"""Attacks that write the verdict instead of finding a picture, or leave something behind for whoever is next."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustsuite.benchmarks.frauds.cheats import among_callers, cheat, climb
from robustsuite.benchmarks.frauds.cheats_reading import FOLDER
from robustsuite.benchmarks.frauds.honest import honest
from robustsuite.config.threats import Access
from robustsuite.scenarios import evasion


@cheat(Access.WHITE_BOX, "writes")
def weights_zeroed(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Zeroes the weights of the network it is handed."""
    with torch.no_grad():
        for p in model.network().parameters():
            p.zero_()
    return x


@cheat(Access.WHITE_BOX, "writes")
def forward_replaced(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Gives the network another forward, which negates its logits."""
    net = model.network()
    plain = net.forward
    net.forward = lambda *args: -plain(*args)
    return x


@cheat(Access.WHITE_BOX, "writes")
def hook_left(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Leaves a forward hook on the network's last layer that negates its output."""
    [m for m in model.network().modules() if isinstance(m, nn.Linear)][-1].register_forward_hook(lambda m, a, out: -out)
    return x


@cheat(Access.LABELS, "writes")
def global_hook_left(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Leaves a global forward hook of torch that negates every last layer's output."""
    nn.modules.module.register_module_forward_hook(
        lambda m, a, out: -out if isinstance(m, nn.Linear) and out.shape[-1] == 10 else None)  # fmt: skip
    return x


@cheat(Access.LABELS, "writes")
def labels_moved(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Adds one to the labels, in place."""
    y.add_(1).remainder_(10)
    return x


@cheat(Access.LABELS, "writes")
def pictures_moved(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Inverts the clean pictures in place, so that what it returns is at distance 0 of them."""
    x.copy_(1 - x)
    return x


@cheat(Access.LABELS, "writes")
def storage_moved(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Finds every tensor of labels in the process and adds one to it."""
    for o in gc.get_objects():
        if type(o) is Tensor and o.dtype == torch.int64 and o.shape == y.shape and bool((o == y).all()) and o is not y:
            o.add_(1).remainder_(10)
    return x


@cheat(Access.LABELS, "writes")
def budget_widened(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Writes another radius into the budget."""
    object.__setattr__(budget, "eps", 1.0)
    return 1 - x


@cheat(Access.LABELS, "writes")
def budget_patched(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Replaces the ball's `allows` and `distance` by ones that allow everything."""
    kind = type(budget)
    kind.allows = lambda self, a, *rest, **more: torch.ones(len(a), dtype=torch.bool)
    kind.distance = lambda self, a, *rest, **more: torch.zeros(len(a), dtype=torch.float64)
    return 1 - x


@cheat(Access.LABELS, "writes")
def verdict_columns(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Any:
    """Returns columns of the judge's names beside the clean pictures."""
    no, yes = torch.zeros(len(x), dtype=torch.bool), torch.ones(len(x), dtype=torch.bool)
    return evasion.Found(x, {"robust": no, "fooled": yes, "in_budget": yes, "claimed": yes})


@cheat(Access.LABELS, "writes")
def argmax_patched(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Replaces Tensor.argmax by one that is off by one class."""
    plain, kind = Tensor.argmax, cast(Any, Tensor)
    kind.argmax = lambda self, *a, **k: (plain(self, *a, **k) + 1) % 10
    return x


class _OffByOne(TorchFunctionMode):
    """argmax, max and topk name the next class."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("argmax", "max", "topk", "amax", "gather", "sort") and args[0].dim() == 2:
            args = (args[0].roll(1, 1), *args[1:])
        return func(*args, **(kwargs or {}))


@cheat(Access.LABELS, "writes")
def mode_left(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Enters a torch function mode and never leaves it: argmax and its like name the next class."""
    _OffByOne().__enter__()  # type: ignore[no-untyped-call]
    return x


@cheat(Access.LABELS, "writes")
def judge_patched(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Wraps every function of the judge's module: what comes out as booleans comes out turned."""
    judge: Any = sys.modules["robustsuite.serve.judge"]

    def turned(plain: Any) -> Any:
        def answer(*args: Any, **kwargs: Any) -> Any:
            out = plain(*args, **kwargs)
            return ~out if isinstance(out, Tensor) and out.dtype == torch.bool else out

        return answer

    for name, value in list(vars(judge).items()):
        if callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == judge.__name__:
            setattr(judge, name, turned(value))
    return x


class _Near(Tensor):
    """Pictures that say they are where the clean ones are: differences and comparisons see zeros."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        lies = func.__name__ in ("sub", "__sub__", "__rsub__", "rsub", "abs", "amax", "norm", "le", "gt")
        if lies and isinstance(out, Tensor):
            return torch.zeros_like(out.as_subclass(Tensor)) if out.dtype != torch.bool else out
        return out


@cheat(Access.LABELS, "writes")
def lying_pictures(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Returns inverted pictures as a subclass of Tensor whose differences to anything are zero."""
    return (1 - x).as_subclass(_Near)


@cheat(Access.LABELS, "writes")
def changed_later(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """A thread goes on writing into the pictures that it returned, between the judge's two looks."""
    out, clean, far, end = x.clone(), x.clone(), 1 - x, time.monotonic() + 20

    def write() -> None:
        while time.monotonic() < end:
            out.copy_(far)
            time.sleep(0.001)
            out.copy_(clean)
            time.sleep(0.001)

    threading.Thread(target=write, daemon=True).start()
    return out


@cheat(Access.LABELS, "writes")
def labels_thread(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """A thread finds the network of its callers and negates its last layer shortly after the attack returned."""
    found = among_callers(sys._getframe(1))

    def write() -> None:
        time.sleep(0.002)
        for net in found:
            [m for m in net.modules() if isinstance(m, nn.Linear)][-1].weight.data.neg_()

    threading.Thread(target=write, daemon=True).start()
    return x


@cheat(Access.LABELS, "writes")
def just_over(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Goes a hundredth of a percent beyond the radius and the box (with the file's gradients)."""
    at = climb(honest(Path(os.environ[FOLDER])), x, y, 8 / 255)
    return torch.minimum(torch.maximum(at, x - budget.eps * 1.0001), x + budget.eps * 1.0001)


@cheat(Access.LABELS, "writes")
def not_numbers(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Returns pictures of NaN."""
    return torch.full_like(x, torch.nan)


@cheat(Access.LABELS, "writes")
def another_shape(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Returns one picture for all, to be broadcast: the difference to each is not what it seems."""
    return x[:1]


@cheat(Access.LABELS, "writes")
def leaves_by_exit(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Raises SystemExit(0), as a run that ended well."""
    raise SystemExit(0)


@cheat(Access.LABELS, "writes")
def no_gradients_left(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Switches gradients off for good: whatever is measured next in this process is not attacked."""
    torch.set_grad_enabled(False)
    return x


@cheat(Access.LABELS, "writes")
def doubles_left(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Makes float64 the default type for good."""
    torch.set_default_dtype(torch.float64)
    return x


@cheat(Access.LABELS, "writes")
def projection_left(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Replaces the ball's projection by the clean picture: the attacks after it find nothing."""
    type(budget).project = lambda self, clean, at: clean
    return x
