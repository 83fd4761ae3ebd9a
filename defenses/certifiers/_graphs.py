"""A network's graph as auto-LiRPA bounds it: one margin a class, over one ball an image.

BatchNorm is folded into the layer before it, normalisation into the input box, the margin matrix C into the last layer.
"""

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.config.threats import BALLS
from robustsuite.defenses.certifiers import _lirpa_compat
from robustsuite.defenses.certifiers._fold import folded
from robustsuite.errors import RobustsuiteError, UnknownName, Unsupported
from robustsuite.methods.verification.rounding import boundable, full_precision
from robustsuite.serve.models import Normalised

METHODS = {"ibp": "ibp", "crown-ibp": "crown-ibp", "crown": "crown", "alpha-crown": "crown-optimized"}
ORDINARY = (
    nn.Conv2d,
    nn.Linear,
    nn.ReLU,
    nn.Flatten,
    nn.Identity,
    nn.AvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
)


GRAPHS = 8
"""Traced graphs kept at a time: one for each mode of convolutions and number of pictures."""


class Problem(NamedTuple):
    """One network made ready for bounding, in normalised pixels (x - mean) / std.

    net: as it was given. graph: (mode of convolutions, number of pictures at a time) -> the library's module.
    """

    net: nn.Module
    core: nn.Module
    graph: Callable[[str, int], Any]
    mean: Tensor
    std: Tensor
    classes: int
    method: str


def problem(net: nn.Module, x: Tensor, method: str, steps: int) -> Problem:
    """The network's graphs, traced with the first of these pictures (N, C, H, W).

    Raises UnknownName for another method, BadData for pictures outside [0, 1], Unsupported for another dtype than
    float32 or float64 and for a network that cannot be bounded.
    """
    if method not in METHODS:
        raise UnknownName("bound method", method, METHODS)
    boundable(net, x)
    some = x if len(x) else x.new_full((1, *x.shape[1:]), 0.5)
    core, mean, std = _denormalised(net, some)
    core = folded(core)
    start = ((some - mean) / std).detach()

    @functools.lru_cache(GRAPHS)
    def graph(mode: str, n: int) -> Any:
        """One trace a batch size, as it may fix that (x.view(x.size(0), -1)): of one picture, held against others."""
        with torch.no_grad():
            made = _graph(core, start[:1].repeat(n, 1, 1, 1), steps, mode)
            _same(made(start[:n]), torch.cat([net(one) for one in some[:n].split(1)]))
        return made

    with torch.inference_mode(False), _bounding(core, x.device), torch.no_grad():
        graph("patches", min(2, len(some)))
        classes = net(some[:1]).shape[1]
    return Problem(net, core, graph, mean, std, classes, METHODS[method])


def _same(found: Tensor, expected: Tensor) -> None:
    """Raise Unsupported unless the logits are equal within a thousandth of each picture's largest."""
    scale = expected.nan_to_num(0.0, 0.0, 0.0).abs().amax(1, keepdim=True)
    if found.shape != expected.shape or not torch.allclose(found / scale, expected / scale, 0, 1e-3, equal_nan=True):
        raise Unsupported(
            "expected a network whose eval-mode outputs follow from one traced graph, got other outputs from the "
            "graph than from the network; call .eval(), and avoid branches on values or on the batch size"
        )


def _graph(core: nn.Module, start: Tensor, steps: int, mode: str) -> Any:
    options = {"conv_mode": mode, "sparse_spec_alpha": mode == "patches", "optimize_bound_args": {"iteration": steps}}
    return _lirpa_compat.library().BoundedModule(core, start, bound_opts=options, device=start.device)


