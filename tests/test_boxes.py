"""Models that nobody sees into: numpy, classes alone; refused what they cannot give, else the same rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from torch import nn

import robustsuite as rs
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import UsageError
from tests.nets import another, linear


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))


def swept(model: str, **threats: Any) -> dict[str, Any]:
    model = model if ":" in model else f"python:tests.nets:{model}"
    return {"name": "boxes", "models": [model], "data": [{"digits": {"first": 24}}],
            "threats": threats}  # fmt: skip


SCORES = {"scenario": "evasion", "access": "scores", "budget": {"linf": 0.1}, "attacks": [{"square": {"steps": 20}}]}
LABELS = {"scenario": "evasion", "access": ["labels", "aux_data"], "budget": {"l2": 1.0},
          "attacks": [{"cgba": {"queries": 60, "n0": 10}}]}  # fmt: skip
WHITE = {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": [{"pgd": {"steps": 3}}]}


def rows(model: str, out: Path, **threats: Any) -> pd.DataFrame:
    run = rs.run(swept(model, **threats), out=out)
    files = sorted(run.folder.glob("cells/*/examples.parquet"))
    tables = [pd.read_parquet(f).drop(columns="run_id") for f in files]
    (attacked,) = [table for table in tables if "distance" in table]
    return attacked


def test_a_box_has_the_rows_of_the_network_inside(tmp_path: Path) -> None:
    want = rows("linear", tmp_path / "plain", scores=SCORES)
    pd.testing.assert_frame_equal(rows("Boxed", tmp_path / "box", scores=SCORES), want)
    want = rows("linear", tmp_path / "plain_labels", labels=LABELS)
    for name in ("Boxed", "Voting"):
        pd.testing.assert_frame_equal(rows(name, tmp_path / f"{name}_labels", labels=LABELS), want)
    assert 0 < want["clean_ok"].mean() <= 1


def test_what_a_box_cannot_give_is_refused_in_a_sentence() -> None:
    decided = {c.attack.name: d for c, d in plan(sweep_of(swept("Boxed", white=WHITE, scores=SCORES), "x")) if c.attack}
    assert decided["pgd"].status == "refused"
    assert "pgd needs gradients; python:tests.nets:Boxed shows labels, scores alone" in decided["pgd"].sentence
    assert decided["square"].status == "run"
    decided = {c.attack.name: d for c, d in plan(sweep_of(swept("Voting", scores=SCORES), "x")) if c.attack}
    assert "square needs scores; python:tests.nets:Voting shows labels alone" in decided["square"].sentence
    hardened = {**swept("Boxed", scores=SCORES), "defenses": [{"adversarial_finetuning": {"epochs": 1}}]}
    sentences = {d.sentence for c, d in plan(sweep_of(hardened, "x")) if c.attack}
    assert sentences == {"adversarial_finetuning trains the network; python:tests.nets:Boxed shows labels, scores "
                         "alone, to anybody"}  # fmt: skip


def test_votes_are_not_flagged_as_rounded_logits(tmp_path: Path) -> None:
    run = rs.run(swept("Voting", labels=LABELS), out=tmp_path / "run")
    assert "rounded_logits" not in " ".join(map(str, run.scores["flags"]))


def test_an_attack_that_needs_gradients_is_played_on_the_adversarys_own_network(tmp_path: Path) -> None:
    own = {**WHITE, "access": ["scores", "aux_data"], "surrogate": "python:tests.nets:another"}
    run = rs.run(swept("Boxed", transfer=own), out=tmp_path / "own")
    (row,) = run.scores.query("metric == 'robust_accuracy'").to_dict("records")
    assert "transfer_alone" in str(row["flags"])
    assert row["grade"] == "PROVISIONAL"
    own["surrogate"] = "python:tests.nets:linear"  # the very network: as good as a white box
    same = rows("Boxed", tmp_path / "same", transfer=own)
    white = rows("linear", tmp_path / "white", transfer=WHITE)
    assert (same["robust"] == white["robust"]).all()
    assert (same["queries"] == 0).all()
    with pytest.raises(UsageError, match="expected aux_data in the access of 'transfer'"):
        sweep_of(swept("Boxed", transfer={**own, "access": "scores"}), "x")
    with pytest.raises(UsageError, match=r"expected missing in the module tests\.nets"):
        plan(sweep_of(swept("Boxed", transfer={**own, "surrogate": "python:tests.nets:missing"}), "x"))


def test_another_surrogate_is_another_cell(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    spec = f"checkpoint:{file}?arch=python:tests.nets:linear"
    own = {**WHITE, "access": ["scores", "aux_data"], "surrogate": spec}

    def ids(net: nn.Module) -> set[str]:
        save_file(net.state_dict(), file)
        return {c.run_id for c, _ in plan(sweep_of(swept("Boxed", transfer=own), "x")) if c.attack}

    before = ids(linear())
    assert ids(linear()) == before
    assert not before & ids(another())  # the same words, other weights


def test_a_white_box_is_not_asked_for_more_than_the_threat_grants(tmp_path: Path) -> None:
    own = {**WHITE, "access": ["scores", "aux_data"], "surrogate": "python:tests.nets:another"}
    assert (rows("linear", tmp_path / "own", transfer=own)["queries"] == 0).all()


def exported(
    path: Path, net: nn.Module, *, nhwc: bool = False, batch: int | None = None, labels: bool = False,
    eight: bool = False,
) -> None:  # fmt: skip
    """An ONNX file of these nodes, written by hand: an exporter would bring a package more."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    layer = net[1]  # type: ignore[index]
    sizes = [batch or "n", 8, 8, 1] if nhwc else [batch or "n", 1, 8, 8]
    nodes = [helper.make_node("Flatten", ["x"], ["flat"])]
    if eight:
        nodes = [helper.make_node("Cast", ["x"], ["levels"], to=kind.FLOAT),
                 helper.make_node("Div", ["levels", "white"], ["unit"]),
                 helper.make_node("Flatten", ["unit"], ["flat"])]  # fmt: skip
    nodes += [helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1)]
    outputs = [helper.make_tensor_value_info("y", kind.FLOAT, [batch or "n", 10])]
    if labels:
        nodes.append(helper.make_node("ArgMax", ["y"], ["k"], axis=1, keepdims=0))
        outputs = [helper.make_tensor_value_info("k", kind.INT64, [batch or "n"])]
    weights = [onnx.numpy_helper.from_array(getattr(layer, k).detach().numpy(), v)
               for k, v in {"weight": "w", "bias": "b"}.items()]  # fmt: skip
    weights += [onnx.numpy_helper.from_array(np.array(255, np.float32), "white")] if eight else []
    given = [helper.make_tensor_value_info("x", kind.UINT8 if eight else kind.FLOAT, sizes)]
    model = helper.make_model(helper.make_graph(nodes, "g", given, outputs, weights),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=9)  # fmt: skip
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("how", [{}, {"nhwc": True}, {"batch": 4}])
def test_a_graph_in_onnxruntime_has_the_rows_of_the_network(tmp_path: Path, how: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    exported(tmp_path / "net.onnx", linear(), **how)
    want = rows("linear", tmp_path / "plain", scores=SCORES)
    got = rows("onnxruntime:net.onnx", tmp_path / "onnx", scores=SCORES)
    same = ["clean_ok", "robust", "in_budget", "fooled", "distance", "queries"]
    pd.testing.assert_frame_equal(got[same], want[same])


def test_a_graph_of_8_bits_is_judged_on_what_it_is_given(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    exported(tmp_path / "net.onnx", linear(), eight=True)
    threat = {**SCORES, "budget": {"linf": 64.5 / 255}}
    got = rows("onnxruntime:net.onnx", tmp_path / "onnx", scores=threat)
    fell = got[got["clean_ok"] & ~got["robust"]]
    levels = fell["distance"] * 255
    assert len(fell) >= 1
    assert (levels - levels.round()).abs().max() < 1e-4
    assert levels.max() <= 64 + 1e-4


def test_a_graph_that_names_the_class_shows_labels_alone(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    exported(tmp_path / "net.onnx", linear(), labels=True)
    want = rows("linear", tmp_path / "plain", labels=LABELS)
    got = rows("onnxruntime:net.onnx", tmp_path / "onnx", labels=LABELS)
    same = ["clean_ok", "robust", "in_budget", "fooled", "distance", "queries"]
    pd.testing.assert_frame_equal(got[same], want[same])
    sentences = {d.sentence for c, d in plan(sweep_of(swept("onnxruntime:net.onnx", scores=SCORES), "x")) if c.attack}
    assert sentences == {"square needs scores; onnxruntime:net shows labels alone, to anybody"}


def test_what_is_no_graph_of_these_pictures_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    exported(tmp_path / "net.onnx", linear())
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:100])
    for name, data in (("cut", "digits"), ("missing", "digits"), ("net", "scenes")):
        sweep = {**swept(f"onnxruntime:{name}.onnx", scores=SCORES), "data": [{data: {"first": 8}}]}
        with pytest.raises(UsageError, match="expected"):
            plan(sweep_of(sweep, "x"))
