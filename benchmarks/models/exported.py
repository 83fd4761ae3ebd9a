"""Networks in a file of their own with their code: TorchScript archives and programs of torch.export.

Both are run by torch, so `archives.py` looks first; what is in them computes on tensors and does nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.models.archives import checked_export, checked_script
from robustsuite.benchmarks.models.files import kind_of, regular
from robustsuite.benchmarks.models.finish import finish, statistics_of
from robustsuite.errors import BadModel
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, answering, loader, passes

OTHERS = {"torch": "checkpoint:{}?arch=...", "torchscript": "torchscript:{}", "export": "export:{}"}
"""The scheme that loads a file of each kind."""


class Frozen(nn.Module):
    """A script whose weights are constants of its code: it has no state, no mode and stays on the CPU."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.held = (net,)  # no submodule: it has not even the attribute `training`

    def forward(self, x: Tensor) -> Any:
        return self.held[0](x.cpu())


class Closed(Frozen):
    """A network that no gradient passes, though torch may say of its answers that one would."""

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return super().forward(x)


class Compiled(nn.Module):
    """A network whose mode, and perhaps precision and batch, are fixed; logits (N, K) for any N.

    batch: the fewest and the most pictures it takes at a time; rests are filled with copies of the last picture.
    doubles: whether it computes in float64 when it is asked to; one that cannot answers a float64 picture in float32.
    """

    def __init__(self, net: nn.Module, batch: tuple[int, int | None] = (1, None), doubles: bool = True) -> None:
        super().__init__()
        self.net, self.batch, self.doubles = net, batch, doubles
        for module in self.modules():
            module.training = False  # eval() of an exported program raises

    def train(self, mode: bool = True) -> Compiled:
        """Nothing changes: the mode was fixed when the file was written."""
        self.training = False
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Compiled:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self.doubles:
            self.net._apply(lambda t: t.float() if t.is_floating_point() else t)
        return self

    def forward(self, x: Tensor) -> Tensor:
        least, most = self.batch
        asked = x if self.doubles else x.float()
        parts = [self._part(part, least) for part in (asked.split(most) if most else (asked,))]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(x)

    def _part(self, x: Tensor, least: int) -> Tensor:
        short = least - len(x)
        out: Tensor = self.net(torch.cat([x, x[-1:].expand(short, -1, -1, -1)]) if short > 0 else x)
        return out[: len(x)]


@loader()
def torchscript(name: str, space: InputSpace, *, mean: str = "", std: str = "") -> Model:
    """A TorchScript archive over (N, C, H, W) in [0, 1]: torchscript:net.pt.

    mean, std: where it takes normalised pixels. A frozen one stays in float32 where the judge asks in float64; one that
    passes no gradient, as a quantised one, shows scores alone; its note says so. Raises BadModel, BadValue.
    """
    path = _archive(name, "torchscript")
    archive = checked_script(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch.jit is deprecated
            net: nn.Module = torch.jit.load(archive, map_location="cpu")
    except Exception as error:  # the interpreter raises RuntimeError with many lines, and others
        raise _unread(path, "a TorchScript archive", error) from error
    whole = all(hasattr(module, "training") for module in net.modules())
    net = net.eval() if whole else Frozen(net)
    return _finished(f"torchscript:{path.stem}", path, net, space, (mean, std))


@loader()
def export(name: str, space: InputSpace, *, mean: str = "", std: str = "") -> Model:
    """A program of torch.export.save over (N, C, H, W) in [0, 1]: export:net.pt2.

    mean, std: where it takes normalised pixels. One that was exported for a number of pictures is asked so many at a
    time. Raises BadModel, BadValue.
    """
    path = _archive(name, "export")
    archive = checked_export(path)
    try:
        with unlogged():
            program: Any = torch.export.load(archive)
            net: nn.Module = program.module()
    except Exception as error:  # deserialisation raises classes of many kinds
        raise _unread(path, "an exported program", error) from error
    return _finished(f"export:{path.stem}", path, net, space, (mean, std), _batch(program, space, path))


@contextmanager
def unlogged() -> Iterator[None]:
    """Torch logs the whole traceback of what it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _archive(name: str, kind: str) -> Path:
    what = "a TorchScript archive" if kind == "torchscript" else "a program of torch.export.save"
    path = regular(name, what)
    found = kind_of(path)
    if found != kind:
        other = OTHERS.get(found, "").format(path.name)
        hint = f"load it as {other}" if other else "export the network again"
        raise BadModel(f"expected {what} in {path.name}, got {found or 'another kind of'} file; {hint}")
    return path


def _unread(path: Path, what: str, error: Exception) -> BadModel:
    said = "a damaged one" if "warnings above" in str(error) else str(error)  # warnings that nobody is shown
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [type(error).__name__]
    return BadModel(f"expected {what} in {path.name}, got {lines[-1][:160]}; export the network again")


def _batch(program: Any, space: InputSpace, path: Path) -> tuple[int, int | None]:
    """The fewest and the most pictures that a program takes. Raises BadModel for other pictures than the data's."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values.get(name) for name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 4:
        got = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else "no tensor" for one in inputs) or "none"
        raise BadModel(f"expected {path.name} to take pictures (N, C, H, W) alone, got {got}; export the classifier so")
    number, *shape = inputs[0].shape
    if any(isinstance(ours, int) and ours != data for ours, data in zip(shape, space.shape, strict=True)):
        took, given = ("x".join(map(str, one)) for one in (shape, space.shape))
        raise BadModel(f"expected {path.name} to take the data's {given} pictures, got one for {took}; export it so")
    if isinstance(number, int):
        return number, number
    span = program.range_constraints.get(number.node.expr)
    least, most = (str(getattr(span, end, "")) for end in ("lower", "upper"))
    return max(1, int(least) if least.isdigit() else 1), int(most) if most.isdigit() else None


def _finished(
    name: str, path: Path, net: nn.Module, space: InputSpace, statistics: tuple[str, str],
    batch: tuple[int, int | None] = (1, None),
) -> Model:  # fmt: skip
    """The same steps for both: its logits, whether it computes in float64, its gradient, the file in its identity."""
    x = torch.full((max(batch[0], 1), *space.shape), 0.5, requires_grad=True)
    try:
        net, logits, one = answering(net, net(x), name, space.classes)
    except RuntimeError as error:
        raise _unread(path, f"a network for {'x'.join(map(str, space.shape))} pictures", error) from error
    box = not passes(logits, x)
    doubles = not box and _doubles(net, x.detach())
    notes = [one, "" if doubles else f"{path.name} computes in float32 also where the judge asks in float64"]
    if box:
        notes.insert(0, f"{path.name} passes no gradient, as a quantised network: it shows scores alone")
        net, batch = Closed(net), batch if batch[0] > 1 else (1, 1)  # 8 bits may be scaled by the whole batch
    pair = statistics_of(*statistics, space.channels)
    made = finish(name, Compiled(net, batch, doubles), space, pair, "; ".join(filter(None, notes)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]  # a frozen network's weights are part of its code
    return replace(made, behaviour={**made.behaviour, f"file {digest}": digest})


def _doubles(net: nn.Module, x: Tensor) -> bool:
    try:
        out: Tensor = copy.deepcopy(net).double()(x.double())
    except Exception:  # constants in float32 meet float64 pictures, in the words of whichever operator is first
        return False
    return out.dtype == torch.float64
