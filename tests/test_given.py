"""What people hand from Python: each is a number or a sentence that quotes what came, and theirs stays as it was."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

import robustsuite as rs
from robustsuite.app import own
from robustsuite.errors import BadData, BadModel, BadValue, UsageError

X = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EIGHT = (X * 255).round().to(torch.uint8)
Y = torch.arange(12) % 4
BALL = rs.Linf(8 / 255)


class Net(nn.Module):
    """Four classes over 3 x 8 x 8 pictures."""

    def __init__(self, out=lambda z: z, channels: int = 3) -> None:
        super().__init__()
        self.head, self.out = nn.Linear(64 * channels, 4), out
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(4, 64 * channels, generator=torch.Generator().manual_seed(1)) / 8)
            self.head.bias.zero_()

    def forward(self, x):
        return self.out(self.head(x.flatten(1)))


def evaluate(net, x, y, **given):
    return rs.evaluate(net, x, y, **{"attack": "fgsm", "budget": BALL, **given})


PLAIN = evaluate(Net(), X, Y)
OF_8_BITS = evaluate(Net(), EIGHT.float() / 255, Y)


@pytest.mark.parametrize(
    ("x", "y", "same"),
    [
        (X.numpy(), Y.numpy(), PLAIN), (X.double(), Y, PLAIN), (X.clone().requires_grad_(), Y, PLAIN),
        (X.permute(0, 2, 3, 1), Y, PLAIN), (X.numpy().astype(">f8")[:, ::1], Y.numpy().astype(">i2"), PLAIN),
        (X, Y[:, None], PLAIN), (X, Y.to(torch.uint8), PLAIN), (X, Y.float(), PLAIN), (X, Y.tolist(), PLAIN),
        (X.numpy()[::-1], Y.flip(0).numpy(), None), (X.half(), Y, None), (X.bfloat16(), Y, None),
        (EIGHT, Y, OF_8_BITS), (EIGHT.numpy().transpose(0, 2, 3, 1), Y, OF_8_BITS),
    ],
)  # fmt: skip
def test_other_forms_of_the_same_are_the_same_number(x, y, same):
    found = evaluate(Net(), x, y)
    assert 0 <= found.robust <= found.clean <= 1
    if same is not None:
        assert (found.clean, found.robust) == (same.clean, same.robust)
        assert torch.equal(found.columns["distance"], same.columns["distance"])


def test_grey_pictures_without_a_channel():
    grey = X[:, 0]
    one, other = evaluate(Net(channels=1), grey, Y), evaluate(Net(channels=1), grey[:, None], Y)
    assert torch.equal(one.columns["distance"], other.columns["distance"])


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X * 255, Y, r"from 0\.\d+ to 25\d\.\d+; divide by 255"),
        ((X - 0.45) / 0.22, Y, r"from -2\.\d+ to 2\.\d+; they look normalised: hand the raw ones .* mean and std"),
        (X * 1.2, Y, r"to 1\.\d+; write x\.clamp"), (X * 1.005, Y, r"to 1\.00\d+; write x\.clamp\(0, 1\)$"),
        (torch.where(torch.arange(12).view(-1, 1, 1, 1) == 3, torch.nan, X), Y, "1 of 12 pictures, in number 3"),
        (X / 0, Y, "infinity in 12 of 12"), ((X * 255).long(), Y, "got int64 from 0 to 25"),
        ((X.numpy() * 65535).astype(np.uint16), Y, "got uint16 from .* divide by 65535"), (X > 0.5, Y, "got bool"),
        (X[:0], Y[:0], r"\(0, 3, 8, 8\)"), (X[0, 0], Y, r"shape \(8, 8\)"), (X[..., :3], Y, "where two"),
        (torch.rand(12, 8, 8, 4), Y, "drop alpha"), ("pictures", Y, "got text"), ([X, None], Y, "got list"),
        (X.to(torch.complex64), Y, "plain numbers"), (None, Y, "NoneType"),
        (X, nn.functional.one_hot(Y, 4), r"one-hot rows \(12, 4\); write y\.argmax\(1\)"),
        (X, torch.ones(12, 4), "several classes a picture"), (X, torch.rand(12, 4), "several numbers a picture"),
        (X, Y > 1, "booleans"), (X, Y + 0.5, "float32 from 0.5 to 3.5"), (X, Y / 0, "whole numbers"),
        (X, Y + 1, r"from 0 \.\.\. 3, got 1 \.\.\. 4; count classes from 0"), (X, Y - 1, r"got -1 \.\.\. 2"),
        (X, Y[:5], "5 labels and 12 pictures"), (X, Y[:, None, None], r"\(12, 1, 1\)"), (X, ["cat"] * 12, "got text"),
        (X, torch.tensor(3), r"shape \(\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_quoted(x, y, says):
    with pytest.raises(BadData, match=says) as found:
        evaluate(Net(), x, y)
    assert str(found.value).startswith("expected ")


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (Net().half(), "weights are float16, hand net.float"), (Net().double(), "float64"), (Net(channels=1), "mat1"),
        (Net(lambda z: z[:, :1]), "one column z"), (Net(lambda z: z.detach()), "attack='square'"),
        (Net(lambda z: z[:, 0]), r"shape \(1,\)"), (lambda x: x, "got function"), (None, "NoneType"),
        (torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), "scripted"),
    ],
)  # fmt: skip
def test_networks_that_do_not_answer_are_a_sentence(net, says):
    with pytest.raises(BadModel, match=says):
        evaluate(net, X, Y)


def test_without_a_gradient_an_attack_by_scores_is_a_number():
    scores = rs.Access.SCORES | rs.Access.LABELS
    found = evaluate(Net(lambda z: z.detach()), X, Y, attack="square", steps=5, access=scores)
    assert 0 <= found.robust <= 1


def test_budgets():
    for eps in (np.float32(8 / 255), torch.tensor(8 / 255), np.float64(8 / 255), np.array(8 / 255)):
        ball = rs.Linf(eps)
        assert type(ball.eps) is float
        assert ball.eps == pytest.approx(8 / 255)
        assert evaluate(Net(), X, Y, budget=ball).robust == PLAIN.robust
    for budget in (8 / 255, "8/255", 0):
        with pytest.raises(BadValue, match=r"write rs\.Linf\(8/255\)"):
            evaluate(Net(), X, Y, budget=budget)
    with pytest.raises(BadValue, match=r"got 8; write 8/255"):
        evaluate(Net(), X, Y, budget=rs.Linf(8))
    for eps in (True, torch.ones(2), np.nan, None):
        with pytest.raises(BadValue, match="eps >= 0"):
            rs.Linf(eps)
    assert evaluate(Net(), X, Y, budget=rs.L2(1.5)).robust <= 1


def test_the_network_stays_as_it_is():
    layers = nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4), nn.BatchNorm1d(4)
    net = nn.Sequential(*layers).train()
    net[3].weight.requires_grad_(False)
    net[4].eval()
    net[3].bias.grad = torch.ones(4)
    before = copy.deepcopy(net.state_dict())
    flags = [(m.training for m in net.modules()), (p.requires_grad for p in net.parameters())]
    flags = [list(f) for f in flags]
    first = evaluate(net, X, Y, attack="pgd", steps=2)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert [[m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]] == flags
    assert torch.equal(net[3].bias.grad, torch.ones(4))
    assert net[3].weight.grad is None
    ready = copy.deepcopy(net).eval()
    assert first.clean == (ready(X).argmax(1) == Y).float().mean()
    again = evaluate(net, X, Y, attack="pgd", steps=2)
    assert torch.equal(first.columns["distance"], again.columns["distance"])


def test_a_network_that_keeps_what_it_computed_is_evaluated():
    class Keeping(Net):
        def forward(self, x):
            self.kept = super().forward(x)
            return self.kept

    assert evaluate(Keeping(), X, Y).robust == PLAIN.robust


def test_a_device_that_is_not_there_is_a_sentence():
    for device in ("tpu", "cuda:99", 3.5):
        with pytest.raises(BadValue, match="device of this machine"):
            evaluate(Net(), X, Y, device=device)


class Pictures(Dataset):
    """A map-style data set as torchvision's are."""

    classes = ["a", "b", "c", "d"]  # noqa: RUF012

    def __init__(self, form="pil", n: int = 12) -> None:
        self.form, self.n = form, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i):
        pil = Image.fromarray(EIGHT[i].permute(1, 2, 0).numpy())
        forms = {"pil": pil, "tensor": EIGHT[i].float() / 255, "uint8": EIGHT[i], "alpha": pil.convert("RGBA")}
        return forms[self.form], int(Y[i])


