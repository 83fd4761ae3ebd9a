"""VNN-COMP instances: hand-made ones with known answers, what is written of a counterexample, and hostile text."""

import gzip
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from robustsuite.app.cli import app
from robustsuite.app.commands_vet import line
from robustsuite.errors import BadData
from robustsuite.methods.verification import vnnlib
from robustsuite.methods.verification.branching import Limits
from robustsuite.methods.verification.properties import decided
from robustsuite.methods.verification.vnnlib import parsed, read_instance, written

HEAD = "".join(f"(declare-const X_{i} Real)\n" for i in range(2)) + "".join(
    f"(declare-const Y_{j} Real)\n" for j in range(2)
)
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1))\n; a comment (\n(assert (>= X_1 -1.0))(assert (<= X_1 1e0))\n"


def absolute() -> nn.Module:
    """Y_0 = |X_0| + X_1, Y_1 = X_1: so Y_0 lies in [-1, 2], and Y_0 >= Y_1 always."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        net[1].bias.zero_()
        net[3].weight.copy_(torch.tensor([[1.0, 1, 1, -1], [0, 0, 1, -1]]))
        net[3].bias.zero_()
    return net


KNOWN = {
    "above the most": ("(assert (>= Y_0 2.01))", "verified"),
    "below the most": ("(assert (>= Y_0 1.99))", "falsified"),
    "needs a split": ("(assert (<= Y_0 (- Y_1 0.01)))", "verified"),
    "linear": ("(assert (<= (+ Y_0 (* -1 Y_1)) -0.01))", "verified"),
    "both": ("(assert (and (>= Y_0 1.9) (<= Y_1 0.5)))", "falsified or unknown"),
    "either": ("(assert (or (and (>= Y_0 3)) (and (<= Y_1 -0.99))))", "falsified"),
    "neither": ("(assert (or (>= Y_0 3) (<= Y_1 -1.5) (>= Y_1 1.5)))", "verified"),
    "another box": ("(assert (or (and (<= X_1 0) (>= Y_1 0.5)) (and (>= X_1 0) (<= Y_1 -0.5))))", "verified"),
    "an empty box": ("(assert (>= X_0 2))", "verified"),
    "no output": ("(assert (<= X_0 0.5))", "falsified"),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("double", [False, True])
def test_known_answers(name: str, double: bool) -> None:
    """'both' cannot be: Y_0 >= 1.9 needs Y_1 >= 0.9; single rows do not show it, so unknown is as true as verified."""
    text, status = KNOWN[name]
    parts = parsed(HEAD + BOX + text, 2, 2, "the test")
    net = absolute().double() if double else absolute()
    answer = decided(net, parts, (1, 1, 2), Limits(200, 10))
    if name == "both":
        assert answer.status != "falsified"
        return
    assert answer.status == status
    if answer.x is not None:
        assert ((answer.x >= -1) & (answer.x <= 1)).all()
        z = absolute()(answer.x[None].float())[0].double()
        assert any(part.unsafe.gap(z[None]) <= 0 for part in parts)


def test_of_every_alternative_the_rows_and_boxes_are_those_written() -> None:
    (part,) = parsed(HEAD + BOX + "(assert (or (and (<= Y_0 3) (>= Y_1 (+ Y_0 1))) (>= Y_0 7)))", 2, 2, "t")
    assert part.low.tolist() == [-1, -1]
    assert part.high.tolist() == [1, 1]
    assert part.unsafe.a.tolist() == [[[1, 0], [1, -1]], [[-1, 0], [-1, 0]]]
    assert part.unsafe.b.tolist() == [[3, -1], [-7, -7]]
    z = torch.tensor([[2.0, 4.0], [2.0, 2.5], [7.0, 0.0], [6.0, 0.0]], dtype=torch.float64)
    assert (part.unsafe.gap(z) <= 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "2 inputs and 2 outputs"), ("(assert", "to be closed"), (")", "opening bracket"),
        ("hello", "opening bracket"), (HEAD + "(check-sat)", "declare-const or assert"),
        (HEAD + "(assert (< X_0 1))", "and, or, <= or >="),
        (HEAD + "(assert (<= X_0 X_1))", "one input each"), (HEAD + "(assert (<= Z_0 1))", "names X_0"),
        (HEAD + "(assert (<= X_0 1e999))", "names X_0"), (HEAD + "(assert (<= X_0 nan))", "names X_0"),
        (HEAD + "(assert (<= X_7 1))", "X_0 to X_1"), (HEAD + BOX + "(assert (<= Y_7 1))", "Y_0 to Y_1"),
        (HEAD + "(assert (<= (* X_0 X_0) 1))", "linear terms"), (HEAD, "between two numbers"),
        (HEAD + "(" * 100, "inside one another"), (HEAD + "(declare-const X_0 Real)", "declared next"),
        (HEAD + "(declare-const X_9999999999 Real)", "names X_0"), (HEAD + "(assert (and))", "and, or, <= or >="),
        (HEAD + "(assert (or (<= Y_0 1) (<= Y_1 1)))" * 20, "10000 alternatives"), ("\x00\xff", "opening bracket"),
        (HEAD + "(assert (and " + "(or (<= Y_0 1) (<= Y_1 1))" * 20 + "))", "10000 alternatives"),
        (HEAD + BOX + "(assert (<= (* 1e300 (* 1e300 Y_0)) 1))", "numbers up to 1e+30"),
        (HEAD + BOX + "(assert (<= Y_0 (+ 1e308 1e308)))", "numbers up to 1e+30"),
        (HEAD + BOX + "(assert (<= (- (* 1e9 (* 1e300 Y_0)) (* 1e9 (* 1e300 Y_0))) 1))", "got nan; scale"),
        (HEAD + BOX.replace(" 1)", " 1e300)"), "numbers up to 1e+30"),
        (HEAD + BOX.replace("(<= X_0 1)", "(<= (* 1e-20 X_0) 1e20)"), "no such pair for X_0"),
    ],
)  # fmt: skip
def test_what_is_not_an_instance_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(BadData, match=re.escape(words)) as found:
        parsed(text, 2, 2, "the test")
    assert len(str(found.value)) < 300


def test_endless_text_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vnnlib, "BYTES", 1000)
    bomb = tmp_path / "bomb.vnnlib.gz"
    bomb.write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(BadData, match="more; split"):
        read_instance(bomb, 2, 2)
    crushed = gzip.compress(HEAD.encode())
    torn = crushed[:20] + bytes(byte ^ 0x5A for byte in crushed[20:-8]) + crushed[-8:]
    for name, content in (("mixed.vnnlib.gz", torn), ("torn.vnnlib.gz", b"\x1f\x8b\x08"),
                          ("none.vnnlib.gz", b"no gzip")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadData, match=r"expected a \.vnnlib file"):
            read_instance(tmp_path / name, 2, 2)
    with pytest.raises(BadData, match=r"expected a \.vnnlib file"):
        read_instance(tmp_path / "absent", 2, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(and (or " + "(<= Y_0 1) " * 99 + ") " + "(<= Y_1 1) " * 99 + ")", "1000 rows in all alternatives"),
        ("(or " + "(<= Y_0 1) " * 99 + "(and " + "(<= Y_1 1) " * 99 + "))", "1000 coefficients of outputs"),
        ("(or " + "(<= X_0 1) " * 501 + ")", "1000 numbers in the boxes"),
    ],
)
def test_a_short_text_does_not_grow_without_limit(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long alternative made all others as long: half a MiB of text asked for 14 GB."""
    monkeypatch.setattr(vnnlib, "NUMBERS", 1000)
    with pytest.raises(BadData, match=words):
        parsed(f"{HEAD}{BOX}(assert {text})", 2, 2, "the test")


def test_the_limit_is_of_an_instance_however_many_boxes_it_has() -> None:
    cases = " ".join(f"(and (<= X_0 {1 - i / 100}) (<= Y_0 (- Y_1 0.01)))" for i in range(30))
    parts = parsed(f"{HEAD}{BOX}(assert (or {cases}))", 2, 2, "t")
    answer = decided(absolute(), parts, (1, 1, 2), Limits(10, 2))
    assert len(parts) == 30
    assert (answer.status, answer.nodes <= 10) == ("unknown", True)


def test_a_counterexample_is_written_as_the_competition_reads_it() -> None:
    assert written(torch.tensor([0.5, -1]), torch.tensor([2.0])) == "sat\n((X_0 0.5)\n (X_1 -1.0)\n (Y_0 2.0))\n"


def test_the_command_says_one_line_an_instance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))  # fmt: skip
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
    names = [*(f"X_{i}" for i in range(64)), "Y_0", "Y_1"]
    head = "".join(f"(declare-const {name} Real)" for name in names)
    box = "".join(f"(assert (<= X_{i} 0.51))(assert (>= X_{i} 0.5))" for i in range(64))
    texts = {"holds": "(assert (>= Y_0 1000))", "breaks": "(assert (<= Y_0 1000))"}
    for name, text in texts.items():
        (tmp_path / f"{name}.vnnlib").write_text(head + box + text)
    (tmp_path / "list.csv").write_text("a.onnx,holds.vnnlib,60\nb.onnx,breaks.vnnlib,60\nb.onnx,absent.vnnlib,60\n")
    model = f"checkpoint:{tmp_path / 'net.safetensors'}?arch=cnn_2c2f"
    said = CliRunner().invoke(app, [
        "certify", model, str(tmp_path / "holds.vnnlib"), str(tmp_path / "breaks.vnnlib"), "--space", "1x8x8x2",
        "--out", str(tmp_path / "out"), "--device", "cpu",
    ])  # fmt: skip
    assert said.exit_code == 0, (said.output, said.exception)
    assert re.search(r"holds\.vnnlib +verified +1 parts", said.output)
    assert re.search(r"breaks\.vnnlib +falsified +0 parts", said.output)
    assert "1 verified, 1 falsified, 0 unknown" in said.output
    assert max(map(len, said.output.splitlines())) < 80
    (kept,) = (tmp_path / "out").iterdir()
    numbers = [float(v) for v in re.findall(r"\(X_\d+ ([^)]*)\)", kept.read_text())]
    assert len(numbers) == 64
    assert all(0.5 <= v <= 0.51 for v in numbers)
    (tmp_path / "short.csv").write_text("a.onnx,holds.vnnlib,60\na.onnx\n")
    (tmp_path / "odd.csv").write_text(f"a.onnx,a\0b.vnnlib,60\na.onnx,{'x' * 5000},60\n")
    for given, words in ((["list.csv"], "--only NAME"), (["list.csv", "--only", "c"], "among 'a.onnx', 'b.onnx'"),
                         (["list.csv", "--only", "b"], "absent.vnnlib'; mend the path"),
                         (["short.csv"], "got 'a.onnx'; mend that row"), (["odd.csv"], "and 1 more; mend the path"),
                         (["holds.vnnlib", "--out", str(tmp_path / "list.csv")], "a folder for --out"),
                         (["holds.vnnlib", "--normalised"], "normalisation in front")):  # fmt: skip
        asked = ["certify", model, str(tmp_path / given[0]), *given[1:], "--space", "1x8x8x2"]
        found = CliRunner().invoke(app, asked)
        assert words in str(found.exception)


def test_a_line_fits_however_long_the_name() -> None:
    assert len(line("x" * 200, "falsified", 9_999_999, 99_999.9)) < 80


def test_of_weights_that_are_drawn_anew_nothing_is_verified() -> None:
    found = CliRunner().invoke(app, ["certify", "recipe:cnn_2c2f", "any.csv", "--space", "1x8x8x2"])
    assert "expected a model with its weights, got the recipe" in str(found.exception)
