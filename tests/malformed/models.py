"""Malformed models: specs, weights, graphs, descriptions of services, folders, factories."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from safetensors.torch import save as safe
from torch import nn

from tests.malformed.made import Case, Content, Runs, asked, changes, odd, of_model, put
from tests.malformed.texts import FACTORY, FLAGS, FOLDERS, SERVICES, SPECS

ARCH = "?arch=python:nets:digit"


@cache
def net() -> nn.Module:
    """What nets.py makes as `digit`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return made.eval()


def saved(content: Any, **how: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **how)
    return out.getvalue()


@cache
def script() -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net(), torch.zeros(1, 1, 8, 8)), out)
    return out.getvalue()


@cache
def program() -> bytes:
    out = io.BytesIO()
    torch.export.save(torch.export.export(net(), (torch.zeros(1, 1, 8, 8),)), out)
    return out.getvalue()


def graph(shape: Any = ("n", 1, 8, 8), external: str = "", op: str = "Flatten", opset: int = 17, ir: int = 8) -> bytes:
    """An ONNX file of the same network."""
    import onnx
    from onnx import TensorProto, helper

    state = net().state_dict()
    held = [
        helper.make_tensor("w", TensorProto.FLOAT, (10, 64), state["1.weight"].flatten().tolist()),
        helper.make_tensor("b", TensorProto.FLOAT, (10,), state["1.bias"].tolist()),
    ]
    if external:
        held[0].ClearField("float_data")
        held[0].data_location = TensorProto.EXTERNAL
        held[0].external_data.add(key="location", value=external)
    nodes = [helper.make_node(op, ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 10))]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, held),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir,
    )
    assert isinstance(made, onnx.ModelProto)
    content: bytes = made.SerializeToString()
    return content


