"""Networks that return their logits among other things: read where they are, refused where there are none."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.errors import BadModel
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Logits, load_model, weights_sha256
from tests import nets
from tests.toys import labelled, linear

SHAPES = {
    "tuple": lambda z: (z, None),
    "list": lambda z: [z, z[:, None]],
    "dict": lambda z: {"features": z[:, None], "logits": z},
    "attribute": lambda z: SimpleNamespace(loss=None, logits=z),
    "output": lambda z: Output(loss=None, logits=z),
}


class Output(OrderedDict):  # type: ignore[type-arg]
    """Like a ModelOutput: a mapping whose keys are attributes too."""

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Returning(nn.Module):
    """A network whose logits come in another shape."""

    def __init__(self, net: nn.Module, shape: object) -> None:
        super().__init__()
        self.inner, self.shape = net, shape

    def forward(self, x: Tensor) -> object:
        return self.shape(self.inner(x))  # type: ignore[operator]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_attack_gets_through_to_the_logits(shape: object) -> None:
    net = linear()
    split = labelled(net)
    x, budget = split.images(split.ids), rs.Linf(0.05)
    plain = rs.evaluate(net, x, split.y, attack="pgd", budget=budget)
    found = rs.evaluate(Returning(net, shape), x, split.y, attack="pgd", budget=budget)
    assert 0 < found.robust < found.clean
    assert all(torch.equal(plain.columns[name], found.columns[name]) for name in plain.columns)
    assert [f.name for f in found.flags] == [f.name for f in plain.flags]


def tupled() -> nn.Module:
    """The digits' net with something beside its logits."""
    return Returning(nets.linear(), SHAPES["tuple"])


def features() -> nn.Module:
    """A backbone without its head."""
    return Returning(nets.linear(), lambda z: {"features": z, "pooled": z})


def test_a_loader_wraps_what_needs_it_and_keeps_the_networks_own_hash() -> None:
    space = rs.load_data("digits")[0].space
    made = load_model("python:tests.test_outputs:tupled", space)
    assert isinstance(made.net, Logits)
    assert made.sha256 == weights_sha256(tupled())
    plain = load_model("python:tests.nets:linear", space)
    assert not isinstance(plain.net, Logits)
    x = torch.rand(5, *space.shape)
    assert torch.equal(made.net(x), plain.net(x))
    normalised = load_model("python:tests.test_outputs:tupled?mean=0.5&std=0.5", space)
    assert torch.allclose(normalised.net(0.5 + x / 2), plain.net(x), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (lambda z: {"features": z}, "got dict of 'features': shape (1, 3); return them alone, first, or named"),
        (lambda z: (z[0], z), "got tuple of 0: shape (3,), 1: shape (1, 3)"),
        (lambda z: (), "got tuple; return"),
        (lambda z: {"logits": None}, "got dict of 'logits': NoneType"),
        (lambda z: "cat", "got str"),
        (lambda z: z.argmax(1), "got shape (1,)"),
        (lambda z: z[None], "got shape (1, 1, 3)"),
    ],
)
def test_what_holds_no_logits_is_refused_with_what_came(shape: object, says: str) -> None:
    split = labelled(linear())
    with pytest.raises(BadModel) as refused:
        rs.evaluate(Returning(linear(), shape), split.images(split.ids), split.y)
    assert f"expected logits (pictures, classes) from the network, {says}" in str(refused.value)
    if "features" in says:
        with pytest.raises(BadModel, match="test_outputs:features, got dict of 'features'"):
            load_model("python:tests.test_outputs:features", rs.load_data("digits")[0].space)




class One(nn.Module):
    """One logit a picture, in a column or flat."""

    def __init__(self, flat: bool = False, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.flat = nn.Linear(16, outputs), flat

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(x.flatten(1) - 0.5)
        return z.flatten() if self.flat else z


class Two(nn.Module):
    """The same as two logits."""

    def forward(self, x: Tensor) -> Tensor:
        z = One()(x)
        return torch.cat([torch.zeros_like(z), z], 1)


def one() -> nn.Module:
    """For a loader."""
    return One()


@pytest.mark.parametrize("flat", [False, True])
def test_one_output_for_two_classes_is_a_sigmoids_logit(flat: bool) -> None:
    x = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = (One()(x).flatten() > 0).long()
    assert 0 < int(y.sum()) < 24
    found, plain = (rs.evaluate(net, x, y, attack="pgd", budget=rs.Linf(0.02)) for net in (One(flat), Two()))
    assert 0 < found.robust < found.clean == 1.0
    assert all(torch.equal(plain.columns[name], found.columns[name]) for name in plain.columns)


def test_a_loader_reads_one_output_only_for_two_classes_and_says_so() -> None:
    made = load_model("python:tests.test_outputs:one", InputSpace(1, 4, 4, 2))
    assert made.note == "python:tests.test_outputs:one has one output, read as logits (0, z)"
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(made.net(x), Two()(x))
    assert made.sha256 == weights_sha256(one())
    with pytest.raises(BadModel, match="expected a 3-class model for 3-class data"):
        load_model("python:tests.test_outputs:one", InputSpace(1, 4, 4, 3))
    with pytest.raises(BadModel, match="expected logits"):
        rs.evaluate(One(flat=True), x, torch.tensor([0, 1, 2]))
