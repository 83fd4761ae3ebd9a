"""Pretrained models from where they are published: torchvision, timm and the Hub, AutoAttack's example, RobustBench."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from robustsuite.benchmarks.models.checkpoint import fill
from robustsuite.benchmarks.models.files import ONNX, regular
from robustsuite.benchmarks.models.finish import downloaded, finish, in_a_line
from robustsuite.benchmarks.models.huggingface import hub
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.benchmarks.models.weights import read_weights
from robustsuite.errors import BadModel, BadValue, MissingPackage, UnknownName
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader

OPSET = 17
"""The newest operators of ONNX that onnx2torch 1.5.15 knows throughout."""


@loader()
def torchvision(name: str, space: InputSpace, *, weights: str = "DEFAULT") -> Model:
    """A classifier of torchvision with its published weights: torchvision:resnet50?weights=IMAGENET1K_V2.

    Raises UnknownName, BadValue, and BadModel where the weights cannot be fetched.
    """
    import torchvision.models as zoo

    if name not in zoo.list_models(module=zoo):
        raise UnknownName("torchvision classifier", name, _short(name, zoo.list_models(module=zoo)))
    kinds = zoo.get_model_weights(name)
    if weights not in kinds.__members__:
        raise BadValue(f"expected weights of {name} ({', '.join(kinds.__members__)}), got {weights!r}; choose one")
    chosen = kinds[weights]
    try:
        net: nn.Module = zoo.get_model(name, weights=chosen, progress=False)
    except (OSError, RuntimeError) as error:
        file = chosen.url.rsplit("/", 1)[-1]
        hint = f"without a network, put {file} into the folder hub/checkpoints of $TORCH_HOME (default ~/.cache/torch)"
        raise downloaded(error, f"torchvision:{name}", hint) from error
    preset = chosen.transforms()
    return finish(f"torchvision:{name}({chosen.name})", net, space, (preset.mean, preset.std))


@loader()
def timm(name: str, space: InputSpace) -> Model:
    """A pretrained classifier of timm: timm:vit_base_patch16_224. Raises UnknownName, BadModel."""
    return _timm(name, f"timm:{name}", space)


@loader(name="hf-hub")
def hf_hub(name: str, space: InputSpace) -> Model:
    """A timm classifier from the Hugging Face Hub: hf-hub:timm/mobilenetv2_100.ra_in1k. Raises BadModel."""
    return _timm(f"hf-hub:{name}", f"hf-hub:{name}", space)


def _timm(name: str, spec: str, space: InputSpace) -> Model:
    import timm as zoo
    from timm.data.config import resolve_model_data_config

    known = zoo.list_models(pretrained=True)
    if not name.startswith("hf-hub:") and name not in known and name.partition(".")[0] not in zoo.list_models():
        raise UnknownName("timm model", name, _short(name, known))
    try:
        with hub():
            net: nn.Module = zoo.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        hint = "without a network, load it once elsewhere and copy $HF_HOME, or use checkpoint:FILE?arch=timm:NAME"
        raise downloaded(error, spec, hint) from error
    facts = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    return finish(spec, net, space, (facts["mean"], facts["std"]))


def _short(name: str, known: list[str]) -> list[str]:
    """The names worth showing of a list of thousands: the nearest, else a few common ones."""
    return (
        get_close_matches(name, known) or [n for n in ("resnet18", "resnet50", "vit_b_16") if n in known] or known[:5]
    )


@loader()
def pyautoattack(name: str, space: InputSpace) -> Model:
    """The undefended CIFAR-10 ResNet-18 that AutoAttack ships as its example: pyautoattack:cifar10. Raises BadModel."""
    if name != "cifar10":
        raise UnknownName("pyautoattack model", name, ["cifar10"])
    spec = find_spec("pyautoattack")
    if spec is None or spec.origin is None:
        raise MissingPackage("pyautoattack", "the model pyautoattack:cifar10")
    if space.shape != (3, 32, 32):
        raise BadModel(f"expected 3x32x32 pictures for pyautoattack:cifar10, got {space.shape}; choose cifar10 data")
    weights = read_weights(str(Path(spec.origin).parent / "examples" / "model_test.pt")).first
    net = build("resnet18_cifar", space)
    renamed = {key.replace("shortcut", "downsample").replace("linear.", "fc."): w for key, w in weights.items()}
    fill(net, renamed, "pyautoattack:cifar10", space)
    return finish("pyautoattack:cifar10", net, space)


@loader(requires="robustbench")
def robustbench(name: str, space: InputSpace, *, dataset: str = "cifar10", folder: str = "./models") -> Model:
    """A model of the RobustBench zoo: robustbench:Linf/Carmon2019Unlabeled?dataset=cifar10.

    Raises MissingPackage, BadValue, BadModel.
    """
    if find_spec("robustbench") is None:
        raise MissingPackage("robustbench", f"the model robustbench:{name}", "'robustsuite[robustbench]'")
    try:
        from robustbench.utils import load_model
    except ImportError as error:  # its older releases need setuptools<81, which their metadata does not say
        raise BadModel(f"expected robustbench to import, got {error}; pip install 'setuptools<81'") from error

    threat, slash, entry = name.partition("/")
    if not slash:
        raise BadValue(f"expected robustbench:THREAT/NAME, got {name!r}; for example Linf/Carmon2019Unlabeled")
    try:
        net = load_model(model_name=entry, dataset=dataset, threat_model=threat, model_dir=folder)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise downloaded(
            error, f"robustbench:{name}", "check the name on robustbench.github.io and the network"
        ) from error
    return finish(f"robustbench:{name}", net, space)


@loader(requires="onnx2torch")
def onnx(name: str, space: InputSpace) -> Model:
    """A network in an ONNX file over [0, 1] pixels, converted by onnx2torch: onnx:net.onnx.

    Operators newer than onnx2torch knows are brought down to opset 17 by ONNX itself. Raises MissingPackage, BadModel.
    """
    if find_spec("onnx2torch") is None:
        raise MissingPackage("onnx2torch", f"the model onnx:{Path(name).name}", "'robustsuite[onnx]'")
    path = regular(name, "an ONNX file", ONNX)
    import onnx as format  # a package that onnx2torch needs and brings
    from onnx.version_converter import convert_version

    note = ""
    try:
        read = format.load(str(path))
        try:
            net = _converted(read)
        except NotImplementedError:
            net = _converted(convert_version(read, OPSET))
            note = f"{path.name} brought down to opset {OPSET}"
    except Exception as error:  # the parser raises protobuf's own class, the converters RuntimeError and others
        hint = f"export it again with opset {OPSET}" if "version" in str(error) else "export it again"
        raise BadModel(f"expected an ONNX network in {path.name}, got {in_a_line(error)}; {hint}") from error
    return finish(f"onnx:{path.stem}", net, space, note=note)


def _converted(graph: Any) -> nn.Module:
    """As a network; onnx2torch looks for the weights of convolutions among initialisers alone, not among constants."""
    from onnx2torch import convert

    try:
        net: nn.Module = convert(graph)
    except KeyError:
        constants = {node.output[0]: node for node in graph.graph.node if node.op_type == "Constant"}
        needed = {name for node in graph.graph.node if node.op_type.startswith("Conv") for name in node.input[1:]}
        for name in sorted(needed & constants.keys()):
            for value in (held.t for held in constants[name].attribute if held.name == "value"):
                value.name = name
                graph.graph.initializer.append(value)
                graph.graph.node.remove(constants[name])
        net = convert(graph)
    return net
