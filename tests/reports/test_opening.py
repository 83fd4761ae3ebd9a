"""How a report opens: who is named first, what is no verdict, what has no number, and what to do next."""

import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_store import Store, _base

from robustsuite.benchmarks.datasets.scenes import scenes
from robustsuite.records.schema import Budget
from robustsuite.reports.answers.opening import cautions
from robustsuite.reports.answers.steps import steps
from robustsuite.reports.answers.terms import TERMS
from robustsuite.reports.measure.scores import scores
from robustsuite.reports.measure.tables import bounds, certified_curves
from robustsuite.reports.measure.worst import worst_case
from robustsuite.reports.publish.overview import overview
from robustsuite.reports.publish.write import build, write_report
from robustsuite.reports.read.runs import read
from robustsuite.reports.render import adversary
from robustsuite.reports.render.document import Document

FAIL = [{"name": "judge_disagrees", "detail": "by hand", "level": "fail"}]
SCORES: dict[str, Any] = {"threat": "scores", "access": "labels, scores"}
SQUARE: dict[str, Any] = {**SCORES, "attack": "square(steps=60)", "family": ("score",), "least": {"steps": 4999}}
WHITE: dict[str, Any] = {"threat": "white", "attack": "apgd"}
N = 40


def attack(store: Store, standing: int, clean: int = 36, n: int = N, **facts: Any) -> None:
    """Images of which the first ones stand."""
    rows = _base(n)
    rows["clean_ok"], rows["robust"] = rows["index"] < clean, rows["index"] < standing
    store.add(rows, n=n, **facts)


def opened(store: Store) -> Document:
    run = read([store.root])
    return build(run, scores(run))


def told(store: Store) -> list[str]:
    return [" ".join(said) for said in opened(store).said]


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def test_a_weak_attack_with_a_high_number_never_carries_the_headline(mine: Store) -> None:
    attack(mine, 35, **SQUARE)
    attack(mine, 4, **WHITE)
    first, last = told(mine)
    assert first.startswith("An attacker who knows the model makes it wrong on 90 % of 40 images with small changes "
                            "(linf 8/255: at most 8 of 255 levels a pixel); without an attack it is wrong on 10 %."
                            )  # fmt: skip
    assert last.startswith("No verdict yet on an attacker who sees the model's scores")
    assert "square had only 60 of the 4999 steps that a verdict needs" in last
    assert last.endswith("An attacker who knows the model makes it wrong on 90 %.")
    weak = opened(mine).answers[-1]
    assert weak.numbers == (("verdict", "none yet", "", "bad"),)
    assert not any(entry.bar for _, _, entry in weak.bars), "no bar of what is no robustness"
    assert "88 %" not in last
    assert "87.5" not in last


def test_a_weak_attack_alone_is_no_verdict_and_what_it_broke_is_a_lower_bound_of_harm(mine: Store) -> None:
    attack(mine, 30, **SQUARE)
    (said,) = told(mine)
    assert said.startswith("No verdict yet")
    assert "What was tried makes it wrong on 25 % of 40 images already." in said


def test_the_strongest_adversary_stands_first_then_the_one_who_leaves_less(mine: Store) -> None:
    attack(mine, 2, attack="cgba", threat="labels", access="labels")
    attack(mine, 20, attack="square", **SCORES)
    attack(mine, 9, **WHITE)
    attack(mine, 5, **{**WHITE, "threat": "far", "budget": "linf(eps=12/255)"})
    titles = [answer.title.partition(",")[0] for answer in opened(mine).answers]
    assert titles == ["An attacker who knows the model"] * 2 + [
        "An attacker who sees the model's scores", "An attacker who sees only the model's answers"
    ]  # fmt: skip
    assert "12/255" in opened(mine).answers[0].title


def test_a_verdict_of_a_weaker_adversary_names_the_one_who_needs_less(mine: Store) -> None:
    attack(mine, 20, attack="square", **SCORES)
    attack(mine, 4, **WHITE)
    said = told(mine)[1]
    assert said.startswith("An attacker who sees the model's scores makes it wrong on 50 %")
    assert said.endswith("An attacker who knows the model makes it wrong on 90 %.")
    assert "knows the model makes it wrong on 90 %" not in told(mine)[0].partition(".")[2]


