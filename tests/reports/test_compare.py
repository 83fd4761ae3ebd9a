"""The comparison of two runs: matching, exact p-values, Holm, exit codes, and files that build servers can read."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_store import Store
from scipy.stats import binom

from robustsuite.errors import BadData
from robustsuite.reports.measure.compare import Comparison, compare
from robustsuite.reports.publish import gates
from robustsuite.reports.read.runs import read

N = 400


def rows(stands: np.ndarray) -> pd.DataFrame:
    n = len(stands)
    return pd.DataFrame({"index": np.arange(n), "label": np.arange(n) % 10, "clean_ok": True, "robust": stands})


def run(folder: Path, cells: dict[str, np.ndarray], **facts: Any) -> Path:
    """A run folder with one evasion cell an attack."""
    store = Store(folder)
    for attack, stands in cells.items():
        store.add(rows(stands), attack=attack, n=len(stands), **facts)
    return folder


def compared(base: Path, new: Path) -> Comparison:
    return compare(read([base]), read([new]))


def standing(k: int, n: int = N) -> np.ndarray:
    return np.arange(n) < k


def test_the_p_value_is_the_binomial_tail_and_holm_multiplies_it(tmp_path: Path) -> None:
    base = run(tmp_path / "a", {"fgsm": standing(200), "pgd": standing(180)})
    new = run(tmp_path / "b", {"fgsm": standing(188), "pgd": standing(180)})
    found = compared(base, new)
    fgsm = found.cells.set_index("attack").loc["fgsm"]
    assert (fgsm["only_base"], fgsm["only_new"], fgsm["n"]) == (12, 0, N)
    assert fgsm["p"] == pytest.approx(2 * binom.cdf(0, 12, 0.5))
    assert fgsm["p_holm"] == pytest.approx(2 * fgsm["p"])
    assert fgsm["difference"] == pytest.approx(-12 / N)
    assert found.cells.set_index("attack")["outcome"].to_dict() == {"fgsm": "loss", "pgd": "same"}
    assert found.exit_code == 1
    assert compared(new, base).exit_code == 0, "a gain is no loss"


def test_equal_rates_on_other_images_are_no_loss_and_one_pair_is_no_proof(tmp_path: Path) -> None:
    base = run(tmp_path / "a", {"pgd": standing(200), "fgsm": standing(50)})
    new = run(tmp_path / "b", {"pgd": standing(200)[::-1].copy(), "fgsm": standing(45)})
    found = compared(base, new).cells.set_index("attack")
    assert found.loc["pgd", "only_base"] == found.loc["pgd", "only_new"] == 200
    assert set(found["outcome"]) == {"same"}, "five discordant images cannot be significant: p = 1/16"


def test_examples_are_paired_by_index_not_by_position(tmp_path: Path) -> None:
    store = Store(tmp_path / "b")
    stands = np.random.default_rng(0).random(N) < 0.5
    store.add(rows(stands).sample(frac=1, random_state=3), attack="pgd", n=N)
    found = compared(run(tmp_path / "a", {"pgd": stands}), tmp_path / "b")
    assert not found.cells[["only_base", "only_new"]].to_numpy().any()


def test_a_new_model_and_another_seed_are_still_the_same_question(tmp_path: Path) -> None:
    base = run(tmp_path / "a", {"pgd": standing(200)}, model="v1", seed=0)
    found = compared(base, run(tmp_path / "b", {"pgd": standing(170)}, model="v2", seed=5))
    assert list(found.cells["outcome"]) == ["loss"]
    assert found.unpaired == ()


def test_a_cell_that_failed_or_vanished_is_not_passed_over(tmp_path: Path) -> None:
    base = run(tmp_path / "a", {"pgd": standing(200), "fgsm": standing(200), "apgd": standing(100)})
    store = Store(tmp_path / "b")
    store.add(rows(standing(200)), attack="fgsm", n=N)
    store.add(None, attack="pgd", status="failed", sentence="RuntimeError: no memory")
    found = compared(base, tmp_path / "b")
    assert found.exit_code == 3
    reasons = {what.split(" on ")[0]: reason for _, what, reason in found.unpaired}
    assert reasons == {"linf: pgd": "failed in the new run: RuntimeError: no memory",
                       "linf: apgd": "not in the new run"}  # fmt: skip


def test_a_number_that_fails_a_check_is_no_gain(tmp_path: Path) -> None:
    base = run(tmp_path / "a", {"pgd": standing(100), "square": standing(200)})
    store = Store(tmp_path / "b")
    store.add(rows(standing(200)), attack="square", n=N)
    masked = {"name": "zero_gradients", "detail": "31 % of the pixels"}
    store.add(rows(standing(390)), attack="pgd", n=N, flags=[masked])
    found = compared(base, tmp_path / "b")
    assert found.exit_code == 3
    assert "failed a check: zero_gradients: 31 %" in found.unpaired[0][2]


def test_other_labels_and_other_sweeps_are_refused(tmp_path: Path) -> None:
    base = run(tmp_path / "a", {"pgd": standing(200)})
    store = Store(tmp_path / "b")
    store.add(rows(standing(200)).assign(label=3), attack="pgd", n=N)
    with pytest.raises(BadData, match="other images"):
        compared(base, tmp_path / "b")
    with pytest.raises(BadData, match="not in the new run"):
        compared(base, run(tmp_path / "c", {"square": standing(3)}))


def test_certificates_shifts_and_triggers_have_verdicts_too(tmp_path: Path) -> None:
    def some(folder: str, radius: float, hit: int) -> Path:
        store = Store(tmp_path / folder)
        base = rows(standing(N))
        proof = base.assign(radius=radius, abstained=False, prediction=base["label"])
        store.add(proof, scenario="certification", threat="proof", attack="lirpa", n=N)
        store.add(base.assign(robust=standing(300)), scenario="shift", threat="", shift="imagenet_r", budget="", n=N)
        poisoned = base.drop(columns="robust").assign(triggered_as_target=standing(hit), eligible=True)
        store.add(poisoned, scenario="poisoning", threat="backdoor", attack="badnets", n=N)
        return tmp_path / folder

    found = compared(some("a", 1.0, 20), some("b", 0.001, 390))
    assert found.cells.set_index("metric")["outcome"].to_dict() == {
        f"certified_accuracy@{8 / 255:.6g}": "loss", "accuracy": "same", "clean_accuracy": "same",
        "attack_success_rate": "loss",
    }  # fmt: skip


def _planted(generator: np.random.Generator, n: int, loss: float, discordant: float) -> tuple[np.ndarray, np.ndarray]:
    """Two runs on n images: half stand; (d + loss) / 2 of all images fall and (d - loss) / 2 rise, independently."""
    before = generator.random(n) < 0.5
    falls, rises = generator.random(n) < discordant + loss, generator.random(n) < discordant - loss
    return before, np.where(before, ~falls, rises)


def test_a_loss_of_three_points_over_2000_images_is_found_and_reruns_are_not_called_losses(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    found = alarms = 0
    for i in range(20):
        pairs = {f"attack{k}": _planted(generator, 2000, 0.03 if k == 0 else 0.0, 0.05) for k in range(3)}
        base, new = (run(tmp_path / f"{name}{i}", {k: v[j] for k, v in pairs.items()}) for j, name in enumerate("ab"))
        verdicts = compared(base, new).cells.set_index("attack")["outcome"]
        found += verdicts["attack0"] == "loss"
        alarms += (verdicts.drop("attack0") == "loss").any()
    assert found >= 18
    assert alarms <= 3


@pytest.fixture
def worse(tmp_path: Path) -> Comparison:
    nasty = "<b>&\x00'\""
    base = run(tmp_path / "a", {"pgd(steps=5)": standing(200), nasty: standing(9), "gone": standing(1)})
    return compared(base, run(tmp_path / "b", {"pgd(steps=5)": standing(150), nasty: standing(9)}))


def test_junit_has_a_test_a_cell(worse: Comparison) -> None:
    root = ET.fromstring(gates.junit(worse))
    (suite,) = root
    cases = list(suite)
    assert suite.attrib["tests"] == "3" == str(len(cases))
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "1")
    (failure,) = root.iter("failure")
    assert "50.0 % before, 37.5 % now" in failure.attrib["message"]
    assert len(list(root.iter("error"))) == 1


def test_sarif_has_a_result_a_cell_and_stable_fingerprints(worse: Comparison, tmp_path: Path) -> None:
    log = json.loads(gates.sarif(worse))
    (part,) = log["runs"]
    assert log["version"] == "2.1.0"
    results = part["results"]
    assert [r["level"] for r in results].count("error") == 1
    assert all((r["kind"] == "fail") == (r["level"] != "none") for r in results), "SARIF 3.27.10"
    assert {r["ruleId"] for r in results} == {rule["id"] for rule in part["tool"]["driver"]["rules"]}
    for result in results:
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert (tmp_path / "a" / uri).is_file() or (tmp_path / "b" / uri).is_file()
    assert len({r["partialFingerprints"]["cell/v1"] for r in results}) == len(results)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from robustsuite.app.cli import app

    base = run(tmp_path / "a", {"pgd": standing(200)})
    new = run(tmp_path / "b", {"pgd": standing(150)})
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compare", str(base), str(new), "--junit", "x/j.xml", "--sarif", "s.sarif"])
    assert done.exit_code == 1
    assert Path("x/j.xml").is_file()
    assert Path("s.sarif").is_file()
    assert CliRunner().invoke(app, ["compare", str(base), str(base)]).exit_code == 0
