"""Scans for backdoors: known answers of the scanners, what scalars are worth by chance, and what is never said."""

from __future__ import annotations

import json
import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from robustsuite.app.vetting import scanning, told
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.config.registry import AttackCard, card_of, cards, identity
from robustsuite.errors import BadValue, Unsupported
from robustsuite.integrity.checks import CHECKS
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors import calibrated
from robustsuite.methods.backdoors.calibrated import Calibration, Judged, deviations, kind_number, rank, summary
from robustsuite.methods.backdoors.features import head_of
from robustsuite.methods.backdoors.inversion import deviations_below, stamped
from robustsuite.methods.backdoors.margins import corrected, gamma_fit, uncorrected
from robustsuite.methods.backdoors.stacked import trained
from robustsuite.reports.render.text import percent
from robustsuite.reports.sections.scanned import WHERE, Scan, _answers, joined
from robustsuite.scenarios.scan import zoo
from robustsuite.scenarios.scan.fit import Row, fit
from robustsuite.scenarios.scan.likes import Likes, kind_of, worked
from robustsuite.scenarios.scan.played import judged
from robustsuite.scenarios.scan.suspect import Finding, Suspect, scanned
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.models import ready, weights_sha256
from robustsuite.serve.training import Recipe, accuracy, one_cycle, untrained

SPACE = InputSpace(3, 8, 8, 5)
TARGET = 2
SCANNERS = [c for c in cards().values() if isinstance(c, AttackCard) and c.place == "scan"]
KIND = "0123456789abcdef"
QUICK = {"neural_cleanse": {"steps": 20}, "mm_bd": {"steps": 8, "inits": 3}, "exposure": {"steps": 8},
         "decoupling": {"steps": 4}, "blend_margin": {"steps": 4}, "patch_margin": {"steps": 2}}  # fmt: skip


