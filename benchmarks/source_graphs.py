"""The same network as files that hold its graph, and in 8 bits: TorchScript, torch.export, ONNX; for `sources.py`."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.models.small_nets import build
from robustsuite.benchmarks.source_files import Form, Kit, Missing, Source, answered, quantised
from robustsuite.serve.models import ready


def script(how: str) -> Form:
    """TorchScript: scripted (of a network whose code torch can read), traced, frozen, or traced in 8 bits."""

    def form(k: Kit) -> Source:
        net = k.trained(lambda: build("cnn_base", k.data.space)) if how == "scripted" else k.net
        net = quantised(net) if how == "quantised" else net
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch.jit is deprecated
            made = torch.jit.script(net) if how == "scripted" else torch.jit.trace(net, k.example())
            made = torch.jit.freeze(made) if how == "frozen" else made
            made.save(str(k.folder / f"{how}.pt"))
        spec = f"torchscript:{k.folder / how}.pt"
        if how == "scripted":
            return Source(spec, net, answered(k, net, k.data.space.classes))
        return Source(spec, OneByOne(net) if how == "quantised" else None)

    return form


class OneByOne(nn.Module):
    """Dynamic quantisation takes its scale from the whole batch: asked so, an answer is about its picture alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.held = (net,)  # no submodule: its weights are packed and no tensors

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.held[0](one.float()) for one in x.split(1)]).to(x)


class Rounded(nn.Module):
    """A network behind pictures of 8 bits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net((x * 255).round().clamp(0, 255) / 255)
        return out


def exported(batch: int | None) -> Form:
    """torch.export, for a number of pictures or any."""

    def form(k: Kit) -> Source:
        dynamic = None if batch else ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(k.net, (k.example(batch or 4),), dynamic_shapes=dynamic)
        torch.export.save(program, k.folder / f"net{batch or ''}.pt2")
        return Source(f"export:{k.folder / 'net'}{batch or ''}.pt2")

    return form


class _Levels(nn.Module):
    def __init__(self, net: nn.Module, labels: bool) -> None:
        super().__init__()
        self.net, self.labels = net, labels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x if self.labels else x.float() / 255)
        return out.argmax(1) if self.labels else out


def onnx(scheme: str, opset: int, kind: str = "") -> Form:
    """An ONNX file; kind: uint8 pixels in, or labels alone out."""

    def form(k: Kit) -> Source:
        for package in ("onnx", {"onnx": "onnx2torch"}.get(scheme, scheme)):
            if find_spec(package) is None:
                raise Missing(package)
        net, path, x = k.net, k.folder / f"{scheme}{opset}{kind}.onnx", k.example()
        if kind:
            net, x = ready(_Levels(net, kind == "labels")), x if kind == "labels" else (x * 255).round().to(torch.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this exporter is the older one
            torch.onnx.export(net, (x,), str(path), opset_version=min(opset, 20), dynamo=False, input_names=["x"],
                              output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})  # fmt: skip
        if opset > 20:  # newer than torch's exporter writes without another package
            import onnx
            from onnx.version_converter import convert_version

            onnx.save(convert_version(onnx.load(str(path)), opset), str(path))
        return Source(f"{scheme}:{path}", Rounded(k.net) if kind == "uint8" else None)

    return form