def test_a_run_whose_only_white_box_cell_failed_a_check_has_no_verdict(mine: Store) -> None:
    attack(mine, 36, **WHITE, flags=FAIL)
    (said,) = told(mine)
    assert said.startswith("No verdict yet on an attacker who knows the model")
    assert "failed a check (judge_disagrees)" in said
    assert "What was tried" not in said, "a struck number says nothing, not even of harm"
    steps = opened(mine).steps
    assert steps[0].startswith("Find out why 1 cell failed a check (judge_disagrees: by hand)")


def test_an_unmeasured_defense_is_never_shown_as_robust(mine: Store) -> None:
    attack(mine, 4, **WHITE)
    attack(mine, 8, **{**WHITE, "attack": "fgsm"})
    attack(mine, 35, **{**WHITE, "attack": "fgsm"}, defense="crossmax")
    mine.add(None, **WHITE, defense="crossmax", n=N, status="unmeasured", sentence="it hides gradients")
    mine.add(None, **WHITE, defense="rift", n=N, status="failed", sentence="it `raised`")
    document = opened(mine)
    said = " ".join(document.said[0])
    assert "best defense" not in said
    assert "No defense has a verdict" in said
    card = document.answers[0]
    assert [label for label, *_ in card.numbers] == ["stays right, undefended"]
    bars = {name: entry for _, name, entry in card.bars}
    assert bars["rift"].text == "not measured: failed"
    assert bars["crossmax"].text.startswith("≤")
    assert bars["crossmax"].bar is None
    assert any("hides gradients" in step for step in document.steps)
    assert all(step.count("`") % 2 == 0 for step in document.steps), "a record's marks are no code"


def test_a_threat_without_a_number_says_that_it_is_not_measured(mine: Store) -> None:
    attack(mine, 4, **WHITE)
    mine.add(None, attack="square", **SCORES, n=N, status="refused", sentence="it needs scores")
    first, last = told(mine)
    assert "makes it wrong on 90 %" in first
    assert last == ("Not measured: An attacker who sees the model's scores, with small changes (linf 8/255: at most 8 "
                    "of 255 levels a pixel): square is refused: it needs scores.")  # fmt: skip


def test_the_model_itself_stands_before_its_best_defense(mine: Store) -> None:
    attack(mine, 2, **WHITE)
    attack(mine, 24, **WHITE, defense="rift")
    attack(mine, 3, **WHITE, defense="crossmax")
    document = opened(mine)
    said = document.said[0]
    assert "makes it wrong on 95 %" in said[0]
    assert said[1] == "The best defense, rift, brings that down to 40 % (10 % without an attack)."
    assert said[2] == "In linf nothing is proven of the model, with or without a defense."
    assert [(label, value) for label, value, *_ in document.answers[0].numbers] == [
        ("stays right, undefended", "5.0 %"), ("stays right, best defense", "60.0 %")
    ]  # fmt: skip
    attack(mine, 1, 10, **WHITE, model="vit")
    assert any("who knows cnn makes it wrong on 95 %" in line for line in told(mine))


def test_of_several_models_each_has_its_line_before_proofs_and_weaker_adversaries(mine: Store) -> None:
    attack(mine, 0, **WHITE)
    attack(mine, 20, attack="square", **SCORES)
    proof(mine, 6, 10)
    short = {**WHITE, "family": ("gradient",), "least": {"steps": 100}, "attack": "apgd(steps=30)", "model": "vit"}
    attack(mine, 6, **short)
    lines = told(mine)
    assert lines[0].startswith("An attacker who knows cnn makes it wrong on 100 %")
    assert "vit may do better: wrong on at least 85 % (10 % without an attack), and no verdict yet." in lines[0]
    assert lines[1].startswith("No verdict yet on an attacker who knows vit")
    assert "wrong on 85 %" in lines[1]
    assert lines[2].startswith("An attacker who sees cnn's scores")
    assert lines[3].startswith("Whoever attacks")


def test_a_model_does_better_where_a_test_tells_it(mine: Store) -> None:
    attack(mine, 0, **WHITE)
    attack(mine, 20, **WHITE, model="vit")
    lines = told(mine)
    assert "vit does better: wrong on 50 % (10 % without an attack)." in lines[0]
    assert "does better" not in lines[1]
    attack(mine, 22, **{**WHITE, "threat": "near"})
    attack(mine, 21, **{**WHITE, "threat": "near"}, model="vit")
    tied = "cnn is wrong on 45 % (10 % without an attack): too few images to tell the two apart."
    assert any(tied in line for line in told(mine))


