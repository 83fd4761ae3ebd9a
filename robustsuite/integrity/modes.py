"""Torch's and Python's switches that what is computed depends on, each with how to read it and how to set it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

_C: Any = torch._C
_cuda: Any = torch.backends.cuda.matmul
_cudnn: Any = torch.backends.cudnn


class Mode(NamedTuple):
    """How a switch is read, as something that can be compared, and set to what was read."""

    get: Callable[[], Any]
    put: Callable[[Any], object]


def _attribute(owner: Any, name: str) -> Mode:
    return Mode(partial(getattr, owner, name), partial(setattr, owner, name))


def _device() -> Any:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _stack(kind: str, *args: object) -> Mode:
    """The modes that every operation passes through, outermost first."""
    length, at = getattr(_C, f"_len_torch_{kind}_stack"), getattr(_C, f"_get_{kind}_stack_at")
    push, pop = getattr(_C, f"_push_on_torch_{kind}_stack"), getattr(_C, f"_pop_torch_{kind}_stack")

    def put(before: list[Any]) -> None:
        while length():
            pop(*args)
        for mode in before:
            push(mode)

    return Mode(lambda: [at(i) for i in range(length())], put)


def _saved_hooks(before: Any) -> None:
    while _C._autograd._top_saved_tensors_default_hooks(True) not in (None, before):
        _C._autograd._pop_saved_tensors_default_hooks()


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _determined(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


MODES: dict[str, Mode] = {
    "the default device": Mode(_device, torch.set_default_device),
    "the active torch function modes": _stack("function"),
    "the active torch dispatch modes": _stack("dispatch", None),
    "the hooks on saved tensors": Mode(partial(_C._autograd._top_saved_tensors_default_hooks, True), _saved_hooks),
    "the default dtype": Mode(torch.get_default_dtype, torch.set_default_dtype),
    "whether gradients are recorded": Mode(torch.is_grad_enabled, _C._set_grad_enabled),
    "torch's deterministic algorithms": Mode(_deterministic, _determined),
    "cudnn.deterministic": _attribute(_cudnn, "deterministic"),
    "cudnn.benchmark": _attribute(_cudnn, "benchmark"),
    "cudnn.allow_tf32": _attribute(_cudnn, "allow_tf32"),
    "matmul.allow_tf32": _attribute(_cuda, "allow_tf32"),
    "whether MKL-DNN is used": Mode(_C._get_mkldnn_enabled, _C._set_mkldnn_enabled),
    "autocast on the CPU": Mode(partial(torch.is_autocast_enabled, "cpu"), partial(torch.set_autocast_enabled, "cpu")),
    "autocast on a GPU": Mode(partial(torch.is_autocast_enabled, "cuda"), partial(torch.set_autocast_enabled, "cuda")),
    "the number of torch's threads": Mode(torch.get_num_threads, torch.set_num_threads),
    "Python's trace function": Mode(sys.gettrace, sys.settrace),
    "Python's profile function": Mode(sys.getprofile, sys.setprofile),
}
"""In the order in which they are put back: a default device is a function mode."""


@contextmanager
def restored() -> Iterator[None]:
    """Whatever a network switches while it is made, loaded or first asked is switched back: it is not alone here."""
    before = [(mode, mode.get()) for mode in MODES.values()]
    try:
        yield
    finally:
        for mode, was in before:
            if mode.get() != was:
                mode.put(was)
