"""Classifiers over [0, 1] pictures: normalisation inside, logits out, weights named by their hash."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robustsuite.config.identity import behaviour_of
from robustsuite.config.registry import F, card_of, carded, checked_parameters
from robustsuite.config.threats import Access
from robustsuite.errors import BadModel, BadValue, brief, likely, loading, quoted
from robustsuite.maths.numerics import as_bytes
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.ensembles import Members
from robustsuite.serve.protocols import Billed

WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)
"""What classes come in, where a network names them alone."""

ANSWERS = Access.LABELS | Access.SCORES
"""What a network shows that gives scores and no gradient."""


class Normalised(nn.Module):
    """(x - mean) / std channel by channel, then the network, so that attacks work on [0, 1] pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)  # type: ignore[no-any-return]


class Logits(nn.Module):
    """A network that returns its logits among other things: `take` picks them out."""

    def __init__(self, net: nn.Module, take: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.net, self.take = net, take

    def forward(self, x: Tensor) -> Tensor:
        return self.take(self.net(x))


class Votes(nn.Module):
    """A network that returns classes (N,) alone, as one that returns 1 for them and 0 for the others."""

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x: Tensor) -> Tensor:
        return one_hot(self.net(x).long(), self.classes).to(x.dtype)


class Box(nn.Module):
    """What answers without being seen into: `ask` is given float32 pictures on the CPU, and no gradient comes back.

    identity: hex digits of what it is, which become its weights' hash. A copy of it is itself.
    """

    identity: Tensor

    def __init__(self, ask: Callable[[Tensor], Tensor], identity: str) -> None:
        super().__init__()
        self.ask = ask
        self.register_buffer("identity", torch.frombuffer(bytearray.fromhex(identity), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            answers = self.ask(x.detach().float().cpu())
        return answers.to(x) if answers.is_floating_point() else answers.to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Box:
        return self


def services(net: nn.Module) -> list[Billed]:
    """What a network asks that bills its questions, each once."""
    asked: list[Any] = [module.ask for module in net.modules() if isinstance(module, Box)]
    return list({id(ask): ask for ask in asked if isinstance(ask, Billed)}.values())


class FromOne(nn.Module):
    """A network of two classes with one output, the logit z of the second: its logits are (0, z)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x).reshape(len(x), 1)
        return torch.cat([torch.zeros_like(z), z], 1)


def answering(net: nn.Module, out: Any, name: str, classes: int = 0) -> tuple[nn.Module, Tensor, str]:
    """A network that returned `out`, as one that returns logits (N, K) alone, those, and what a reader must know of it.

    Logits are an output's `logits`, by key or attribute, else the first of a tuple or list. Where the number of
    `classes` is known, whole numbers (N,) are classes; where there are two, one output a picture, (N, 1) or (N,), is
    the logit of the second. Raises BadModel.
    """
    take: Callable[[Any], Tensor] | None = None
    if isinstance(out, Mapping) and "logits" in out:
        take = itemgetter("logits")
    elif not isinstance(out, Tensor) and hasattr(out, "logits"):
        take = attrgetter("logits")
    elif isinstance(out, tuple | list) and out:
        take = itemgetter(0)
    found: Any = out if take is None else take(out)
    if take is not None:
        net = Logits(net, take)
    if classes and isinstance(found, Tensor) and found.ndim == 1 and found.dtype in WHOLE:
        return Votes(net, classes), one_hot(found.long(), classes).float(), ""
    if classes == 2 and isinstance(found, Tensor) and found.ndim in (1, 2) and found.numel() == len(found):
        z = found.reshape(-1, 1)
        return FromOne(net), torch.cat([torch.zeros_like(z), z], 1), f"{name} has one output, read as logits (0, z)"
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise _no_logits(out, name)
    return net, found, ""


def _no_logits(out: object, name: str) -> BadModel:
    def words(value: object) -> str:
        return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    parts = out.items() if isinstance(out, Mapping) else enumerate(out) if isinstance(out, tuple | list) else ()
    held = ", ".join(f"{key!r}: {words(value)}"[:60] for key, value in islice(parts, 4))
    got = f"{words(out)} of {held}" if held else words(out)
    return BadModel(
        f"expected logits (pictures, classes) from {name}, got {got}; return them alone, first, or named logits"
    )


@dataclass(frozen=True)
class Training:
    """What a recipe may see: the train split, the val split for every choice, a seed. Never the test split.

    tell: one line of progress. keep: a named finding (plain JSON) that a report shows; it is stored with the weights.
    watch: the val accuracy of every epoch is such a finding.
    """

    train: Split
    val: Split
    seed: int
    device: str = "cpu"
    tell: Callable[[str], None] = field(default=lambda _: None, repr=False)
    keep: Callable[[str, dict[str, Any]], None] = field(default=lambda name, finding: None, repr=False)
    watch: bool = False


Fit = Callable[[nn.Module, Training], nn.Module]
"""A recipe: an initialised network -> a trained one. A pretrained model's recipe returns the network as it is."""


@dataclass(frozen=True)
class Reshaping:
    """A recipe that returns another architecture; `shape` makes that, untrained, and leaves what it is given alone."""

    fit: Fit
    shape: Fit

    def __call__(self, net: nn.Module, training: Training) -> nn.Module:
        return self.fit(net, training)


def as_it_is(net: nn.Module, training: Training) -> nn.Module:
    """The recipe of a pretrained model."""
    return net


@dataclass(frozen=True)
class Model:
    """A classifier: its network, input space, recipe, and `sha256` of weights (or of the recipe, before training).

    note: what a reader of its numbers must see. classes: its own names of the classes, in order, where it knows them.
    behaviour: sources and versions that its answers depend on besides, as `identity.behaviour_of` finds them.
    shows: what anybody can see of it at the most, whatever a threat grants: less than white box where no gradient
    passes, where nobody sees inside, or where it answers with classes alone.
    host: whom asking it means to ask, '' for this process; a sweep must name it. grid: pictures reach it in 8 bits.
    """

    name: str
    net: nn.Module = field(repr=False)
    space: InputSpace
    sha256: str
    fit: Fit = field(default=as_it_is, repr=False)
    note: str = ""
    behaviour: dict[str, str] = field(default_factory=dict, repr=False)
    shows: Access = Access.WHITE_BOX
    host: str = ""
    grid: bool = False
    classes: tuple[str, ...] = field(default=(), repr=False)

    def identity(self) -> str:
        """What it does, as text: its weights or recipe, and what its answers depend on besides."""
        shows = [] if self.shows == Access.WHITE_BOX else [self.shows.words()]
        return json.dumps([self.sha256, self.behaviour, *shows], sort_keys=True)

    @property
    def pretrained(self) -> bool:
        """Whether the weights are given, not made by the recipe."""
        return self.fit is as_it_is


def shown(net: nn.Module, space: InputSpace, device: torch.device | str = "cpu") -> Access:
    """What a network shows at the most: classes alone, or scores alone where no gradient leads back into it."""
    if isinstance(net, Votes):
        return Access.LABELS
    asked = copy.deepcopy(net)  # what keeps its answers could not be copied afterwards
    return Access.WHITE_BOX if differentiable(asked, space, device) else ANSWERS


def differentiable(net: nn.Module, space: InputSpace, device: torch.device | str = "cpu") -> bool:
    """Whether any gradient leads back to the picture, whatever it shows: votes and thresholds have none."""
    leaf = torch.full((1, *space.shape), 0.5, requires_grad=True, device=device)
    with torch.enable_grad():
        return passes(net(leaf), leaf)


def passes(logits: Tensor, leaf: Tensor) -> bool:
    """Whether a gradient leads back to the leaf; operators on 8 bits say that one would, and have none or raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that such operators may raise one day
            return logits.requires_grad and (
                torch.autograd.grad(logits.nan_to_num(nan=0.0).sum(), leaf, allow_unused=True)[0] is not None
            )
    except RuntimeError:
        return False


def weights_sha256(net: nn.Module) -> str:
    """sha256 over the names and bytes of parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        for part in tensor if isinstance(tensor, tuple) else (tensor,):  # a quantised layer's weights and bias
            digest.update(_bytes(part))
    return digest.hexdigest()


def _bytes(held: object) -> bytes:
    if not isinstance(held, Tensor):
        return repr(held).encode()
    if held.is_quantized:
        return _bytes(held.int_repr()) + _bytes(held.dequantize())
    return as_bytes(held)


def loader(**facts: Any) -> Callable[[F], F]:
    """Register a model scheme: a function (name: str, space: InputSpace, *, parameters) -> Model."""
    return carded("model", **facts)


def load_model(spec: str, space: InputSpace) -> Model:
    """A model from 'scheme:name?key=value', such as 'torchvision:resnet50' or 'checkpoint:f.safetensors?arch=...'.

    'A + B + C' joins pretrained models: the mean of their logits, or what a defense such as crossmax makes of them.
    space: the data set's input space, against which the model is checked. Raises UnknownName, BadValue, BadModel.
    """
    if not isinstance(spec, str) or ":" not in spec:
        raise BadValue(f"expected a model as scheme:name, got {quoted(spec)}; write for example {likely(spec)}")
    if " + " in spec:
        return _joined([load_model(part.strip(), space) for part in spec.split(" + ")], space)
    scheme, _, rest = spec.partition(":")
    card = card_of("model", scheme)
    name, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(given := dict(pairs)) < len(pairs):
        raise BadValue(f"expected each parameter once in {quoted(spec)}, got one twice; keep one")
    with loading(brief(spec), BadModel):  # anybody's code makes the network, and is asked its first picture
        model = card.function(name, space, **checked_parameters(card, given))
        if not isinstance(model, Model):
            raise BadModel(f"expected a Model of the scheme {scheme}, got {type(model).__name__}; mend the plugin")
        behaviour = behaviour_of(model.net, [card.function.__module__]) | model.behaviour
        model = replace(model, behaviour=dict(sorted(behaviour.items())))
        for key, tensor in model.net.state_dict().items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise BadModel(f"expected finite weights in {spec}, got NaN or infinity in {key!r}; export it again")
    return model


def _joined(models: list[Model], space: InputSpace) -> Model:
    """An ensemble under the names and hashes of its members, in their order."""
    for model in models:
        if not model.pretrained:
            raise BadModel(f"expected pretrained models to join, got {model.name}, trained first; leave it out")
    net = Members([model.net for model in models])
    note = "; ".join(model.note for model in models if model.note)
    behaviour = {key: value for model in models for key, value in model.behaviour.items()}
    name = " + ".join(model.name for model in models)
    named = {model.classes for model in models if model.classes}
    classes = named.pop() if len(named) == 1 else ()
    return Model(name, net, space, weights_sha256(net), note=note, behaviour=behaviour_of(net) | behaviour,
                 classes=classes)  # fmt: skip


def ready(net: nn.Module, device: str = "cpu") -> nn.Module:
    """In eval mode, frozen, on the device: only the input's gradient is ever asked."""
    return net.to(device).eval().requires_grad_(False)
