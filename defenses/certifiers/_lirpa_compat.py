"""The names auto-LiRPA takes from torch, numpy and appdirs, supplied only where this environment lacks them.

auto-LiRPA 0.3 was written for torch 1.12 and numpy 1; 0.7 for torch 2.0 to 2.8. Each function below is one such name:
its docstring is the reason, it changes nothing where the name still exists, and a test fails once it may be deleted.
What the library sets for the whole process (TorchScript profiling, a root log handler, warning filters, an exporter
flag) is put back.
"""

import functools
import importlib
import importlib.util
import inspect
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

from robustsuite.errors import MissingPackage

LIBRARY = "auto_LiRPA"


def library() -> types.ModuleType:
    """auto-LiRPA (0.3 or 0.7), imported and repaired; raises MissingPackage where it is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise MissingPackage("auto-LiRPA", "bounding a network")
    return _repaired()


@functools.cache
def _repaired() -> types.ModuleType:
    with ExitStack() as stack:
        for name in WHILE_IMPORTING:
            stack.enter_context(name())
        found = importlib.import_module(LIBRARY)
    for repair in ON_THE_LIBRARY:
        repair(found)
    return found


@contextmanager
def running() -> Iterator[None]:
    """Wraps every use of the library: names it looks up late are there, process state is as before afterwards."""
    with ExitStack() as stack:
        for name in WHILE_RUNNING:
            stack.enter_context(name())
        yield


# --- while importing ---------------------------------------------------------------------------------------------


def numpy_arraysetops() -> AbstractContextManager[None]:
    """0.3 imports `numpy.lib.arraysetops.isin`; numpy 2 made that module private."""
    return _module_if_absent("numpy.lib.arraysetops", isin=numpy.isin)


def appdirs_package() -> AbstractContextManager[None]:
    """Both ask appdirs for one folder name; platformdirs is its maintained successor, with the same function."""
    return _module_if_absent("appdirs", user_data_dir=_user_data_dir)


def graphviz_package() -> AbstractContextManager[None]:
    """0.7 imports graphviz to draw graphs, which is never asked of it here."""
    return _module_if_absent("graphviz", Digraph=None)


@contextmanager
def onnx_set_opset() -> Iterator[None]:
    """0.3 imports `_set_opset_version`, which torch 1.13 replaced by a property of the exporter's globals."""
    helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    absent = not hasattr(helper, "_set_opset_version")
    if absent:
        helper._set_opset_version = functools.partial(setattr, _exporter_globals(), "export_onnx_opset_version")
    try:
        yield
    finally:
        if absent:
            del helper._set_opset_version


@contextmanager
def process_state() -> Iterator[None]:
    """Both set a root log handler on stdout and warning filters when imported, and look for CUDA aloud; not here."""
    root, extension = logging.getLogger(), logging.getLogger("torch.utils.cpp_extension")
    handlers, level, disabled = list(root.handlers), root.level, extension.disabled
    extension.disabled = True
    with warnings.catch_warnings(record=True):  # "ignore" would not do: the library sets its own filters
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            extension.disabled = disabled


# --- while running -----------------------------------------------------------------------------------------------


@contextmanager
def jit_unprofiled() -> Iterator[None]:
    """Both switch TorchScript profiling off for the whole process; it is off inside and as before outside."""
    executor = torch._C._jit_set_profiling_executor(False)
    mode = torch._C._jit_set_profiling_mode(False)
    try:
        yield
    finally:
        torch._C._jit_set_profiling_executor(executor)
        torch._C._jit_set_profiling_mode(mode)


@contextmanager
def onnx_node_getitem() -> Iterator[None]:
    """0.3 reads `node[attribute]` of traced nodes, an index torch.onnx used to add and no longer does."""
    node: Any = torch._C.Node
    absent = not hasattr(node, "__getitem__")
    if absent:
        node.__getitem__ = _node_attribute
    try:
        yield
    finally:
        if absent:
            del node.__getitem__