def test_a_defense_that_no_test_tells_from_none_is_no_good_news(mine: Store) -> None:
    attack(mine, 2, **WHITE)
    attack(mine, 3, **WHITE, defense="rift")
    assert "too few images to tell that from no defense" in told(mine)[0]
    attack(mine, 2, **{**WHITE, "threat": "other"})
    attack(mine, 1, **{**WHITE, "threat": "other"}, defense="rift")
    assert any("No defense helps (rift: wrong on 98 %, 10 % without an attack)." in line for line in told(mine))
    labels = [label for label, *_ in opened(mine).answers[0].numbers]
    assert labels == ["stays right, undefended", "stays right, rift"], "the worse one is no best defense"


def poisoned(store: Store, works: int, n: int, defense: str = "none") -> None:
    """A backdoor that works on the first of n images."""
    rows = _base(n).assign(clean_ok=True, eligible=True, triggered_as_target=np.arange(n) < works, flagged=False,
                           flagged_clean=False, recovered=False, psnr=30.0)  # fmt: skip
    store.add(rows, threat="backdoor", scenario="poisoning", access="train_set", attack="badnets", defense=defense,
              budget="poison_rate(0.01)", n=n)  # fmt: skip


@pytest.mark.parametrize(("own", "best", "n", "said"), [
    (20, 4, 20, "The best defense, strip, brings that down to 20 %."),
    (20, 18, 20, "The best defense, strip, has 90 %: too few images to tell that from no defense."),
    (9, 0, 9, "The best defense, strip, has 0 %: too few images to tell that from no defense."),
    (10, 10, 20, "No defense helps (strip: 50 %)."),
    (10, 12, 20, "No defense helps (strip: 60 %)."),
])  # fmt: skip
def test_a_defense_brings_down_what_is_lower_and_told(mine: Store, own: int, best: int, n: int, said: str) -> None:
    poisoned(mine, own, n)
    poisoned(mine, best, n, "strip")
    assert told(mine)[0].endswith(said)


def test_a_rebuilt_picture_is_told_by_what_the_sentence_says(mine: Store) -> None:
    for defense, psnr in (("none", 20.0), ("gradient_noise", 15.0)):
        rows = _base(4).assign(mse=0.1, psnr=psnr, ssim=0.5, label_ok=True, label_found=True, failed=False,
                               identified=np.arange(4) < 2, control_psnr=9.0, federated_accuracy=0.4)  # fmt: skip
        mine.add(rows, threat="leak", scenario="inversion", access="weights, update", attack="dlg", budget=None, n=4,
                 defense=defense)  # fmt: skip
    (said,) = told(mine)
    assert said.endswith("50 % of 4 are told from all others (dlg). No defense helps (gradient_noise: 50 %).")


@pytest.mark.parametrize(("right", "said"), [
    (36, "The best defense, rift, is wrong on 10 %."), (24, "The best defense, rift, is wrong on 40 %: too few images"),
    (19, "No defense helps (rift: wrong on 53 %)."),
])  # fmt: skip
def test_a_defense_helps_against_corruptions_where_images_tell_it(mine: Store, right: int, said: str) -> None:
    shift: dict[str, Any] = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None,
                             "shift": "scenes_c", "corruption": "fog", "severity": 3, "n": N}  # fmt: skip
    order = np.random.default_rng(0).permutation(N)
    mine.add(_base(N).assign(clean_ok=True, robust=np.arange(N) < 20), **shift)
    mine.add(_base(N).assign(clean_ok=True, robust=order < right), **shift, defense="rift")
    (line,) = told(mine)
    assert "wrong on 50 % of 40 images" in line
    assert said in line


def test_a_defense_that_the_adversary_does_not_pass_is_none(mine: Store) -> None:
    attack(mine, 2, **WHITE)
    twin = next(iter(mine.cells))
    mine.add(None, **WHITE, defense="grayscale", n=N, status="inert", same_as=twin, sentence="not passed")
    document = opened(mine)
    assert "defense" not in " ".join(document.said[0])
    assert not any("not measured" in entry.text for _, _, entry in document.answers[0].bars)


def proof(store: Store, proven: int, n: int, radius: float = 2 / 255, **facts: Any) -> None:
    """A certificate of one radius: proven at it, or not at all."""
    right = np.arange(n) < n - 1
    rows = _base(n).assign(clean_ok=right, abstained=False, prediction=_base(n)["label"])
    rows["radius"] = np.where(np.arange(n) < proven, radius, 0.0)
    base: dict[str, Any] = {"threat": "proof", "scenario": "certification", "attack": "lirpa",
                            "budget": "linf(eps=2/255)"}  # fmt: skip
    store.add(rows, n=n, **{**base, **facts})


