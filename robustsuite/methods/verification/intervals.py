"""Bounds to train on: interval arithmetic, and one CROWN pass over it, differentiable in the network's weights.

IBP (Gowal et al., 2018, arXiv 1810.12715): an affine layer takes the centre to W c + b and the radius to |W| r, a ReLU
takes both ends; the margins z_y - z_j are folded into the last layer. CROWN-IBP (Zhang et al., 2020, arXiv 1906.06316):
the intervals bound what each ReLU reads, and the margins are bounded backwards through the lines that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from robustsuite.errors import Unsupported
from robustsuite.methods.verification.pieces import cut
from robustsuite.methods.verification.relaxed import Lines, backwards
from robustsuite.serve.models import Normalised

ENDS = (nn.ReLU, nn.Flatten, nn.Identity, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout)
"""Modules that take the ends of an interval to the ends; dropout is left out."""
ENDS_OF = frozenset({"relu", "flatten", "add", "iadd", "view", "reshape", "size", "getattr", "getitem"})
"""Functions and methods that do; two intervals are added end by end."""


class Interval(NamedTuple):
    """Ends (N, ...) of what a layer gives."""

    low: Tensor
    high: Tensor

    def by(self, change: Callable[[Tensor], Tensor]) -> Interval:
        """The ends changed by what keeps their order."""
        return Interval(change(self.low), change(self.high))


class Bounds(nn.Module):
    """A network that is trained with its bounds; the network itself is what `forward` asks.

    Raises Unsupported for a network that holds anything but convolutions, linear layers, ReLUs, sums and pooling.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.graph: tuple[fx.GraphModule, ...] = ()
        for name, module in self.core.named_modules():
            known = (*ENDS, nn.Conv2d, nn.Linear)
            if not list(module.children()) and not isinstance(module, known):
                raise Unsupported(
                    f"expected convolutions, linear layers, ReLUs and pooling to train with bounds, got "
                    f"{type(module).__name__} at {name}; take a network without"
                )

    @property
    def core(self) -> nn.Module:
        """The network behind its normalisation."""
        return self.net.net if isinstance(self.net, Normalised) else self.net

    @property
    def traced(self) -> fx.GraphModule:
        """Its graph, of the weights as they are trained: traced when it is first asked for, after any copy is made."""
        if not self.graph:
            try:
                self.graph = (fx.symbolic_trace(self.core),)  # in a tuple, so that it is no submodule
            except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
                said = str(error).splitlines()[0]
                raise Unsupported(f"expected a forward that can be traced, got {said!r}; take another net") from None
        return self.graph[0]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)  # type: ignore[no-any-return]

    def ball(self, x: Tensor, eps: float) -> Interval:
        """The linf ball around pictures in [0, 1], cut to [0, 1], behind the normalisation."""
        box = Interval((x - eps).clamp(0, 1), (x + eps).clamp(0, 1))
        front = self.net
        return box.by(lambda end: (end - front.mean) / front.std) if isinstance(front, Normalised) else box

    def ibp(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Lower bounds (N, classes - 1) of z_y - z_j by interval arithmetic, the other classes in rising order."""
        return self._margins(x, y, eps)[0]

    def crown_ibp(self, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The same by one CROWN pass over the intervals, and by the intervals alone."""
        plain, reads, box = self._margins(x, y, eps)
        n, k = plain.shape
        pieces = cut(self.core, torch.zeros_like(box.low).repeat_interleave(k, 0))
        if len(reads) != len(pieces.before) - 1:
            raise Unsupported("expected a ReLU to be called once for each time it is traced; take another network")
        rows = _rows(y, k + 1, plain).flatten(0, 1)
        a, constant, _ = backwards(pieces, [_adaptive(read, k) for read in reads], rows)
        low, high = (end.repeat_interleave(k, 0) for end in box)
        lowest = constant + torch.where(a > 0, a * low, a * high).flatten(1).sum(1)
        return lowest.view(n, k), plain

    def _margins(self, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, list[Interval], Interval]:
        """Margins, what each ReLU reads, and the box in front of the first layer."""
        box = self.ball(x, eps)
        run = _Intervals(self.traced)
        out = run.run(box)
        if run.last is None:
            return _worst(out, y), run.reads, box
        entering, layer = run.last
        rows = _rows(y, layer.out_features, layer.weight)
        folded, bias = rows @ layer.weight, rows @ layer.bias if layer.bias is not None else 0.0
        centre, radius = (entering.low + entering.high) / 2, (entering.high - entering.low) / 2
        lower = torch.einsum("nkd,nd->nk", folded, centre) - torch.einsum("nkd,nd->nk", folded.abs(), radius)
        return lower + bias, run.reads, box


class _Intervals(fx.Interpreter):
    """Runs a graph on intervals. reads: what each ReLU read; last: what entered the last linear layer, and it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.reads: list[Interval] = []
        self.last: tuple[Interval, nn.Linear] | None = None
        output = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        final = isinstance(output, fx.Node) and output.op == "call_module"
        self.final = graph.get_submodule(str(output.target)) if final else None

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, x = self.submodules[target], args[0]
        if isinstance(module, nn.ReLU):
            return self._relu(x)
        if isinstance(module, nn.Dropout):
            return x
        if isinstance(module, nn.Linear | nn.Conv2d):
            if module is self.final and isinstance(module, nn.Linear):
                self.last = x, module
            return _affine(module, x)
        return x.by(module)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(target, "__name__", str(target))
        intervals = [arg for arg in args if isinstance(arg, Interval)]
        if not intervals:
            return super().call_function(target, args, kwargs)
        if name not in ENDS_OF:
            raise Unsupported(f"expected sums, ReLUs and reshapes to train with bounds, got {name}; take another")
        if name == "relu":
            return self._relu(args[0])
        low, high = ([arg[end] if isinstance(arg, Interval) else arg for arg in args] for end in (0, 1))
        if name in ("size", "getattr", "getitem"):
            return target(*low, **kwargs)
        return Interval(target(*low, **kwargs), target(*high, **kwargs))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(args[0], Interval):
            return super().call_method(target, args, kwargs)
        if target not in ENDS_OF:
            raise Unsupported(f"expected sums, ReLUs and reshapes to train with bounds, got {target}; take another")
        if target == "size":
            return args[0].low.size(*args[1:])
        return args[0].by(lambda end: getattr(end, target)(*args[1:], **kwargs))

    def _relu(self, x: Interval) -> Interval:
        self.reads.append(x)
        return x.by(functional.relu)


def _affine(layer: nn.Linear | nn.Conv2d, x: Interval) -> Interval:
    centre, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    if isinstance(layer, nn.Linear):
        middle, reach = layer(centre), functional.linear(radius, layer.weight.abs())
    else:
        if layer.padding_mode != "zeros":
            raise Unsupported(f"expected zeros as padding to train with bounds, got {layer.padding_mode!r}")
        middle = layer(centre)
        reach = functional.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation,
                                  layer.groups)  # fmt: skip
    return Interval(middle - reach, middle + reach)


def _rows(y: Tensor, classes: int, like: Tensor) -> Tensor:
    """e_y - e_j (N, classes - 1, classes), j != y rising."""
    j = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    e = torch.eye(classes, dtype=like.dtype, device=y.device)
    return e[y][:, None] - e[j + (j >= y[:, None])]


def _worst(z: Interval, y: Tensor) -> Tensor:
    """Margins of logits that no linear layer gives: the label's lower end less the others' upper ends."""
    rows = _rows(y, z.low.shape[1], z.low)
    return torch.einsum("nkc,nc->nk", rows.clamp_min(0), z.low) + torch.einsum("nkc,nc->nk", rows.clamp_max(0), z.high)


def _adaptive(read: Interval, times: int) -> Lines:
    """CROWN's lines of one ReLU, each picture's as often as it has rows."""
    low, high = (end.flatten(1).repeat_interleave(times, 0) for end in read)
    unstable = (low < 0) & (high > 0)
    steep = torch.where(unstable, high / torch.where(unstable, high - low, 1.0), (low >= 0).to(low))
    lower = torch.where(unstable, (high > -low).to(low), (low >= 0).to(low))
    return Lines(lower, steep, torch.where(unstable, -low * steep, 0.0), torch.zeros_like(low))