@contextmanager
def exporter_globals() -> Iterator[None]:
    """Both change settings of torch's ONNX exporter (opset, autograd inlining) and leave them so."""
    exporter = _exporter_globals()
    kept = {n: getattr(exporter, n) for n in ("export_onnx_opset_version", "autograd_inlining") if hasattr(exporter, n)}
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(exporter, name, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Both log unsupported operations at length, and warn about their own tracing; here these become one sentence."""
    logger = logging.getLogger(f"{LIBRARY}.utils")
    disabled, logger.disabled = logger.disabled, True
    with warnings.catch_warnings(record=True):  # "ignore" would not do: the library sets its own filters
        try:
            yield
        finally:
            logger.disabled = disabled


# --- on the library's own classes --------------------------------------------------------------------------------


def named_members(lib: Any) -> None:
    """torch 2.0 calls `_named_members(..., remove_duplicate=...)`; 0.3 overrides it without that parameter."""
    original = lib.BoundedModule._named_members
    if "remove_duplicate" in inspect.signature(original).parameters:
        return

    def with_remove_duplicate(
        self: Any, members: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Any:
        return original(self, members, prefix, recurse)

    lib.BoundedModule._named_members = with_remove_duplicate


def alpha_clamp(lib: Any) -> None:
    """alpha-CROWN's slopes start at exactly 0 or 1, where torch 2.14's clamp has gradient 0: none would move."""
    if not _clamp_freezes_bounds():
        return
    for cls in vars(importlib.import_module(f"{LIBRARY}.bound_ops")).values():
        if isinstance(cls, type) and "_relu_mask_alpha" in vars(cls):
            cls._relu_mask_alpha = staticmethod(_relu_mask_alpha)  # type: ignore[attr-defined]


def contiguous_pooling(lib: Any) -> None:
    """Average pooling calls `view` on coefficients that the choice of unstable neurons has left strided."""
    pooling = importlib.import_module(f"{LIBRARY}.bound_ops").BoundAveragePool
    original = pooling.bound_backward

    def with_contiguous(self: Any, last_lA: Any, last_uA: Any, *x: Any, **options: Any) -> Any:
        return original(self, _contiguous(last_lA), _contiguous(last_uA), *x, **options)

    pooling.bound_backward = with_contiguous


def mute(lib: Any) -> None:
    """Both print progress; a module-level `print` shadows the builtin in the library's modules alone."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == LIBRARY:
            module.__dict__["print"] = lambda *args, **options: None


WHILE_IMPORTING: tuple[Callable[[], AbstractContextManager[None]], ...] = (
    process_state,
    jit_unprofiled,
    numpy_arraysetops,
    appdirs_package,
    graphviz_package,
    onnx_set_opset,
)
WHILE_RUNNING: tuple[Callable[[], AbstractContextManager[None]], ...] = (
    jit_unprofiled,
    onnx_node_getitem,
    exporter_globals,
    quiet,
)
ON_THE_LIBRARY: tuple[Callable[[Any], None], ...] = (named_members, alpha_clamp, contiguous_pooling, mute)


def _relu_mask_alpha(
    lower: Tensor, upper: Tensor, lb_slope: Tensor | None, ub_slope: Tensor | None, leaky_alpha: float = 0.0
) -> tuple[Tensor | None, Tensor | None, Any]:
    """Lower slope per neuron: 1 where always active, `leaky_alpha` where never, the clipped variable in between."""
    active = (lower >= 0).to(lower.dtype)
    dead = (upper <= 0).to(upper.dtype)
    unstable = (1 - active) * (1 - dead)

    def masked(slope: Tensor | None) -> Tensor | None:
        if slope is None:
            return None
        inside = (slope >= leaky_alpha) & (slope <= 1)
        clipped = torch.where(inside, slope, slope.detach().clamp(leaky_alpha, 1))
        return clipped * unstable + active + leaky_alpha * dead

    all_zero = (upper <= 0).all() if leaky_alpha == 0 else False
    return masked(lb_slope), masked(ub_slope), all_zero


def _contiguous(coefficients: Any) -> Any:
    if isinstance(coefficients, Tensor):
        return coefficients.contiguous()
    if isinstance(getattr(coefficients, "patches", None), Tensor):
        coefficients.patches = coefficients.patches.contiguous()
    return coefficients


def _clamp_freezes_bounds() -> bool:
    with torch.enable_grad():
        at_bounds = torch.tensor([0.0, 1.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(at_bounds.clamp(0, 1).sum(), at_bounds)
    return bool((gradient == 0).any())


def _node_attribute(node: Any, key: str) -> Any:
    return getattr(node, node.kindOf(key))(key)


def _exporter_globals() -> Any:
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        try:
            return importlib.import_module(name).GLOBALS
        except ModuleNotFoundError:
            continue
    return types.SimpleNamespace()


def _user_data_dir(name: str) -> str:
    return str(importlib.import_module("platformdirs").user_data_dir(name))


@contextmanager
def _module_if_absent(name: str, **members: Any) -> Iterator[None]:
    absent = importlib.util.find_spec(name) is None
    if absent:
        stand_in = types.ModuleType(name)
        vars(stand_in).update(members)
        sys.modules[name] = stand_in
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]