def test_what_is_proven_stands_beside_what_is_attacked(mine: Store) -> None:
    attack(mine, 4, **WHITE)
    proof(mine, 6, 10)
    first, last = told(mine)
    assert first.endswith("In linf nothing is proven of the model beyond 2/255.")
    assert last == ("Whoever attacks: within linf 2/255 it is proven that the model stays right on 6 of 10 images "
                    "(26.2–87.8 %).")  # fmt: skip
    proof(mine, 6, 10, 8 / 255, threat="far", budget="linf(eps=8/255)")
    assert told(mine)[0].endswith("On 6 of 10 images (26.2–87.8 %) it is proven that no such change works.")


def test_a_certified_curve_ends_where_the_question_ends(mine: Store) -> None:
    proof(mine, 6, 10)
    spread = np.linspace(0, 0.4, 10)
    rows = _base(10).assign(clean_ok=True, abstained=False, prediction=_base(10)["label"], radius=spread)
    mine.add(rows, n=10, threat="votes", scenario="certification", attack="smoothing", budget="l2(eps=0.1)")
    curves = certified_curves(read([mine.root]))
    ends = curves.groupby("threat")[["radius", "value"]].last()
    assert ends.loc["proof", "radius"] == pytest.approx(2 / 255)
    assert ends.loc["proof", "value"] == pytest.approx(0.6), "not 0 where nothing was asked"
    assert ends.loc["votes", "radius"] == pytest.approx(0.4)


def test_proofs_and_attacks_are_drawn_on_the_same_images(mine: Store) -> None:
    attack(mine, 4, **WHITE)
    proof(mine, 3, 10)
    proofs, attacked = bounds(read([mine.root]))
    assert set(proofs["n"]) == {10} == set(attacked["n"])
    assert attacked["value"].tolist() == [0.4], "4 of the same ten stand, of all forty 10 %"


@pytest.mark.parametrize(("budget", "words"), [
    (Budget(norm="linf", eps=8 / 255), "with small changes (linf 8/255: at most 8 of 255 levels a pixel)"),
    (Budget(norm="linf", eps=16 / 255), "with visible changes (linf 16/255: at most 16 of 255 levels a pixel)"),
    (Budget(norm="linf", eps=32 / 255), "with large changes (linf 32/255: at most 32 of 255 levels a pixel)"),
    (Budget(norm="l2", eps=0.5), "with changes up to l2 0.5"),
    (Budget(norm="l0", eps=5.0), "by changing at most 5 pixel values (l0)"),
    (Budget(norm="linf", eps=float("inf")), "with any change at all"),
    (Budget(), ""),
])  # fmt: skip
def test_how_far_an_adversary_goes_is_said_honestly(budget: Budget, words: str) -> None:
    assert adversary.reach(budget) == words


@pytest.mark.parametrize(("value", "words"), [
    (0.0, "0 %"), (0.001, "less than 1 %"), (0.5, "50 %"), (0.999, "more than 99 %"), (1.0, "100 %"),
])  # fmt: skip
def test_what_is_not_all_is_not_a_hundred_per_cent(value: float, words: str) -> None:
    assert adversary.share(value) == words


def test_a_share_is_rounded_half_up_by_its_count() -> None:
    for n in (3, 7, 8, 16, 40, 80, 200, 999):
        for k in range(1, n):
            exact = math.floor(Fraction(100 * k, n) + Fraction(1, 2))
            words = {0: "less than 1 %", 100: "more than 99 %"}.get(exact, f"{exact} %")
            assert adversary.share(k / n) == words
            assert adversary.share(1 - (n - k) / n) == words
    assert [adversary.share(v) for v in (0.575, 0.475, 0.025, 0.125)] == ["58 %", "48 %", "3 %", "13 %"]


def test_questions_are_counted_in_the_adversary(mine: Store) -> None:
    attack(mine, 4, attack="square", **SCORES, budget="linf(eps=8/255) queries(500)")
    assert "who sees the model's scores (500 questions an image) makes it wrong" in told(mine)[0]