class Image_:
    """A feature of the name that Hugging Face gives it."""


Image_.__name__ = "Image"


class ClassLabel:
    """The same of labels."""

    names = ("a", "b", "c", "d")


class Table:
    """As much of a Hugging Face data set as is looked at."""

    def __init__(self, columns=("img", "label"), features=None) -> None:
        self.column_names = list(columns)
        self.features = {"img": Image_(), "label": ClassLabel()} if features is None else features

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i):
        picture, label = Pictures()[i]
        return {c: label if c.startswith("label") else picture for c in self.column_names}

    def __iter__(self):
        return (self[i] for i in range(12))


def values(data: rs.Dataset) -> torch.Tensor:
    return data.split("test").images(torch.arange(len(data.split("test"))))


@pytest.mark.parametrize(
    "given",
    [
        (EIGHT, Y), (EIGHT.numpy(), Y.numpy()), (EIGHT.float().numpy() / 255, Y), (list(EIGHT), list(Y)),
        ([Pictures()[i][0] for i in range(12)], Y), (Pictures(),), (Pictures("tensor"),), (Pictures("uint8"),),
        (Pictures("alpha"),), (DataLoader(Pictures("tensor"), 5),), (DataLoader(TensorDataset(EIGHT, Y), 5),),
        (TensorDataset(EIGHT, Y),), (Table(),), (Table(("image", "labels"), {}),),
        ([Pictures()[i] for i in range(12)],),
    ],
)  # fmt: skip
def test_own_data_in_every_form_is_the_same(given):
    data = rs.Data.of(*given, name="mine")
    assert torch.equal(values(data), EIGHT.float() / 255)
    assert torch.equal(data.split("test").y, Y)
    assert (data.name, data.space.shape, data.space.classes) == ("mine", (3, 8, 8), 4)
    named = isinstance(given[0], Pictures) or (isinstance(given[0], Table) and given[0].features)
    assert data.classes == (("a", "b", "c", "d") if named else ("0", "1", "2", "3"))


