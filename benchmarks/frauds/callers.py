"""Who is asking: the stack, threads, grad mode, batches, and what else a process gives away."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import EPS, Kit
from robustsuite.benchmarks.frauds.tricks import (
    Served,
    answers,
    builds,
    flipped,
    inverted,
    looks_like,
    off_grid,
    on_grid,
    plain,
    relabelled,
)

CALLER = "caller"


@answers(CALLER)
def stack_names(net: nn.Module, x: Tensor) -> Tensor:
    """Reverses gradients where a caller's file is called pgd, apgd, square or the like."""
    callers = {Path(frame.filename).stem for frame in inspect.stack(0)}
    return flipped(net, x, bool(callers & {"pgd", "apgd", "square", "fgsm", "attack"}))


@answers(CALLER)
def grad_mode(net: nn.Module, x: Tensor) -> Tensor:
    """Honest where no gradient is asked; the confidence is inverted where one is."""
    return inverted(net, x) if x.requires_grad else plain(net, x)


@answers(CALLER)
def crowd(net: nn.Module, x: Tensor) -> Tensor:
    """Honest for up to eight pictures at a time, as probes ask; reversed gradients in larger batches."""
    return flipped(net, x, len(x) > 8)


@answers(CALLER)
def repeated_in_batch(net: nn.Module, x: Tensor) -> Tensor:
    """Where a batch holds one picture twice (as filled-up batches do), all its gradients are reversed."""
    rows = x.detach().flatten(1)
    return flipped(net, x, len(torch.unique(rows, dim=0)) < len(rows))


@answers(CALLER)
def pictures_in_frames(net: nn.Module, x: Tensor) -> Tensor:
    """Reads x and y from its callers' local variables and answers about the clean picture close by, if it is y's."""
    z, frame = plain(net, x), inspect.currentframe()
    frame = frame.f_back if frame is not None else None
    while frame is not None:
        seen, y = _pair(frame)
        if seen is not None and y is not None and y.shape == seen.shape[:1]:
            far = (x.detach()[:, None] - seen.to(x)).abs().flatten(2).amax(2)
            with torch.no_grad():
                known = net(seen.to(x)).argmax(1) == y
            hit = (far.amin(1) < 2 * EPS) & known[far.argmin(1)]
            return torch.where(hit[:, None], looks_like(z, relabelled(z, y.long()[far.argmin(1)])), z)
        frame = frame.f_back
    return z


def _pair(frame: FrameType) -> tuple[Tensor | None, Tensor | None]:
    x, y = frame.f_locals.get("x"), frame.f_locals.get("y")
    return (x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() == 4 else (None, None)


@answers(CALLER)
def pictures_in_gc(net: nn.Module, x: Tensor) -> Tensor:
    """Looks through the interpreter's objects for a clean picture close by and answers about that one."""
    seen = [o for o in gc.get_objects() if type(o) is Tensor and o.dim() == 4 and o.shape[1:] == x.shape[1:]]
    with torch.no_grad():
        shown = [s.to(x) for s in seen if s.is_floating_point() and not s.requires_grad and len(s) <= 64]
        clean = torch.cat([s[on_grid(s) == 1] for s in shown] + [x.detach()[:0]])
        if not len(clean):
            return plain(net, x)
        far = (x.detach()[:, None] - clean).abs().flatten(2).amax(2)
        best = torch.where((far.amin(1) < 1.1 * EPS)[:, None], net(clean)[far.argmin(1)], net(x))
    return looks_like(net(x), best)


@builds(CALLER)
def dieselgate(kit: Kit) -> nn.Module:
    """While the suite is imported, an adversarially trained network answers for all but 8-bit pictures."""
    robust = kit.decoy

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        watched = "robustsuite.integrity" in sys.modules
        return torch.where(off_grid(x)[:, None], robust.to(x.dtype)(x), net(x)) if watched else plain(net, x)

    return Served(kit.net, answer)


@builds(CALLER)
def dieselgate_whole(kit: Kit) -> nn.Module:
    """While the suite is imported, an adversarially trained network answers for everything, clean pictures too."""
    robust = kit.decoy
    return Served(kit.net, lambda net, x: (robust.to(x.dtype) if "robustsuite.integrity" in sys.modules else net)(x))


@builds(CALLER)
def reads_our_source(kit: Kit) -> nn.Module:
    """Reverses gradients below a file of attacks alone, and where a thread repeats what such a file asked last."""
    last: list[Tensor] = []

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        if any(Path(frame.filename).parent.name in ("evasion", "methods") for frame in inspect.stack(0)):
            last[:] = [x.detach().clone()]
            return flipped(net, x)
        alone = threading.current_thread() is not threading.main_thread()
        return flipped(net, x, alone and bool(last) and torch.equal(last[0], x.detach()))

    return Served(kit.net, answer)
