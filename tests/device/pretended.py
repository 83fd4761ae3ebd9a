"""A GPU that every machine has: tensors that say `cuda:0`, hold their values on the CPU and obey CUDA's device rules.

    with Pretended() as gpu:
        net.to("cuda")(x.to("cuda"))
    gpu.waits       # what would have made host and device wait for each other, by kind and place
    gpu.launches    # kernels launched, by the networks and by everybody else

It raises what CUDA raises where tensors of two devices meet, where numpy is handed a device's tensor, where a
generator draws for another device, where integers are multiplied as matrices. Every value is computed by the CPU's own
kernels, so a run must end in the same bits as on the CPU: it knows nothing of CUDA's numerics, memory or speed.

It is a tensor subclass over a `meta` tensor, whose dispatch unwraps, computes and wraps again; a dispatch mode, for
the calls that make a device's tensor from none; and a function mode, by which Python says and hears `cuda` while C++
is told `meta`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

import robustsuite

ROOT = Path(robustsuite.__file__).parents[1]
CUDA, HIDDEN = torch.device("cuda:0"), torch.device("meta")
aten = torch.ops.aten
FREE = {
    aten.detach, aten.alias, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten._unsafe_view,
    aten.lift_fresh, aten._reshape_alias, aten.new_empty_strided,
}  # fmt: skip
"""Operations without a kernel of their own, besides views."""

WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.bincount,
    aten.unique_consecutive, aten.equal, aten.is_nonzero, aten._linalg_eigh, aten.linalg_lstsq, aten._linalg_svd,
    aten.histc,
}  # fmt: skip
"""Operations whose result, or its shape, the host has to see."""

MATRICES = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.addmv, aten.mv, aten.dot}
INDEXED = {aten.index, aten._unsafe_index}
WRITTEN = {aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put}
SCALARS = {aten.copy_, aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_, *WRITTEN}
"""Beside pointwise operations, those that take a number held in a tensor of the other device."""


def on_device(value: object) -> bool:
    """Whether a device (a name, an object, an index or None) is the pretended one."""
    if value is None:
        return False
    return isinstance(value, int) or torch.device(value).type in ("cuda", "meta")  # type: ignore[arg-type]


class _PlainTensor(type(Tensor)):  # type: ignore[misc]
    """`type(x) == Tensor` holds, as it does on a GPU; auto-LiRPA asks so."""

    def __eq__(cls, other: object) -> bool:
        return other is Tensor or cls is other

    __hash__ = type.__hash__


class GpuTensor(Tensor, metaclass=_PlainTensor):
    """A tensor of the pretended device; `elem` holds its values."""

    elem: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: Tensor) -> GpuTensor:
        made: GpuTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            layout=elem.layout, device=HIDDEN,
        )  # fmt: skip
        made.elem = elem.resolve_conj().resolve_neg()  # what is lazy would not be seen through the wrapper
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _there().call(func, args, kwargs or {})

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: GpuTensor) -> None:
        self.elem = value.elem

    def get_device(self) -> int:
        return 0

    def __getitem__(self, key: Any) -> Tensor:  # type: ignore[override]
        return super().__getitem__(_listed(key))

    def __setitem__(self, key: Any, value: Any) -> None:  # type: ignore[override]
        super().__setitem__(_listed(key), value)

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"GpuTensor({tuple(self.shape)}, {self.dtype})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if not self.dim() else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        with _there().uncounted():
            copy: Tensor = GpuTensor(self.elem.detach().clone())
            if isinstance(self, nn.Parameter):
                copy = nn.Parameter(copy, self.requires_grad)
            else:
                copy.requires_grad_(self.requires_grad)
        return memo.setdefault(id(self), copy)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):  # .to(other)
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        if on_device(device):
            device = None  # already there: no copy, unless type or layout ask for one
        given = {"device": device, "dtype": dtype, "memory_format": layout}
        given = {k: v for k, v in given.items() if v is not None}
        copy = {"copy": True} if kwargs.get("copy") else {}
        return super().to(**given, **copy) if given or copy else self

    def cpu(self, *_: object, **__: object) -> Tensor:
        return self.to("cpu")

    def cuda(self, *_: object, **__: object) -> Tensor:
        return self

    def tolist(self) -> Any:
        _there().wait("tolist")
        return self.elem.tolist()

    def numpy(self, *_: object, **__: object) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first")

    def __array__(self, *_: object, **__: object) -> Any:
        return self.numpy()

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, **_: object) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA)


def _listed(key: Any) -> Any:
    """An index whose lists are the CPU tensors that C++ makes of them."""
    if isinstance(key, tuple):
        return tuple(map(_listed, key))
    return torch.tensor(key) if isinstance(key, list) else key


class _Generator(torch.Generator):
    """A generator that remembers the device it draws for."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls, "cpu")
        if on_device(device):
            _there().generators[made._cdata] = made
        return made


