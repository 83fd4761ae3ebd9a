"""One small network in every form that people have networks in; `sources.py` plays each against the plain one.

A form is a function of a `Kit` that writes its files and returns a `Source`: what a sweep would name, and what the
network in it is.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustsuite.serve.data import Dataset, InputSpace, Split, load_data
from robustsuite.serve.models import Logits, Normalised, Training, load_model, ready
from robustsuite.serve.training import Recipe, fitted, one_cycle

ARCH = "scenes_resnet"
HALF = ((0.5,) * 3, (0.25,) * 3)
"""Mean and std of the networks that take normalised pixels."""

OWN = '''
"""A network of one's own, as people return its answers."""

from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn

from robustsuite.benchmarks.models.small_nets import build
from robustsuite.serve.data import InputSpace

WAYS = {
    "logits": lambda z: z,
    "pair": lambda z: (z, z.softmax(1)),
    "mapping": lambda z: {"loss": None, "logits": z},
    "output": lambda z: SimpleNamespace(logits=z, hidden_states=None),
    "numbers": lambda z: torch.from_numpy(z.detach().numpy()),
    "classes": lambda z: z.argmax(1),
    "one": lambda z: z[:, 1:2] - z[:, :1],
    "features": lambda z: z[:, :, None, None],
    "eight": lambda z: z,
}


class Own(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.net = way, build("ARCH", InputSpace(3, 32, 32, 10))
        self.net.load_state_dict(load_file("own.safetensors"))

    def forward(self, x):
        return WAYS[self.way](self.net(x))


def quantized(net):
    return torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear})


def __getattr__(name):
    if name in WAYS:
        return lambda: quantized(Own(name)) if name == "eight" else Own(name)
    raise AttributeError(name)