def test_other_scenarios_have_their_sentence(mine: Store) -> None:
    rows = _base(10).assign(clean_ok=np.arange(10) < 9, eligible=True, triggered_as_target=np.arange(10) < 8,
                            flagged=False, flagged_clean=False, recovered=False, psnr=30.0)  # fmt: skip
    facts: dict[str, Any] = {"threat": "backdoor", "scenario": "poisoning", "access": "train_set", "attack": "badnets",
                             "budget": "poison_rate(0.01)", "n": 10}  # fmt: skip
    mine.add(rows, **facts)
    mine.add(rows.assign(triggered_as_target=np.arange(10) < 1), **facts, defense="strip")
    (said,) = told(mine)
    assert said == ("Whoever poisons 1 % of the training data makes the model answer as they wish on 80 % of 10 "
                    "triggered images (badnets); of 10 clean images 90 % stay right. The best defense, strip, brings "
                    "that down to 10 %.")  # fmt: skip
    rows = _base(4).assign(mse=0.1, psnr=20.0, ssim=0.5, label_ok=True, label_found=True, failed=False,
                           identified=np.arange(4) < 3, control_psnr=9.0, federated_accuracy=0.4)  # fmt: skip
    mine.add(rows, threat="leak", scenario="inversion", access="weights, update", attack="dlg", budget=None, n=4)
    assert any("rebuilds its pictures: 75 % of 4 are told from all others (dlg)" in line for line in told(mine))


def test_natural_shift_sets_have_cards_and_one_sentence(mine: Store) -> None:
    shift: dict[str, Any] = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None}
    for name, right in (("imagenet_a", 4), ("imagenet_r", 12)):
        mine.add(_base(20).assign(robust=np.arange(20) < right), **shift, shift=name, corruption="sketch", n=20)
    document = opened(mine)
    assert [answer.title for answer in document.answers] == [
        "Other pictures: imagenet_a (pictures that networks are known to fail on)",
        "Other pictures: imagenet_r (renditions: drawings, toys, sculptures)",
    ]
    (said,) = document.said
    assert said == ("On other kinds of pictures the model is right on 20 % of imagenet_a (20 images) and 60 % of "
                    "imagenet_r (20 images).",)  # fmt: skip
    for name, right in (("imagenet_a", 2), ("imagenet_r", 13)):
        mine.add(_base(20).assign(robust=np.arange(20) < right), **shift, shift=name, corruption="sketch", n=20,
                 defense="rift")  # fmt: skip
    assert told(mine)[0].endswith(" With every defense it is right on fewer of imagenet_a (at most 10 %).")


def test_a_defended_number_in_the_headline_goes_by_its_defense(mine: Store) -> None:
    shift: dict[str, Any] = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None}
    mine.add(_base(20).assign(robust=np.arange(20) < 4), **shift, shift="imagenet_a", n=20, defense="rift")
    assert opened(mine).said[0][0] == (
        "On other kinds of pictures the model is right on 20 % of imagenet_a with rift (20 images).")  # fmt: skip


def test_shift_sets_of_the_fixture_are_called_imitations(mine: Store) -> None:
    facts: dict[str, Any] = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None}
    mine.add(_base(20).assign(robust=np.arange(20) < 4), **facts, shift="imagenet_a", corruption="sketch", n=20)
    sweep = json.loads((mine.root / "sweep.json").read_text("utf-8"))
    (mine.root / "sweep.json").write_text(json.dumps({**sweep, "note": scenes().note}), "utf-8")
    document = opened(mine)
    assert "20 % of an imitation of imagenet_a (20 images)" in document.said[0][0]
    assert "a synthetic imitation, not the set of that name" in document.answers[0].title


def test_next_steps_are_those_that_apply(mine: Store) -> None:
    attack(mine, 30, **SQUARE)
    steps = opened(mine).steps
    assert steps[0] == "Against an attacker who sees the model's scores (threat `scores`): run square with 4999 steps."
    assert any("`access: white_box`" in step for step in steps)
    assert any("`budget: {linf: 8/255}`" in step for step in steps)
    assert not any("--first" in step for step in steps), "more images make no verdict of a weak attack"
    attack(mine, 4, **WHITE)
    proof(mine, 6, 10)
    steps = opened(mine).steps
    assert not any("white_box" in step for step in steps)
    assert "Certify at the attacked radius, linf 8/255: proofs were asked for up to 2/255 only." in steps
    assert any("--first 1000" in step for step in steps)
    assert any(step.endswith("is known to within 15 points, if they are a random sample.") for step in steps)