class _Names(TorchFunctionMode):
    """`cuda` wherever Python names a device becomes what C++ has no runtime for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            if isinstance(args[0], GpuTensor):
                copied = args[0].detach().clone() if func is torch.tensor else args[0]
                return copied.to(device=kwargs.get("device"), dtype=kwargs.get("dtype"))
            if on_device(kwargs.get("device")):  # C++ makes it on the CPU and moves it out of any mode's sight
                del kwargs["device"]
                return func(*args, **kwargs).to(CUDA)
        return func(*map(_hidden, args), **{k: _hidden(v) for k, v in kwargs.items()})


def _hidden(value: Any) -> Any:
    if isinstance(value, torch.device):
        return HIDDEN if value.type == "cuda" else value
    return HIDDEN if isinstance(value, str) and value.split(":")[0] == "cuda" else value


class Pretended(TorchDispatchMode):
    """The device, while it is entered; one at a time in a process."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[str] = Counter()
        self.questions = 0
        self.generators: dict[int, torch.Generator] = {}
        self._inside, self._counting = 0, True
        self._patches = ExitStack()

    def __enter__(self) -> Pretended:
        global _here
        _here = self
        for owner, name, value in self._patched():
            self._patches.enter_context(patch.object(owner, name, value))
        # torch 2.11 forks random states by the module that is named as the device's type is
        self._patches.enter_context(patch.object(torch, HIDDEN.type, torch.cuda, create=True))
        # a module on the device gets new parameters where it would be told to swap the storage of the old
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._patches.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        self._patches.enter_context(torch.jit.optimized_execution(False))  # whose fuser asks what device that is
        super().__enter__()
        self._patches.enter_context(_Names())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def wait(self, kind: str) -> None:
        """Count one wait of host and device for each other, at the project's innermost line."""
        if self._counting:
            self.waits[kind, _site()] += 1

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Nothing asked inside is counted."""
        before, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = before

    def reset(self) -> None:
        """Forget the counts."""
        self.waits.clear()
        self.launches.clear()
        self.questions = 0

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation: CUDA's rules, then the CPU's kernel."""
        packet, mine, theirs = func.overloadpacket, [], []  # type: ignore[var-annotated]
        plain_args = [_split(value, mine, theirs) for value in args]
        plain = {key: _split(value, mine, theirs) for key, value in kwargs.items()}
        made_here = "device" in kwargs and on_device(kwargs["device"])
        if "generator" in kwargs:
            self._drawn(func, kwargs, bool(mine) or made_here)
        if packet is aten._to_copy:
            return self._moved(args[0], dict(kwargs))
        if packet is aten.copy_:
            return self._copied(*args[:2])
        if not mine and not made_here:
            return func(*args, **kwargs)
        _refuse_mixture(func, args, mine, theirs)
        self._count(func, args)
        if plain.get("device") is not None:
            plain["device"] = torch.device("cpu")
        out = func(*plain_args, **plain)
        if func._schema.is_mutable:
            if torch.Tag.inplace_view in func.tags:
                with no_dispatch():  # the wrapper's own sizes follow its values'
                    func(*args, **kwargs)
            return kwargs["out"] if "out" in kwargs else args[0] if func._schema.returns else None
        if "device" in kwargs and kwargs["device"] is not None and not made_here:
            return out
        return _wrapped(out)

    def _moved(self, source: Tensor, kwargs: dict[str, Any]) -> Tensor:
        on, device = isinstance(source, GpuTensor), kwargs.pop("device", None)
        want = on if device is None else on_device(device)
        kwargs.pop("pin_memory", None)
        out: Tensor = aten._to_copy.default(_elem(source), **kwargs)
        if on != want:
            self.wait("device to host" if on else "host to device")
        elif on:
            self._launched()
        return GpuTensor(out) if want else out

    def _copied(self, target: Tensor, source: Tensor) -> Tensor:
        on, there = isinstance(source, GpuTensor), isinstance(target, GpuTensor)
        if on != there:
            self.wait("device to host" if on else "host to device")
        elif on:
            self._launched()
        _elem(target).copy_(_elem(source))
        return target

    def _drawn(self, func: Any, kwargs: dict[str, Any], here: bool) -> None:
        generator = kwargs.get("generator")
        if generator is not None and here != (generator._cdata in self.generators):
            want, got = ("cuda", "cpu") if here else ("cpu", "cuda")
            raise RuntimeError(f"Expected a '{want}' device type for generator but found '{got}' in {func} {_site()}")

    def _count(self, func: Any, args: Any) -> None:
        packet = func.overloadpacket
        if packet in WAITS or (packet is aten.repeat_interleave and func is aten.repeat_interleave.Tensor):
            self.wait(func._schema.name.removeprefix("aten::").strip("_"))
        if packet in INDEXED or packet in WRITTEN:
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype == torch.bool for i in indices if isinstance(i, GpuTensor)):
                self.wait("bool index")
            if any(not isinstance(i, GpuTensor) for i in indices):
                self.wait("host to device (index)")
        if not (func.is_view or packet in FREE):
            self._launched()

    def _launched(self) -> None:
        if self._counting:
            self.launches["network" if self._inside else "own"] += 1

    def _patched(self) -> list[tuple[Any, str, Any]]:
        """What Python is told while the device is there."""
        trace, get_graph = torch.jit.trace, torch.jit._get_trace_graph  # type: ignore[attr-defined]
        called, grad, backward = nn.Module.__call__, torch.autograd.grad, torch.autograd.backward

        def traced(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return trace(*args, **kwargs)

        def graph(module: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with self.uncounted(), _disable_current_modes(), _on_host(module):
                return get_graph(module, tree_map(_elem, inputs), *args, **kwargs)

        def state(*_: Any) -> Tensor:
            return torch.get_rng_state()

        known = {
            "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
            "is_bf16_supported": lambda *_: True, "synchronize": lambda *_: None,
            "is_current_stream_capturing": lambda: False, "max_memory_allocated": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None, "empty_cache": lambda: None,
            "get_device_name": lambda *_: "a pretended GPU", "get_device_capability": lambda *_: (9, 0),
            "manual_seed_all": lambda *_: None, "manual_seed": lambda *_: None, "get_rng_state": state,
            "set_rng_state": lambda *_: None, "get_rng_state_all": lambda: [torch.get_rng_state()],
            "set_rng_state_all": lambda *_: None, "_lazy_init": lambda: None,
        }  # fmt: skip
        return [
            *_bounded(),
            *((torch.cuda, name, value) for name, value in known.items()),
            (torch, "Generator", _Generator),
            (torch.jit, "trace", traced), (torch.jit, "_get_trace_graph", graph),
            (torch.accelerator, "current_accelerator", lambda *_, **__: None), (torch, "inference_mode", _no_grad),
            (nn.Module, "__call__", self._inside_of(called, asked=True)),
            (torch.autograd, "grad", self._inside_of(grad)), (torch.autograd, "backward", self._inside_of(backward)),
        ]  # fmt: skip

    def _inside_of(self, function: Callable[..., Any], *, asked: bool = False) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            if asked and not self._inside and self._counting:
                self.questions += 1
            self._inside += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._inside -= 1

        return inside


_here: Pretended | None = None


def _there() -> Pretended:
    assert _here is not None, "a tensor of the pretended device outlived every pretended device"
    return _here


def _no_grad(mode: bool = True) -> Any:
    """Inference tensors have no dispatch below autograd, so no pretended device."""
    return torch.no_grad() if mode else torch.enable_grad()


def _bounded() -> list[tuple[Any, str, Any]]:
    """auto-LiRPA fills its own tensor class by `.data`, and trusts `.to` to move a parameter and leave it one."""
    module = sys.modules.get("auto_LiRPA.bounded_tensor")
    if module is None:
        return []
    theirs, plain = module.BoundedTensor, module.BoundedTensor.__new__
    both = type("BoundedGpuTensor", (GpuTensor, theirs), {})

    def new(cls: type, x: Any, *args: Any, **kwargs: Any) -> Any:
        return GpuTensor.__new__(both, x.elem) if isinstance(x, GpuTensor) else plain(cls, x, *args, **kwargs)

    graphs = sys.modules["auto_LiRPA.bound_general"]
    parse = graphs.parse_module

    def parsed(*args: Any, **kwargs: Any) -> Any:
        operations, inputs, *rest = parse(*args, **kwargs)
        return operations, [i._replace(param=_Moving.of(i.param)) for i in inputs], *rest

    return [(theirs, "__new__", new), (graphs, "parse_module", parsed)]


class _Moving:
    """A parameter that stays one when it is moved."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter

    @staticmethod
    def of(value: Any) -> Any:
        return _Moving(value) if isinstance(value, nn.Parameter) else value

    def to(self, device: Any) -> nn.Parameter:
        return nn.Parameter(self.parameter.detach().to(device), self.parameter.requires_grad)


@contextmanager
def _on_host(net: nn.Module) -> Iterator[None]:
    """A tracer reads C++'s tensors: it is lent the values."""
    tables = [table for m in net.modules() for table in (m._parameters, m._buffers)]
    before = [dict(table) for table in tables]
    for table in tables:
        for name, value in table.items():
            if isinstance(value, GpuTensor):
                learnt = isinstance(value, nn.Parameter)
                table[name] = nn.Parameter(value.elem, value.requires_grad) if learnt else value.elem  # type: ignore
    try:
        yield
    finally:
        for table, values in zip(tables, before, strict=True):
            table.update(values)  # type: ignore[arg-type]


def _refuse_mixture(func: Any, args: Any, mine: list[GpuTensor], theirs: list[Tensor]) -> None:
    """Raise what CUDA raises where tensors of two devices meet, or where it has no kernel."""
    packet = func.overloadpacket
    if packet in MATRICES and not all(t.is_floating_point() for t in mine):
        raise RuntimeError(f'"{packet.__name__}_cuda" not implemented for integers {_site()}')
    if not theirs or not mine:
        return
    where = f"in {func} {_site()}"
    if packet in INDEXED or packet in WRITTEN:
        if not isinstance(args[0], GpuTensor):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor {where}")
        theirs = [args[2]] if packet in WRITTEN and not isinstance(args[2], GpuTensor) else []
    scalars = torch.Tag.pointwise in func.tags or packet in SCALARS
    changed = func._schema.is_mutable and not isinstance(args[0], GpuTensor | list | tuple)
    if changed or any(t.dim() or not scalars for t in theirs):
        shapes = [(str(t.device), tuple(t.shape)) for t in (*mine, *theirs)][:4]
        raise RuntimeError(f"Expected all tensors to be on the same device, found {shapes} {where}")


def _elem(value: Any) -> Any:
    return value.elem if isinstance(value, GpuTensor) else value


def _split(value: Any, mine: list[GpuTensor], theirs: list[Tensor]) -> Any:
    """An argument as the CPU's kernel takes it; its tensors are entered under their device."""
    if isinstance(value, Tensor):
        if isinstance(value, GpuTensor):
            mine.append(value)
            return value.elem
        theirs.append(value)
    elif isinstance(value, list | tuple):
        return [_split(one, mine, theirs) for one in value]
    return value


def _wrapped(out: Any) -> Any:
    """What the kernel returned, on the device."""
    if isinstance(out, Tensor):
        return GpuTensor(out)
    return type(out)(map(_wrapped, out)) if isinstance(out, list | tuple) else out


def _site() -> str:
    """The innermost line of the project that is at work, tests of the device left out."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and ".venv" not in file.parts and file.parent.name != "device":
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"