def repacked(content: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None], packing: int = 0) -> bytes:
    """An archive with its members changed, or left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", packing) as new:
        for name in old.namelist():
            if (kept := change(name, old.read(name))) is not None:
                new.writestr(*kept)
    return out.getvalue()


def member(content: bytes, ending: str, value: bytes) -> bytes:
    return repacked(content, lambda name, held: (name, value if name.endswith(ending) else held))


def safetensors_of(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"w": torch.zeros(1)}
    for _ in range(levels):
        value = {"m": value}
    return value


def circle() -> dict[str, Any]:
    value: dict[str, Any] = {"w": torch.zeros(1)}
    value["self"] = value
    return value


def cell(shape: tuple[int, ...], offsets: tuple[int, int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def weights() -> Iterator[tuple[str, str, Content]]:
    """(what, ending, content) of files of weights."""
    state = net().state_dict()
    good = saved(state)
    yield from ((f"torch.save: {k}", ".pt", v) for k, v in changes(good, script(), "pt"))
    legacy = saved(state, _use_new_zipfile_serialization=False)
    yield from ((f"before 1.6: {k}", ".pth", v) for k, v in changes(legacy, good, "pth"))
    yield from ((f"safetensors: {k}", ".safetensors", v) for k, v in changes(safe(state), good, "safetensors"))
    made: dict[str, Any] = {
        "runs": Runs(),
        "weights that run": {**state, "x": Runs()},
        "a whole network": net(),
        "a list": [1, 2],
        "nothing": {},
        "None": None,
        "a tensor": torch.zeros(3),
        "numbers for keys": {1: torch.zeros(1)},
        "a word": "weights",
        "300 levels": deep(300),
        "in a circle": circle(),
        "NaN": {k: v * torch.nan for k, v in state.items()},
        "another's": {"a": torch.zeros(3, 3)},
        "complex": {k: v.to(torch.complex64) for k, v in state.items()},
        "a view of 10^12": {**state, "1.weight": torch.zeros(1).expand(10**6, 10**6)},
        "on meta": {k: v.to("meta") for k, v in state.items()},
        "5,000 names": {f"n{i}": torch.zeros(1) for i in range(5000)},
        "names of escapes": {"\x1b[31m" + k: v for k, v in state.items()},
        "a name of 100,000": {"a" * 100_000: torch.zeros(1)},
        "ordered with code": OrderedDict(state, x=Runs()),
    }
    yield from ((key, ".pt", saved(value)) for key, value in made.items())
    yield "runs, before 1.6", ".pt", saved(Runs(), _use_new_zipfile_serialization=False)
    yield "a plain pickle that runs", ".pt", pickle.dumps(Runs())
    yield (
        "pickle of 100,000 levels",
        ".pt",
        member(good, "data.pkl", b"\x80\x02" + b"(" * 100_000 + b"]" + b"t" * 100_000 + b"."),
    )
    yield "a memo of billions", ".pt", member(good, "data.pkl", b"\x80\x02}r\xff\xff\xff\x1f.")
    yield "a word of gigabytes", ".pt", member(good, "data.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".")
    yield (
        "packed zeros",
        ".pt",
        lambda: repacked(good, lambda n, c: (n, bytes(200 << 20) if n.endswith("/0") else c), 8),
    )
    yield "without its tensors", ".pt", repacked(good, lambda n, c: None if "/data/" in n else (n, c))
    yield "short tensors", ".pt", member(good, "data/0", bytes(8))
    for what, content in (
        ("length of 2^63", safetensors_of(b"{}", length=1 << 63)),
        ("length of 2^40", safetensors_of(b"{}", length=1 << 40)),
        ("offsets beyond", safetensors_of({"a": cell((10**6, 10**6), (0, 4 * 10**12))}, bytes(8))),
        ("shape that lies", safetensors_of({"a": cell((1000, 1000), (0, 8))}, bytes(8))),
        ("offsets that go back", safetensors_of({"a": cell((2,), (8, 0))}, bytes(8))),
        ("overlapping", safetensors_of({"a": cell((2,), (0, 8)), "b": cell((2,), (0, 8))}, bytes(8))),
        ("a dtype nobody knows", safetensors_of({"a": cell((2,), (0, 8), "Q7")}, bytes(8))),
        ("negative shape", safetensors_of({"a": cell((-2,), (0, 8))}, bytes(8))),
        ("a shape of 2^64", safetensors_of({"a": cell((1 << 32, 1 << 32, 4), (0, 8))}, bytes(8))),
        ("100,000 levels", safetensors_of(b"[" * 100_000)),
        ("a list", safetensors_of([1])),
        ("metadata of numbers", safetensors_of({"__metadata__": {"a": 1}})),
        ("nothing", safetensors_of({})),
        ("mean that is none", safe(state, {"mean": "x", "std": "y"})),
        ("a pickle", good),
    ):
        yield f"safetensors: {what}", ".safetensors", content


CODE = b"def forward(self, x):\n  return ops.aten.from_file('/etc/passwd', False, 1)\n"


def graphs() -> Iterator[tuple[str, str, Content]]:
    """(what, spec, content) of networks with their code."""
    for scheme, name, good, other in (
        ("torchscript", "n.pt", script(), program()),
        ("export", "n.pt2", program(), script()),
    ):
        yield from ((f"{scheme}: {k}", f"{scheme}:{name}", v) for k, v in changes(good, other, scheme))
    state = saved(net().state_dict())
    yield "script: weights", "torchscript:n.pt", state
    yield (
        "script: packed zeros",
        "torchscript:n.pt",
        lambda: repacked(script(), lambda n, c: (n, c + bytes(100 << 20)), 8),
    )
    yield (
        "script: opens a file",
        "torchscript:n.pt",
        repacked(script(), lambda n, c: (n, CODE if n.endswith(".py") else c)),
    )
    yield "script: no code", "torchscript:n.pt", repacked(script(), lambda n, c: None if n.endswith(".py") else (n, c))
    yield "script: pickle runs", "torchscript:n.pt", member(script(), "/data.pkl", pickle.dumps(Runs()))
    yield (
        "script: 50,000 brackets",
        "torchscript:n.pt",
        repacked(script(), lambda n, c: (n, b"x = " + b"(" * 50_000 if n.endswith(".py") else c)),
    )
    yield "export: weights", "export:n.pt2", state
    yield "export: a pickle beside", "export:n.pt2", member(program(), "sample_inputs/model.pt", pickle.dumps(Runs()))
    yield "export: no json", "export:n.pt2", member(program(), "model.json", b"[" * 100_000)
    yield (
        "export: names torch.os",
        "export:n.pt2",
        repacked(program(), lambda n, c: (n, c.replace(b"torch.ops.aten.linear.default", b"torch.os.system"))),
    )
    yield (
        "export: a shape of 10^15",
        "export:n.pt2",
        repacked(program(), lambda n, c: (n, c.replace(b'"as_int": 64', b'"as_int": 1000000000000000'))),
    )
    if find_spec("onnx"):
        yield from onnx_graphs()


def onnx_graphs() -> Iterator[tuple[str, str, Content]]:
    """The same of ONNX files, which the package onnx writes."""
    yield from ((f"onnxruntime: {k}", "onnxruntime:n.onnx", v) for k, v in changes(graph(), script(), "onnxruntime"))
    for what, content in (
        ("weights", saved(net().state_dict())),
        ("external /etc/passwd", graph(external="/etc/passwd")),
        ("external FIFO", graph(external="f")),
        ("external above", graph(external="../../x")),
        ("unknown operator", graph(op="Nope")),
        ("opset 99", graph(opset=99)),
        ("ir 99", graph(ir=99)),
        ("another shape", graph(("n", 3, 9, 9))),
        ("five axes", graph((1, 1, 1, 8, 8))),
        ("batch of 10^12", graph((10**12, 1, 8, 8))),
        ("batch of -1", graph((-1, 1, 8, 8))),
        ("batch of 0", graph((0, 1, 8, 8))),
    ):
        yield f"onnxruntime: {what}", "onnxruntime:n.onnx", content


def cases() -> Iterator[Case]:
    """All of them, in their order."""
    for spec in SPECS:
        yield Case("model specs and flags", f"spec {spec[:40]!r}", of_model(spec))
    for flag in FLAGS:
        late = flag[0] in ("--shard", "--executor", "--batch-size", "--workers", "-o")
        yield Case(
            "model specs and flags",
            f"flag {flag[0]} {flag[1][:20]}",
            (*asked("python:nets:digit", "digits", *(() if late else ("--dry-run",))), *flag),
        )
    for what, ending, content in weights():
        yield Case("checkpoints", what, of_model(f"checkpoint:w{ending}{ARCH}"), put(f"w{ending}", content))
    for what, spec, content in graphs():
        yield Case("TorchScript, .pt2, ONNX", what, of_model(spec), put(spec.partition(":")[2], content))
    for what, text in SERVICES.items():
        content = text.encode("utf-8", "surrogateescape")
        yield Case("endpoints, hf folders", f"endpoint: {what}", of_model("http:e.yaml"), put("e.yaml", content))
    for what, files in FOLDERS.items():
        yield Case(
            "endpoints, hf folders",
            f"hf: {what}",
            of_model("hf:./net"),
            lambda folder, files=files: [put(f"net/{name}", content)(folder) for name, content in files.items()],
        )
    for what, text in FACTORY.items():
        yield Case("python factories", what, of_model("python:own:f"), put("own.py", text))
    for scheme, ending in (
        ("checkpoint", ".pt"),
        ("checkpoint", ".safetensors"),
        ("torchscript", ".pt"),
        ("export", ".pt2"),
        ("onnxruntime", ".onnx"),
        ("http", ".yaml"),
        ("hf", ""),
    ):
        tail = ARCH if scheme == "checkpoint" else ""
        yield from odd(
            "no plain file, as a model",
            f"{scheme}:{ending}",
            f"m{ending}",
            lambda path, s=scheme, t=tail: of_model(f"{s}:{path}{t}"),
        )