def test_names_and_numbers_of_classes():
    assert rs.Data.of(X, Y, classes=["w", "x", "y", "z"]).classes == ("w", "x", "y", "z")
    assert rs.Data.of(X, Y, classes=10).space.classes == 10
    with pytest.raises(BadData, match=r"0 \.\.\. 2, got 0 \.\.\. 3"):
        rs.Data.of(X, Y, classes=3)
    for wrong in ("abcd", 1, 0.5, [], True):
        with pytest.raises(BadValue, match="classes"):
            rs.Data.of(X, Y, classes=wrong)
    with pytest.raises(BadValue, match="two classes or more, got 1"):
        rs.Data.of(X, Y * 0)
    for name in ("", "a\x1b[31m", 3, "x" * 99):
        with pytest.raises(BadValue, match="name of 1 to"):
            rs.Data.of(X, Y, name=name)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((X,), "labels beside"), ((Pictures(), Y), "hand it alone"), (({"train": 1, "test": 2},), "train, test"),
        ((Stream(),), "known length, got Stream"), ((DataLoader(Stream()),), "got DataLoader"),
        ((iter([]),), "iterator"), ((["ab"],), "pairs"), (([(Image.new("I;16", (8, 8)), 0)] * 2,), "mode I;16"),
        ((DataLoader(Pictures("tensor"), shuffle=True),), "shuffle=False"),
        ((DataLoader(Pictures("tensor"), sampler=SubsetRandomSampler([1, 2])),), "shuffle=False"), ((7,), "got int"),
        ((Table(("a", "b"), {}),), "got a, b; rename"), ((Pictures(n=0),), "got none"),
        (([X[0], X[1, :, :4]], Y[:2]), "one size"),
        (([(X[0], 1), (X[1], [1, 2])],), "several shapes"), ((X, Y[:, None] == Y), "several classes a picture"),
        ((X * 255, Y), "divide by 255"), (([(X[0], "cat")],), "got text"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_a_sentence(given, says):
    with pytest.raises(BadData, match=says):
        rs.Data.of(*given)


def test_more_than_memory_should_hold_is_a_sentence(monkeypatch):
    monkeypatch.setattr(own, "HELD", 1000)
    with pytest.raises(BadData, match="from number 5 on"):
        rs.Data.of(Pictures("uint8"))


def test_own_data_keeps_what_it_was_given():
    mine = EIGHT.clone()
    data = rs.Data.of(mine, Y)
    mine.zero_()
    assert torch.equal(values(data), EIGHT.float() / 255)


def four() -> nn.Module:
    return Net()


def test_own_data_in_a_sweep(tmp_path):
    attacks = {"t": {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": ["fgsm"]}}
    data = [rs.Data.of(EIGHT, Y, name="one"), rs.Data.of(EIGHT[:6], Y[:6], name="two", classes=4)]
    sweep = {"name": "s", "models": ["python:tests.test_given:four"], "data": data, "threats": attacks}
    done = rs.run(sweep, out=tmp_path / "run")
    assert (done.planned, done.computed) == (4, 4)
    assert set(done.scores["dataset"]) == {"one", "two"}
    robust = done.scores.query("dataset == 'one' and metric == 'robust_accuracy'")["value"]
    assert list(robust) == [OF_8_BITS.robust]
    again = rs.run(sweep, out=tmp_path / "run")
    assert (again.planned, again.computed) == (4, 0)
    with pytest.raises(BadValue, match="other processes can load"):
        rs.run(sweep, out=tmp_path / "other", by=rs.Workers(2))
    with pytest.raises(BadValue, match="'one' twice"):
        rs.run({**sweep, "data": [data[0], rs.Data.of(X, Y, name="one")]}, out=tmp_path / "third")
    with pytest.raises(UsageError, match=r"got 8; write 8/255"):
        rs.run({**sweep, "threats": {"t": {**attacks["t"], "budget": {"linf": 8}}}}, out=tmp_path / "fourth")