'''.replace("ARCH", ARCH).lstrip()


class Source(NamedTuple):
    """What a sweep names; the plain network in it, the pictures it is for and PGD's radius, where not the kit's own."""

    spec: str
    plain: nn.Module | None = None
    data: Dataset | None = None
    eps: str = ""


class Missing(Exception):
    """A package that writing this form needs and that is not installed."""


@dataclass
class Kit:
    """The network, the data with the pictures to be judged as test split, and the folder that files go to."""

    folder: Path
    data: Dataset
    net: nn.Module
    epochs: int
    open: ExitStack = field(default_factory=ExitStack)

    @property
    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's."""
        return {key: tensor.clone() for key, tensor in self.net.state_dict().items()}

    def saved(self, name: str, content: Any, **how: Any) -> str:
        """The content by torch.save, as a checkpoint of our architecture."""
        torch.save(content, self.folder / name, **how)
        return f"checkpoint:{self.folder / name}?arch={ARCH}"

    def trained(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Another network, drawn from seed 0 and trained on the same pictures for as many epochs."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = make()
        steps = Recipe(self.epochs, one_cycle(0.05, self.epochs), flip=True, crop=2, label_smoothing=0.0)
        return ready(fitted(net, Training(self.data.split("train"), self.data.split("val"), 0), steps))

    def example(self, n: int = 4) -> Tensor:
        """The first pictures, for tracing."""
        return self.data.split("test").images(torch.arange(n))


Form = Callable[[Kit], Source]


def kit(folder: Path, n: int, epochs: int, train: int = 4000) -> Kit:
    """The network, trained here from seed 0, and n test pictures of the embedded scenes."""
    data, _ = load_data({"scenes": {"first": n, "train": train}})
    model = load_model(f"recipe:{ARCH}?epochs={epochs}", data.space)
    net = model.fit(copy.deepcopy(model.net), Training(data.split("train"), data.split("val"), 0))
    return Kit(folder, data, ready(net), epochs)


def moved(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose every float of weight is changed so."""
    other = copy.deepcopy(net)
    other.load_state_dict({k: change(v) if v.is_floating_point() else v for k, v in net.state_dict().items()})
    return other


def stored(kind: torch.dtype) -> Form:
    """Weights in another precision."""

    def form(k: Kit) -> Source:
        weights = {key: t.to(kind) if t.is_floating_point() else t for key, t in k.weights.items()}
        return Source(k.saved(f"{kind}.pt", weights), moved(k.net, lambda t: t.to(kind).float()))

    return form


def under(name: str, wrap: Callable[[dict[str, Tensor]], Any], **how: Any) -> Form:
    """Weights inside something else, by torch.save."""
    return lambda k: Source(k.saved(f"{name}.pt", wrap(k.weights), **how))


def before(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """A prefix before every name."""
    return lambda weights: {prefix + key: tensor for key, tensor in weights.items()}


def safetensors(k: Kit) -> Source:
    """Weights without any code."""
    save_file(k.weights, k.folder / "net.safetensors")
    return Source(f"checkpoint:{k.folder / 'net.safetensors'}?arch={ARCH}")


def ema(choice: str) -> Form:
    """Two sets of weights in one file."""

    def form(k: Kit) -> Source:
        slow = moved(k.net, lambda t: t * 0.98)
        spec = k.saved("both.pt", {"model": k.weights, "ema": slow.state_dict(), "epoch": 3})
        return Source(spec + (f"&weights={choice}" if choice else ""), slow if choice == "ema" else None)

    return form


def quantised(net: nn.Module) -> nn.Module:
    """Its linear layer in 8 bits, by torch's dynamic quantisation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    return made


def own(way: str) -> Form:
    """A factory in a module of one's own."""

    def form(k: Kit) -> Source:
        (k.folder / "own_nets.py").write_text(OWN, "utf-8")
        save_file(k.weights, k.folder / "own.safetensors")
        os.chdir(k.folder)  # the working folder is where modules and weights are found
        inside = _two(k) if way == "one" else (quantised(k.net), None) if way == "eight" else (None, None)
        return Source(f"python:own_nets:{way}", *inside)

    return form


def _two(k: Kit) -> tuple[nn.Module, Dataset]:
    """The network cut to its first two classes, and pictures of those: labelled by whichever is likelier."""
    net = ready(Logits(k.net, lambda z: torch.stack([torch.zeros(len(z)).to(z), z[:, 1] - z[:, 0]], 1)))
    return net, answered(k, net, 2)


def answered(k: Kit, net: nn.Module, classes: int) -> Dataset:
    """The same pictures labelled by what a network that was not trained on their labels says of them."""
    x = k.example(len(k.data.split("test")))
    with torch.no_grad():
        y = net(x).argmax(1)
    space = InputSpace(*k.data.space.shape, classes)
    names = k.data.classes if classes == k.data.space.classes else tuple(map(str, range(classes)))
    return Dataset("scenes, as answered", space, names, {**k.data.splits, "test": Split.of(x, y)})


def architecture(scheme: str, name: str) -> Form:
    """A published architecture with weights of one's own."""

    def form(k: Kit) -> Source:
        zoo = import_module("timm" if scheme == "timm" else "torchvision.models")
        make = zoo.create_model if scheme == "timm" else zoo.get_model
        net = k.trained(lambda: make(name, num_classes=k.data.space.classes))
        save_file(net.state_dict(), k.folder / f"{name}.safetensors")
        spec = f"checkpoint:{k.folder / name}.safetensors?arch={scheme}:{name}"
        return Source(spec, net, answered(k, net, k.data.space.classes))

    return form


def published(k: Kit) -> Source:
    """A torchvision model by name, its weights where the download would put them."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ready(torchvision.models.squeezenet1_1(weights=None))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    place = k.folder / "home" / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), place)
    os.environ["TORCH_HOME"] = str(k.folder / "home")
    preset = weights.transforms()
    plain = ready(Normalised(net, preset.mean, preset.std))
    return Source("torchvision:squeezenet1_1", plain, answered(k, plain, 1000), "0.1/255")


def transformers(kind: str) -> Form:
    """A folder as transformers writes it."""

    def form(k: Kit) -> Source:
        if find_spec("transformers") is None:
            raise Missing("transformers")
        import transformers as t

        t.utils.logging.disable_progress_bar()
        names = dict(enumerate(k.data.classes))
        config = (t.ViTConfig(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
                              image_size=32, patch_size=4, id2label=names, attn_implementation="eager")
                  if kind == "vit" else t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1],
                                                       layer_type="basic", id2label=names))  # fmt: skip
        make = t.ViTForImageClassification if kind == "vit" else t.ResNetForImageClassification
        plain = k.trained(lambda: Normalised(Logits(make(config), attrgetter("logits")), *HALF))
        inner: Any = plain.net
        inner.net.save_pretrained(k.folder / kind)
        half = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        t.ViTImageProcessor(size={"height": 32, "width": 32}, **half).save_pretrained(k.folder / kind)
        return Source(f"hf:{k.folder / kind}", plain, answered(k, plain, len(names)))

    return form


def http(k: Kit) -> Source:
    """A service on this machine."""
    if find_spec("httpx2") is None:
        raise Missing("httpx2")
    services = import_module("tests.services")
    host = k.open.enter_context(services.serving(services.Served(k.net)))
    facts = f"name: loopback\nurl: http://{host}/v1\nrate: 5000\ntimeout: 30\nbatch: 16\n"
    (k.folder / "loopback.yaml").write_text(facts, "utf-8")
    return Source(f"http:{k.folder / 'loopback.yaml'}")


def recipe(k: Kit) -> Source:
    """The network that the kit trained, as a sweep trains it."""
    return Source(f"recipe:{ARCH}?epochs={k.epochs}")