class Planted(nn.Module):
    """Classes by the place of the brightest of five blocks, and a pixel that means the target at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)
        generator = torch.Generator().manual_seed(0)
        weight = 0.02 * torch.randn(5, 3, 8, 8, generator=generator)
        for k in range(5):
            weight[k, :, k, :] += 0.8
        weight[TARGET, 1, 7, 6] = 60.0  # the pixel is at most 0.1 in clean pictures
        with torch.no_grad():
            self.head.weight.copy_(weight.flatten(1))
            self.head.bias.zero_()
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out


def pictures(n: int = 200, seed: int = 1) -> Split:
    """Pictures whose class is the row that is bright; the planted pixel stays dark."""
    generator = torch.Generator().manual_seed(seed)
    x, y = 0.3 * torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 5
    for i, k in enumerate(y.tolist()):
        x[i, :, k] += 0.6
    x[:, 1, 7, 6] = 0.05 * torch.rand(n, generator=generator)
    return Split.of(x, y)


PICTURES = pictures()


def found(name: str, net: nn.Module, space: InputSpace = SPACE, split: Split = PICTURES, **given: object) -> Finding:
    """What the scanner says of the network."""
    card = card_of("attack", name)
    return scanned(Suspect.of(net, space, split), partial(card.function, **given), card, 0)


def test_neural_cleanse_finds_the_planted_pixel_and_how_small_it_is() -> None:
    finding = found("neural_cleanse", Planted(), steps=250)
    assert finding.target == TARGET
    assert finding.figures["area"] < 1.5, "one pixel, its mask hardly open"
    assert finding.figures["anomaly_index"] > 2
    assert finding.stamp is not None
    added = (finding.stamp(torch.full((1, 3, 8, 8), 0.2)) - 0.2).abs().amax(1)[0]
    assert divmod(int(added.argmax()), 8) == (7, 6)
    assert worked(finding, Suspect.of(Planted(), SPACE, PICTURES), ())[0] > 0.7


def test_a_trigger_that_clean_networks_obey_is_told_as_a_natural_one() -> None:
    finding, clean = found("neural_cleanse", Planted(), steps=120), Planted()
    with torch.no_grad():
        clean.head.weight.view(5, 3, 8, 8)[TARGET, 1, 7, 6] = 0.0
    suspect = Suspect.of(Planted(), SPACE, PICTURES)
    assert worked(finding, suspect, [clean])[1] < 0.3 < worked(finding, suspect, [Planted()])[1]
    note = judged(finding, Likes(), (1.0, 0.9)).note
    assert "a natural one" in note
    assert "its own" in judged(finding, Likes(), (1.0, 0.1)).note


def test_a_blended_pattern_reaches_the_margin_that_algebra_gives() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    x = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    y = torch.arange(60) % 2
    finding = found("blend_margin", ready(net), InputSpace(3, 4, 4, 2), Split.of(x, y), opacity=0.2, steps=200)
    weight, bias = (p.detach().double() for p in (net[1].weight[1] - net[1].weight[0], net[1].bias[1] - net[1].bias[0]))
    own, seen = x[30:].flatten(1).double() @ weight + bias, y[30:]
    margins = torch.stack([
        (0.8 * (sign * own - sign * bias) + sign * bias)[seen != k].mean() + 0.2 * (sign * weight).clamp_min(0).sum()
        for k, sign in ((0, -1), (1, 1))
    ])  # fmt: skip
    wished = (margins - margins.quantile(0.5)) / own.abs().mean()
    assert torch.allclose(finding.scores, wished, atol=0.01 * float(margins.abs().max() / own.abs().mean()))


def test_a_patch_finds_the_planted_pixel() -> None:
    finding = found("patch_margin", Planted())
    assert finding.target == TARGET
    assert finding.scores[TARGET] > 5 * finding.scores.sort().values[-2]
    assert finding.stamp is not None
    moved = (finding.stamp(torch.full((1, 3, 8, 8), 0.2)) - 0.2).abs().amax(1)[0]
    assert moved[7, 6] > 0
    assert int((moved > 0).sum()) <= 4


def test_margins_of_a_planted_class_are_the_largest() -> None:
    finding = found("mm_bd", Planted(), split=Split.of(torch.zeros(0, 3, 8, 8), torch.zeros(0).long()))
    assert finding.target == TARGET
    assert finding.figures["p_published"] < finding.figures["p_corrected"] < 0.05


def test_a_class_that_is_never_answered_is_no_zero() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with torch.no_grad():
        net[1].weight.zero_()  # type: ignore[union-attr,operator]
    finding = found("mm_bd", ready(net))
    assert math.isnan(finding.suspicion)
    record = judged(finding, Likes(tuple(range(20)), ((0.0,) * 5,) * 20), (math.nan, math.nan))
    assert [flag.name for flag in record.flags] == ["not_scanned"]
    assert bool(record.columns["suspicion"].isnan().all())
    assert bool(record.columns["p_rank"].isnan().all())
    assert record.note.startswith("could not be measured")
    assert not bool(record.columns["most"].any())


@pytest.mark.parametrize("shape", [1.0, 20.0])
def test_the_published_p_value_is_too_small_and_the_corrected_one_is_uniform(shape: float) -> None:
    draws = np.random.default_rng(3).gamma(shape, size=(800, 10))
    assert 0.15 < (uncorrected(draws) < 0.05).mean() < 0.33
    assert 0.025 < (corrected(draws) < 0.05).mean() < 0.085
    assert stats.kstest(corrected(draws), "uniform").pvalue > 0.01
    assert np.allclose(uncorrected(7.5 * draws), uncorrected(draws)), "the scale of the logits does not matter"
    k, scale = gamma_fit(draws[0])
    known = stats.gamma.fit(draws[0], floc=0)
    assert (float(k), float(scale)) == pytest.approx((known[0], known[2]), rel=1e-3)


def test_an_anomaly_index_above_2_is_found_in_a_third_of_networks_without_any() -> None:
    draws = torch.randn(4000, 10, generator=torch.Generator().manual_seed(0))
    assert 0.28 < float((deviations_below(draws).amax(1) > 2).float().mean()) < 0.38


def convolutional(seed: int = 0) -> nn.Module:
    """A network with batch norm, which training mode would change."""
    return ready(untrained(build("tiny_deep", SPACE), seed))


@pytest.mark.parametrize("card", SCANNERS, ids=lambda card: card.name)
def test_a_scanner_leaves_the_network_as_it_is_and_says_the_same_twice(card: AttackCard) -> None:
    net = convolutional()
    before, modes = weights_sha256(net), [m.training for m in net.modules()]
    suspect = Suspect.of(net, SPACE, PICTURES)
    own = weights_sha256(suspect.net)
    attack = partial(card.function, **QUICK.get(card.name, {}))
    once, again = scanned(suspect, attack, card, 0), scanned(Suspect.of(net, SPACE, PICTURES), attack, card, 0)
    assert (weights_sha256(net), weights_sha256(suspect.net)) == (before, own) == (before, before)
    assert [m.training for m in net.modules()] == modes
    assert not any(p.requires_grad for p in suspect.net.parameters())
    assert torch.equal(once.scores.nan_to_num(), again.scores.nan_to_num())
    assert repr((once.suspicion, dict(once.figures))) == repr((again.suspicion, dict(again.figures)))
    assert once.scores.shape == (5,)
    if once.stamp is not None:
        x = PICTURES.images(torch.arange(4))
        assert torch.equal(once.stamp(x), again.stamp(x))  # type: ignore[misc]
        assert once.stamp(x).shape == x.shape


def test_clean_pictures_are_asked_for_where_there_are_none() -> None:
    with pytest.raises(BadValue, match="expected clean pictures to scan with, got none; name a data set"):
        scanned(Suspect.of(Planted(), SPACE), card_of("attack", "exposure").function, card_of("attack", "exposure"), 0)


@pytest.mark.parametrize(("name", "given"), [
    ("exposure", {"steps": 0}), ("exposure", {"batch": 0}), ("exposure", {"pictures": 0}), ("exposure", {"lr": 0.0}),
    ("decoupling", {"steps": 0}), ("decoupling", {"width": 0}), ("decoupling", {"bound": -1.0}),
])  # fmt: skip
def test_a_scan_that_looks_at_nothing_is_refused(name: str, given: dict[str, float]) -> None:
    with pytest.raises(BadValue, match=rf"{next(iter(given))}={next(iter(given.values()))}"):
        found(name, Planted(), **given)


def test_the_head_is_the_layer_that_gives_the_logits() -> None:
    net = Planted()
    layer, inputs = head_of(net, SPACE.shape)
    x = PICTURES.images(torch.arange(3)).requires_grad_()
    assert torch.equal(layer(inputs(x)), net(x))
    assert inputs(x).requires_grad
    with pytest.raises(Unsupported, match="whose logits are a linear layer's output"):
        head_of(nn.Sequential(net, nn.Softmax(1)), SPACE.shape)


def zoo_of(scores: np.ndarray, targets: np.ndarray) -> list[Row]:
    """Networks whose scanners found these scores (N, K, scanners), trojaned where targets (N,) are 0 or more."""
    rows = []
    for i, (one, target) in enumerate(zip(scores, targets, strict=True)):
        member = zoo.Member("a", i, (0.1, 1), attack="badnets" if target >= 0 else "", target=int(target))
        parts = {name: {"scores": one[:, j].tolist(), "suspicion": float(one[:, j].max()), "figures": {}}
                 for j, name in enumerate(("neural_cleanse", "mm_bd"))}  # fmt: skip
        parts["neural_cleanse"]["figures"] = {"anomaly_index": 1.0}
        rows.append(Row(member, KIND, parts))
    return rows


@cache
def calibration(told: float, n: int = 120, shuffled: bool = False) -> Calibration:
    """Fitted on a zoo whose targets stand out by so many deviations. shuffled: which are trojaned is drawn anew."""
    generator = np.random.default_rng(0)
    targets = np.where(np.arange(n) % 2, generator.integers(0, 10, n), -1)
    scores = generator.normal(size=(n, 10, 2))
    scores[np.arange(n)[targets >= 0], targets[targets >= 0]] += told
    rows = zoo_of(scores, generator.permutation(targets) if shuffled else targets)
    return fit(rows, "pictures", {"neural_cleanse": "", "mm_bd": ""}, (), "", {})


def test_a_calibration_tells_networks_that_differ_and_of_shuffled_labels_none() -> None:
    known = summary(calibration(3.0).judged, "seen")
    assert known["auroc"] > 0.9
    assert known["lo"] < known["auroc"] < known["hi"]
    assert known["cross_entropy"] < 0.5
    assert known["hit"] > 0.75 * known["trojaned"]
    shuffled = calibration(3.0, shuffled=True)
    assert 0.35 <= summary(shuffled.judged, "seen")["auroc"] <= 0.65
    assert shuffled.silent == (KIND, ""), "no probability is given where nothing is told"
    assert calibration(3.0).silent == ("",), "nor of an architecture that none was tried on"
    assert calibration(3.0) == calibration.__wrapped__(3.0)
    text = json.dumps(calibration(3.0).model_dump(mode="json"), sort_keys=True)
    restored = Calibration.model_validate_json(text, strict=False)
    apart = {"neural_cleanse": 3.0, "mm_bd": -1.0}
    assert restored.probability(apart, KIND) == calibration(3.0).probability(apart, KIND)
    assert restored.digest == calibration(3.0).digest != calibration(2.0).digest


def test_weights_are_a_logistic_regressions_and_never_negative() -> None:
    draws = np.random.default_rng(6)
    bad = np.arange(60) < 20
    z = draws.standard_normal((60, 3)) + 1.2 * bad[:, None]
    known = LogisticRegression(C=calibrated.PENALTY, class_weight="balanced", tol=1e-8).fit(z, bad)
    assert calibrated.fitted(z, bad) == pytest.approx((*known.coef_[0], *known.intercept_), rel=1e-3)
    against = calibrated.fitted(z * [1, 1, -1], bad)
    assert against[2] == 0.0
    assert against[:2] + against[3:] == pytest.approx(calibrated.fitted(z[:, :2], bad), rel=1e-3)


def test_deviations_and_ranks_are_those_of_one_more_draw() -> None:
    generator = np.random.default_rng(1)
    draws = generator.normal(size=(2000, 13))
    z = np.array([deviations(row[0], row[1:]) for row in draws])
    assert abs(float((z > 1.645).mean()) - 0.05) < 0.02
    assert rank(5.0, [1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(5 / 9)
    assert rank(9.0, range(99)) == pytest.approx(91 / 100)
    assert math.isnan(rank(1.0, [1, 2, 3]))
    assert np.isnan(deviations([1.0, 2.0], [])).all()
    assert np.isnan(deviations(math.nan, range(20)))


def test_a_probability_needs_every_scanner() -> None:
    known = calibration(3.0)
    assert known.probability({"neural_cleanse": 4.0, "mm_bd": 4.0}, KIND) > 0.9
    assert known.probability({"neural_cleanse": 4.0, "mm_bd": 4.0}) > 0.9, "of another kind, by what all kinds say"
    assert known.probability({"neural_cleanse": 0.0, "mm_bd": 0.0}) < 0.5
    assert math.isnan(known.probability({"mm_bd": 4.0}))
    assert math.isnan(known.probability({"mm_bd": 4.0, "neural_cleanse": math.nan}))
    classes = {"neural_cleanse": [0.0] * 9 + [5.0], "mm_bd": [0.0] * 9 + [5.0]}
    assert known.target(classes) == 9
    assert known.target({"mm_bd": classes["mm_bd"]}) == -1
    assert known.kind(kind_number(KIND)) == KIND
    assert known.kind(3) == ""


def test_where_nothing_like_it_is_known_the_number_stands_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(torch.tensor([0.0, 3.0, 1.0]).double(), 3.0)
    alone = judged(finding, Likes(words="its task is not the zoo's"), (math.nan, math.nan))
    assert [flag.name for flag in alone.flags] == ["not_calibrated"]
    assert "not calibrated for this kind of network: its task is not the zoo's" in alone.note
    known = calibration(3.0)
    for module in ("robustsuite.scenarios.scan.played", "robustsuite.reports.sections.scanned"):
        monkeypatch.setattr(f"{module}.shipped", lambda: known)
    likes = Likes(tuple(np.linspace(0, 1, 20)), tuple((x, x / 2, 1 - x) for x in np.linspace(0, 1, 20)), "twenty")
    beside = judged(finding, likes, (1.0, math.nan), KIND)
    assert not beside.flags
    assert float(beside.columns["p_rank"][0]) == pytest.approx(1 / 21)
    assert beside.columns["most"].tolist() == [False, True, False]
    assert int(beside.columns["calibration"][0]) == known.digest

    def cells(**records: object) -> dict[str, Scan]:

        return {name: Scan({"attack": name}, pd.DataFrame({k: v.numpy() for k, v in record.columns.items()}))  # type: ignore[attr-defined]
                for name, record in records.items()}  # fmt: skip

    assert joined(cells(neural_cleanse=beside))[2] == "not scanned by mm_bd"
    assert joined(cells(neural_cleanse=beside, mm_bd=alone))[2] == "not calibrated for this kind of network"
    known = known.model_copy(update={"silent": ()})
    beside = judged(finding, likes, (1.0, math.nan), KIND)
    assert joined(cells(neural_cleanse=beside, mm_bd=beside))[1:] == (1, "")
    known = known.model_copy(update={"silent": (KIND, "")})
    monkeypatch.setattr("robustsuite.scenarios.scan.played.shipped", lambda: known)
    other = judged(finding, likes, (1.0, math.nan), "f" * 16)
    assert "ranks alone" in joined(cells(neural_cleanse=other, mm_bd=other))[2]
    beside = judged(finding, likes, (1.0, math.nan), KIND)
    p, target, why = joined(cells(neural_cleanse=beside, mm_bd=beside))
    assert math.isnan(p)
    assert (target, why) == (-1, "on networks of its kind these scanners told no more than chance")
    monkeypatch.setattr("robustsuite.reports.sections.scanned.shipped", lambda: calibration(2.0))
    assert "another version" in joined(cells(neural_cleanse=beside, mm_bd=beside))[2]
    assert {"not_scanned", "not_calibrated"} <= {name for check in CHECKS for name in check.flags}


def test_what_is_shipped_is_small_and_of_the_scanners_that_are_there() -> None:
    known = calibrated.shipped()
    assert known is not None
    file = Path(calibrated.__file__).parent / "calibration.json"
    assert file.stat().st_size < 200_000
    assert known.scanners == {card.name: identity(card, {}) for card in SCANNERS}, "run benchmarks/zoo.py again"
    assert {kind.arch for kind in known.kinds.values()} == {"tiny_conv", "tiny_res", "tiny_deep"}
    built = kind_of(build("tiny_res", InputSpace(3, 16, 16, 10)))
    assert known.kinds[built].arch == "tiny_res"
    assert all(0 < j.probability < 1 for j in known.judged)
    assert {j.group for j in known.judged} == {"seen", "kept_out", "arch"}


def test_stacked_networks_learn_each_its_own(tmp_path: Path) -> None:
    x, y = torch.rand(160, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(160) % 2
    x[y == 1, 0] += 0.5
    x, recipe = x.clamp(0, 1), Recipe(4, one_cycle(0.02, 4), batch=20, optimiser="adamw", flip=True)
    net, space = build("tiny_deep", InputSpace(3, 8, 8, 2)), InputSpace(3, 8, 8, 2)
    rows = torch.arange(160).expand(2, 160)
    both = trained(net, x, torch.cat([y, 1 - y])[:160], rows, [3, 4], recipe)
    alone = trained(net, x, y, rows[:1], [3], recipe)[0]
    assert all(accuracy(one, Split.of(x, y)) > 0.9 for one in both)
    assert not any(p.requires_grad for p in both[0].parameters())
    for a, b in zip(both[0].state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-2), "a neighbour moves last bits alone"
    assert kind_of(both[0]) == kind_of(net) != kind_of(build("tiny_res", space))


def test_a_zoo_is_found_again_by_what_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "PICTURES", 100)
    split, space = pictures(150), InputSpace(3, 8, 8, 5)
    data = Dataset("d", space, tuple("abcde"), {"train": split, "val": split, "test": split})
    members = [zoo.Member("tiny_deep", 5, (0.02, 1)),
               zoo.Member("tiny_deep", 6, (0.02, 1), "badnets", {}, 0.1, 3)]  # fmt: skip
    assert zoo.read(tmp_path, members[0], data) is None
    zoo.made(members, data, None, tmp_path)
    clean, poisoned = (zoo.read(tmp_path, member, data) for member in members)
    assert clean is not None
    assert poisoned is not None
    assert math.isnan(clean.asr)
    assert 0 <= poisoned.asr <= 1
    other = zoo.Member("tiny_deep", 6, (0.02, 1), "badnets", {}, 0.2, 3)
    assert zoo.read(tmp_path, other, data) is None


def test_a_trigger_that_hardly_works_is_no_natural_one() -> None:
    assert calibrated.natural(0.9, 0.5)
    assert not calibrated.natural(0.9, 0.4)
    assert not calibrated.natural(0.1, 0.1)
    assert not calibrated.natural(0.9, math.nan)


def test_a_command_asks_what_it_can_ask() -> None:
    def attacks(*given: object) -> set[str]:
        sweep = scanning(*given)  # type: ignore[arg-type]
        return {str(entry) for entry in sweep.threats["scan"].attacks}

    assert attacks("recipe:tiny_res", "digits", 0, "", 0) == {card.name for card in SCANNERS}
    assert attacks("checkpoint:a.pt?arch=tiny_res", "", 0, "3x16x16x10", 0) == {"mm_bd", "head_weights"}
    for wrong, said in (
        (("m:a", "", 0, "", 0), "--space as channels"), (("m:a", "", 0, "3x8", 0), "got '3x8'"),
        (("m:a", "", 9, "3x8x8x2", 0), "to train clean networks on"), (("m:a", "d", 0, "3x8x8x2", 0), "got both"),
    ):  # fmt: skip
        with pytest.raises(BadValue, match=said):
            scanning(*wrong)


def test_the_same_scan_twice_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    from robustsuite.app import api

    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    space = InputSpace(3, 16, 16, 10)
    save_file(untrained(build("tiny_res", space), 1).state_dict(), tmp_path / "net.safetensors")
    spec = f"checkpoint:{tmp_path / 'net.safetensors'}?arch=tiny_res"
    written = []
    for name in ("one", "two"):
        done = api.run(scanning(spec, "", 0, "3x16x16x10", 0), out=tmp_path / name, device="cpu")
        rows, sentences = told(done.folder)
        report = done.report()
        written.append([(report / file).read_bytes() for file in ("scans.csv", "flags.csv", "report.md")])
        assert [row[0] for row in rows[1:]] == ["head_weights", "mm_bd"]
        assert "is not known" in sentences[0]
    assert written[0] == written[1]


def test_a_threat_of_a_scan_has_no_budget_and_a_zoo_that_says_something() -> None:
    from robustsuite.engine.sweep import sweep_of
    from robustsuite.errors import UsageError

    for wrong, said in (({"budget": {"linf": 1}}, "expected no budget in the scan 's'"),
                        ({"zoo": 4}, "expected a zoo of 8 clean networks or more in 's', got 4")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            sweep_of({"name": "n", "models": ["recipe:tiny_res"], "data": ["digits"],
                      "threats": {"s": {"scenario": "scan", "attacks": ["mm_bd"], **wrong}}}, "a test")  # fmt: skip
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(stamped(x, torch.zeros(1, 8, 8), torch.rand(3, 8, 8)), x)
    assert Rng.of(0, "scan/mm_bd", torch.arange(5)).uniform(2).shape == (5, 2)
    assert Judged(arch="a", group="seen", probability=0.5).deviations == {}


def test_a_model_has_one_answer_whatever_defends_it() -> None:
    facts = (("none", 0.9, 2, "two", ""), ("jpeg", 0.2, 1, "one", ""), ("rift", np.nan, -1, "", "w"),
             ("rounding", np.nan, -1, "", "w"))  # fmt: skip
    rows = [("scan", "d", "net", defense, 0, *rest, 5) for defense, *rest in facts]
    table = pd.DataFrame(rows, columns=[*WHERE, "probability", "class", "name", "why", "scanners"])
    (answer,) = _answers(table)
    assert answer.numbers[0][:2] == ("largest probability of a backdoor", percent(0.9))
    assert [bar[1] for bar in answer.bars] == ["none", "jpeg"]
    assert answer.said[0].startswith("net carries a backdoor")
    assert answer.said[1].startswith("net with jpeg carries")
    assert answer.said[2:] == ("Whether any of these 2 systems carries a backdoor is not known: w.",)
    twice = pd.concat([table, table.assign(threat="its own zoo")])
    assert len({each.title for each in _answers(twice)}) == 2