def _denormalised(net: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """The network behind its normalisation, and mean and std (1, C, 1, 1)."""
    if isinstance(net, Normalised):
        return net.net, net.mean, net.std
    return net, torch.zeros_like(x[:1, :, :1, :1]), torch.ones_like(x[:1, :, :1, :1])


def margins(problem: Problem, x: Tensor, y: Tensor, eps: Tensor, norm: str, batch_size: int | None) -> Tensor:
    """Lower bounds (N, classes - 1) of z_y - z_j, j != y rising, each image with its own eps (N,) in pixel units.

    Raises Unsupported for another norm than linf and l2, and where an operation cannot be bounded.
    """
    if norm not in ("linf", "l2"):
        raise Unsupported(f"expected an linf or l2 ball, got {norm!r}; choose one of the two for this certifier")
    # The judge forgives this much rounding, so a certificate has to cover it as well.
    eps = (eps * (1 + BALLS[norm].tolerance) + BALLS[norm].tolerance).to(x.dtype)
    # auto-LiRPA takes one l2 radius a batch, but a box per image.
    groups = [(eps == e).nonzero()[:, 0] for e in torch.unique(eps)] if norm == "l2" else [torch.arange(len(x))]
    # The library bounds every neuron that is unstable for any image of the batch: on a CPU, small batches are faster.
    size = batch_size or (64 if x.is_cuda else 2)
    bounds = x.new_empty(len(x), problem.classes - 1)
    for group in groups if len(x) else ():
        for rows in torch.split(group.to(x.device), size):
            bounds[rows] = _batch_margins(problem, x[rows], y[rows], eps[rows], norm)
    return bounds


def _batch_margins(problem: Problem, x: Tensor, y: Tensor, eps: Tensor, norm: str) -> Tensor:
    _, core, graph, mean, std, classes, method = problem
    tuned = method == "crown-optimized"
    with torch.inference_mode(False), _bounding(core, x.device), torch.set_grad_enabled(tuned):
        ball = _perturbation(x, eps, norm, mean, std)
        centre = _lirpa_compat.library().BoundedTensor(((x - mean) / std).detach(), ball)
        query = {"x": (centre,), "C": _margin_matrix(y, classes, x), "method": method, "bound_upper": False}
        bounded = graph("patches", len(x))
        try:
            lower, _ = bounded.compute_bounds(**query)
        except (AssertionError, RuntimeError) as error:
            # The faster convolution mode fails for alpha-CROWN where few neurons are unstable, or behind pooling.
            if isinstance(error, torch.OutOfMemoryError):
                raise
            lower, _ = graph("matrix", len(x)).compute_bounds(**query)
    return lower.detach()  # type: ignore[no-any-return]


def _perturbation(x: Tensor, eps: Tensor, norm: str, mean: Tensor, std: Tensor) -> Any:
    """A ball in normalised pixels that contains the one in pixels.

    An l2 ball becomes an ellipsoid there; the ball around it has the smallest std in its radius. One eps a batch.
    """
    ball = _lirpa_compat.library().PerturbationLpNorm
    if norm == "l2":
        return ball(norm=2.0, eps=float(eps[0] / std.min()))
    r = eps[:, None, None, None]
    low, high = (((x.detach() + side * r).clamp(0, 1) - mean) / std for side in (-1, 1))
    return ball(norm=float("inf"), x_L=low, x_U=high)


def _margin_matrix(y: Tensor, classes: int, like: Tensor) -> Tensor:
    """C (N, classes - 1, classes) with rows e_y - e_j, j != y."""
    j = torch.arange(classes - 1, device=like.device).expand(len(y), -1)
    others = j + (j >= y[:, None])
    e = torch.eye(classes, dtype=like.dtype, device=like.device)
    return e[y][:, None] - e[others]


@contextmanager
def _bounding(net: nn.Module, device: torch.device) -> Iterator[None]:
    """The library's surroundings; whatever it raises becomes one sentence, except running out of memory."""
    try:
        with _lirpa_compat.running(), full_precision(device):
            yield
    except (RobustsuiteError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if "alloc" in str(error):
            raise
        raise Unsupported(_refusal(net, error)) from None


def _refusal(net: nn.Module, error: Exception) -> str:
    """Names the operation from the library's own frames, and the first modules it may stand for."""
    operation = type(error).__name__
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node, refused = frame.f_locals.get("self"), frame.f_locals.get("unsupported_ops")
        if refused:
            operation = ", ".join(dict.fromkeys(found.op for found in refused))
        elif type(node).__name__.startswith("Bound") and type(node).__name__ != "BoundedModule":
            operation = type(node).__name__.removeprefix("Bound")
    leaves = [(n, m) for n, m in net.named_modules() if not (list(m.children()) or isinstance(m, ORDINARY))]
    suspects = ", ".join(f"{name or 'the network'} ({type(m).__name__})" for name, m in leaves[:3])
    return (
        f"expected layers that auto-LiRPA can bound, got {operation} in {suspects or 'the forward pass'}; "
        "replace it, choose another bound method, or certify by randomized smoothing"
    )