def test_no_step_contradicts_a_verdict_and_questions_are_counted(mine: Store) -> None:
    short: dict[str, Any] = {**WHITE, "attack": "fmn(steps=30)", "family": ("minimum norm",), "least": {"steps": 100}}
    for model, standing in (("cnn", 0), ("vit", 6)):
        attack(mine, standing, **short, model=model)
    attack(mine, 0, **WHITE)
    (said,) = [step for step in opened(mine).steps if "threat `white`" in step]
    assert said.startswith("Against an attacker who knows the model (threat `white`, on vit): run fmn with 100 steps")
    attack(mine, 30, **SQUARE, budget="linf(eps=8/255) queries(500)")
    (said,) = [step for step in opened(mine).steps if "threat `scores`" in step]
    assert said == ("Against an attacker who sees the model's scores (500 questions an image; threat `scores`, on "
                    "cnn): run square with 4999 steps (allow 5000 questions an image).")  # fmt: skip


def test_the_banner_says_how_many_images_most_have_and_who_has_fewer(mine: Store) -> None:
    attack(mine, 4, **WHITE)
    attack(mine, 4, **{**WHITE, "attack": "pgd"})
    proof(mine, 6, 10)
    run = read([mine.root])
    (line,) = [line for line in cautions(run, worst_case(run)) if "screening" in line]
    assert line == "A screening: 40 images (proof: 10); publish from 1000 on."


def test_terms_that_a_page_uses_are_explained_and_linked(mine: Store, written: Path) -> None:
    page = (written / "report.html").read_text("utf-8")
    for term in ("robust accuracy", "INVALID", "refused", "unmeasured", "inert"):
        assert f"<dt>{term}</dt><dd>{TERMS[term][:20]}" in page
        assert f'<a href="#word-{term.replace(" ", "-").lower()}">' in page
    assert "<dt>SSIM</dt>" not in page
    assert "## Words" in (written / "report.md").read_text("utf-8")
    attack(mine, 4, **WHITE)
    assert "gap" not in dict(opened(mine).terms)


def test_the_page_opens_with_its_sections_and_its_sentences(written: Path) -> None:
    page = (written / "report.html").read_text("utf-8")
    places = [page.index(part) for part in ("<nav", 'class="said"', 'class="next"', 'class="answers"', '<section id="')]
    assert places == sorted(places)


def test_the_terminal_says_the_same(mine: Store) -> None:
    attack(mine, 4, **WHITE)
    grids, _ = overview([mine.root])
    assert grids[-1].title == told(mine)[0]


def test_long_names_are_letters_with_their_key(mine: Store, tmp_path: Path) -> None:
    long = "adversarial_finetuning+randomized_smoothing"
    for defense in ("none", long):
        attack(mine, 4, **WHITE, defense=defense)
    write_report([mine.root], tmp_path / "out", ["html"])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert f"A undefended, B {long}</figcaption>" in page.replace("<wbr>", "")
    assert pd.Series(overview([mine.root])[0][0].rows[1]).map(lambda entry: entry.text).tolist() == ["B", long]


def test_names_on_cards_break_after_their_separators_and_links_wrap(mine: Store, tmp_path: Path) -> None:
    attack(mine, 4, **WHITE)
    attack(mine, 20, **WHITE, defense="adversarial_finetuning+randomized_smoothing")
    write_report([mine.root], tmp_path / "out", ["html"])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    (cards,) = re.findall(r'<section class="answers".*?</section>', page, re.DOTALL)
    assert "randomized_<wbr>smoothing leads" in cards
    assert "randomized_smoothing" not in cards
    (nav,) = re.findall(r"^nav \{.*\}", page, re.MULTILINE)
    assert "flex-wrap: wrap" in nav, "no link ends cut"


def test_no_proof_is_asked_for_where_nothing_stands(tmp_path: Path) -> None:
    found = {}
    for name, stands in (("fallen", False), ("standing", True)):
        store = Store(tmp_path / name)
        rows = pd.DataFrame({"index": range(40), "label": 0, "clean_ok": True, "robust": [stands, *[False] * 39]})
        for attack, family in (("apgd", ("gradient",)), ("fmn", ("minimum_norm",))):
            store.add(rows, attack=attack, n=40, threat="white", access="labels, scores, gradients, weights",
                      family=family, budget="linf(eps=8/255)")  # fmt: skip
        found[name] = " ".join(steps(read([store.root])))
    assert "No image stands at linf 8/255 and no defense was measured" in found["fallen"]
    assert "proof" not in found["fallen"]
    assert "Ask for a proof at the attacked radius" in found["standing"]
    assert "No image stands" not in found["standing"]
