"""TorchScript and torch.export: the numbers of the network they came from, an identity of their own, nothing run."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.errors import BadModel
from robustsuite.integrity.probes import probe
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import ANSWERS, load_model, ready

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
SPACE = InputSpace(1, 4, 4, 3)
X = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A convolution, batch normalisation, dropout and a head."""

    def __init__(self, outputs: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, outputs)
        self.drop, self.scale = nn.Dropout(0.5), scale

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.drop(self.norm(self.conv(x)).relu().flatten(1)))
        return z * self.scale


class Pair(Net):
    """One that returns its features too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(x).flatten(1)
        return self.head(features), features


def script(path: Path, net: nn.Module | None = None, frozen: bool = False) -> str:
    made = torch.jit.script((net or Net()).eval())
    (torch.jit.freeze(made) if frozen else made).save(str(path))
    return f"torchscript:{path}"


def program(
    path: Path, net: nn.Module | None = None, batch: int | None = None, shape: Any = (1, 4, 4), least: int = 1
) -> str:
    dim = {0: torch.export.Dim("batch", min=least)} if batch is None else None
    made = torch.export.export((net or Net()).eval(), (torch.rand(batch or 4, *shape),), dynamic_shapes=(dim,))
    torch.export.save(made, path)
    return f"export:{path}"


WAYS: dict[str, Callable[[Path], str]] = {
    "script": lambda p: script(p / "n.pt"),
    "frozen": lambda p: script(p / "n.pt", frozen=True),
    "traced": lambda p: torch.jit.trace(Net().eval(), X).save(str(p / "n.pt")) or f"torchscript:{p / 'n.pt'}",
    "pair in a script": lambda p: script(p / "n.pt", Pair()),
    "any batch": lambda p: program(p / "n.pt2"),
    "two at least": lambda p: program(p / "n.pt2", least=2),
    "one at a time": lambda p: program(p / "n.pt2", batch=1),
    "three at a time": lambda p: program(p / "n.pt2", batch=3),
    "pair in a program": lambda p: program(p / "n.pt2", Pair(), batch=2),
}


@pytest.mark.parametrize("name", WAYS)
def test_it_says_what_the_network_says_in_both_precisions_with_its_gradient(name: str, tmp_path: Path) -> None:
    model = load_model(WAYS[name](tmp_path), SPACE)
    plain = ready(Pair() if "pair" in name else Net())
    take = (lambda out: out[0]) if "pair" in name else (lambda out: out)
    net = ready(model.net)
    a, b = (X.clone().requires_grad_() for _ in range(2))
    assert torch.allclose(net(a), take(plain(b)), atol=1e-6)
    net(a).square().sum().backward()
    take(plain(b)).square().sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-6)
    judge = Judge(net, stochastic=False)
    y, wide = take(plain(X)).argmax(1), judge.precisely(X)
    assert wide is not None
    assert judge(X, y, Rng.of(0, "judge", torch.arange(7))).held.tolist() == [True] * 7
    exact = take(plain.double()(X.double()))
    assert wide.dtype == torch.float64
    single = "computes in float32 also where" in model.note
    assert single == (name == "frozen")
    assert torch.allclose(wide, exact, atol=1e-6 if single else 1e-12)
    assert net(X).dtype == torch.float32
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("scheme", ["frozen", "three at a time"])
def test_an_attack_and_every_probe_pass(scheme: str, tmp_path: Path) -> None:
    net, plain = ready(load_model(WAYS[scheme](tmp_path), SPACE).net), ready(Net())
    y = plain(X).argmax(1)
    found, wanted = (rs.evaluate(n, X, y, attack="pgd", budget=rs.Linf(0.05)) for n in (net, plain))
    assert torch.equal(found.columns["robust"], wanted.columns["robust"])
    assert [f.name for f in found.flags] == [f.name for f in wanted.flags]


@pytest.mark.parametrize("scheme", ["script", "traced"])
def test_a_script_is_probed_as_its_network_is(scheme: str, tmp_path: Path) -> None:
    net, plain = ready(load_model(WAYS[scheme](tmp_path), SPACE).net), ready(Net())
    y = plain(X).argmax(1)
    assert probe(net, X, y, SPACE) == probe(plain, X, y, SPACE)


def test_normalisation_and_one_output(tmp_path: Path) -> None:
    model = load_model(script(tmp_path / "n.pt") + "?mean=0.5&std=0.25", SPACE)
    assert torch.allclose(ready(model.net)(X), ready(Net())((X - 0.5) / 0.25), atol=1e-5)
    spec = program(tmp_path / "n.pt2", Net(1), batch=2)
    single = load_model(spec, InputSpace(1, 4, 4, 2))
    assert "one output, read as logits (0, z)" in single.note
    assert torch.allclose(ready(single.net)(X)[:, 1:], ready(Net(1))(X), atol=1e-6)


@pytest.mark.parametrize("write", [script, program], ids=["script", "program"])
def test_equal_weights_with_other_code_are_another_model(write: Any, tmp_path: Path) -> None:
    first, second = (
        load_model(write(tmp_path / f"{scale}.pt2", Net(scale=scale)), SPACE) for scale in (1.0, 2.0)
    )  # fmt: skip
    assert first.sha256 == second.sha256
    assert first.identity() != second.identity()


def test_frozen_weights_are_part_of_the_identity(tmp_path: Path) -> None:
    other = Net()
    nn.init.zeros_(other.head.weight)
    specs = [script(tmp_path / f"{i}.pt", net, frozen=True) for i, net in enumerate((Net(), other))]
    first, second, both = (load_model(spec, SPACE) for spec in (*specs, " + ".join(specs)))
    assert first.identity() != second.identity()
    assert {key for key in both.behaviour if key.startswith("file")} == {
        key for one in (first, second) for key in one.behaviour if key.startswith("file")
    }


def test_the_wrong_scheme_or_shape_is_told_the_right_one(tmp_path: Path) -> None:
    made = script(tmp_path / "n.pt").partition(":")[2]
    exported = program(tmp_path / "n.pt2", shape=(1, 6, 6), net=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    torch.save(Net().state_dict(), tmp_path / "w.pth")
    (tmp_path / "x.bin").write_bytes(b"abc")
    for spec, says in {
        f"checkpoint:{made}?arch=cnn_a": "load it as torchscript:n.pt",
        f"checkpoint:{exported.partition(':')[2]}?arch=cnn_a": "load it as export:n.pt2",
        f"export:{made}": "load it as torchscript:n.pt",
        f"torchscript:{tmp_path / 'w.pth'}": "load it as checkpoint:w.pth?arch=",
        f"torchscript:{tmp_path / 'x.bin'}": "got another kind of file",
        f"export:{tmp_path / 'none.pt2'}": "which is not there",
        exported: "take the data's 1x4x4 pictures, got one for 1x6x6",
    }.items():
        said = refusal(spec)
        assert says in said
        assert "\n" not in said
    assert "2-class data" in refusal(f"torchscript:{made}", InputSpace(1, 4, 4, 2))
    assert "8x8 pictures" in refusal(f"torchscript:{made}", InputSpace(1, 8, 8, 3))


def refusal(spec: str, space: InputSpace = SPACE) -> str:
    with pytest.raises(BadModel) as refused:
        load_model(spec, space)
    return str(refused.value)


class Touch:
    """Code in a pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], extra: Any = ()) -> str:
    """The archive with its members changed; torch aligns them, and reads them without."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
        for name, content in extra:
            new.writestr(name, content)
    return f"export:{target}"


def words(old: str, new: str) -> Callable[[str, bytes], bytes]:
    return lambda name, content: content.replace(old.encode(), new.encode()) if name.endswith(".json") else content


def test_nothing_that_an_exported_program_could_run_is_run(tmp_path: Path) -> None:
    source, target, flag = tmp_path / "n.pt2", tmp_path / "bad.pt2", tmp_path / "exploded"
    program(source)
    buffer = io.BytesIO()
    torch.save(Touch(flag), buffer)
    model = json.loads(zipfile.ZipFile(source).read("n/models/model.json"))
    size = str(next(iter(model["range_constraints"])))
    bad: dict[str, tuple[Callable[[str, bytes], bytes], Any]] = {
        "model.pt that is no plain data": (lambda n, c: buffer.getvalue() if n.endswith("model.pt") else c, ()),
        "torch.os.system": (words("torch.ops.aten.relu.default", "torch.os.system"), ()),
        "torch.ops.aten.from_file": (words("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), ()),
        "exit": (words(f'"{size}": {{', '"exit()": {'), ()),
        "a pickled object": (words('"use_pickle": false', '"use_pickle": true'), ()),
        "custom_obj_0": (words('"weight_0"', '"custom_obj_0"'), ()),
        "x, y=quit": (words('"name": "x"', '"name": "x, y=quit()"'), ()),
        "aotinductor": (lambda _, content: content, [("n/data/aotinductor/a.so", b"")]),
    }
    for says, (change, extra) in bad.items():
        rewritten(source, target, change, extra)
        assert says in refusal(f"export:{target}")
    assert not flag.exists()
    assert load_model(rewritten(source, target, lambda _, content: content), SPACE).pretrained


def test_a_script_that_opens_files_is_refused(tmp_path: Path) -> None:
    class Saver(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.save(x, "written.pt")
            return x.flatten(1)[:, :3]

    made = torch.jit.script(Saver())
    made.save(str(tmp_path / "s.pt"))
    assert "got 'torch.save'" in refusal(f"torchscript:{tmp_path / 's.pt'}")


def test_a_quantised_script_is_a_box_that_is_asked_one_by_one(tmp_path: Path) -> None:
    net = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), {nn.Linear})
    torch.jit.trace(net, X).save(str(tmp_path / "q.pt"))
    model = load_model(f"torchscript:{tmp_path / 'q.pt'}", SPACE)
    assert model.shows == ANSWERS
    assert "passes no gradient" in model.note
    alone = torch.cat([net(x) for x in X.split(1)])  # in a batch the scale is the batch's
    assert not torch.equal(net(X), alone)
    assert torch.equal(ready(model.net)(X), alone)
    assert [f.name for f in probe(model.net, X, alone.argmax(1), SPACE, shows=model.shows)] == []
