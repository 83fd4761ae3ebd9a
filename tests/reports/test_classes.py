"""Rates, confusions and names of classes against numbers made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kept_store import ANSWER, CLASSES, LABEL, answered, build, name_classes
from report_store import Store

from robustsuite.maths.stats import clopper_pearson
from robustsuite.reports.examples.classes import classes_section
from robustsuite.reports.measure.classes import NO_ANSWER, confusions, matrices, named, per_class
from robustsuite.reports.read.runs import Results, read


@pytest.fixture
def kept(tmp_path: Path) -> Results:
    return read([build(tmp_path / "kept").root])


def test_the_rate_of_a_class_is_over_its_own_images_and_the_surest_worst_is_first(kept: Results) -> None:
    table = per_class(kept).set_index("class")
    assert dict(zip(table.index, zip(table["k"], table["n"], strict=True), strict=True)) \
        == {0: (1, 4), 1: (1, 3), 2: (1, 2), 3: (0, 1)}  # fmt: skip
    for row in table.to_dict("records"):
        assert (row["lo"], row["hi"]) == clopper_pearson(row["k"], row["n"])
    assert list(table["hi"]) == sorted(table["hi"])
    assert table.index[0] == 0, "1 of 4 is surer than 0 of 1"
    assert table["clean_accuracy"].to_dict() == {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0}


def test_pairs_add_up_to_the_broken_images_with_an_answer(kept: Results) -> None:
    table = confusions(kept)
    rows = answered()
    broken = rows["clean_ok"] & ~rows["robust"]
    assert table["count"].sum() == (broken & (rows["answer"] >= 0)).sum() == 5
    assert table["share"].sum() == pytest.approx(1)
    assert set(table["broken"]) == {6}
    assert set(table["wrong"]) == {5}, "what the shares are of"
    assert (table["share"] * table["wrong"]).to_list() == pytest.approx(table["count"].to_list())
    (shown,) = (table for table in classes_section(kept).tables if table.name.startswith("confusions"))
    at = shown.columns.index("of wrong answers")
    assert {row[at].text for row in shown.rows} == {"5"}
    first = table.iloc[0]
    assert (first["label"], first["answer"], first["count"]) == (0, 1, 2)
    assert (3, 4) not in set(zip(table["label"], table["answer"], strict=True)), "it was wrong before"


def test_a_picture_outside_the_budget_counts_with_its_clean_answer(tmp_path: Path) -> None:
    rows = answered()
    rows.loc[0, ["in_budget", "robust"]] = False, True
    store = Store(tmp_path / "far")
    store.add(rows, attack="fmn", n=10)
    run = read([store.root])
    both = matrices(run.columns(next(iter(run.known))), most=20)
    assert both is not None
    assert both[1][0].tolist() == [2, 1, 1, 0, 0, 0]
    assert confusions(run)["count"].sum() == 4


def test_matrices_count_every_image_once(kept: Results) -> None:
    both = matrices(kept.columns(next(iter(kept.known))), most=20)
    assert both is not None
    for counts in both:
        assert counts.sum() == 10
        assert counts.sum(1).tolist() == np.bincount(LABEL, minlength=5).tolist()
    assert both[1][:, -1].sum() == (ANSWER < 0).sum()
    huge = kept.columns(next(iter(kept.known))) | {"answer": np.full(10, 1 << 60)}
    assert matrices(huge, most=20) is None, "a class that somebody wrote by hand costs no memory"


def test_names_say_which_of_two_and_never_pass_for_words_of_ours(kept: Results, tmp_path: Path) -> None:
    name = named(kept, kept.cells["dataset"][0])
    assert [name(k) for k in (0, 2, 3, 4, 9, -1)] \
        == ["cat", "class 2", "crane (class 3)", "crane (class 4)", "class 9", NO_ANSWER]  # fmt: skip
    store = build(tmp_path / "hostile")
    name_classes(store, ["no answer", "class 7", "a\u202eb\n\x00c", "x" * 10_000])
    name = named(read([store.root]), "scenes(n=200)")
    assert [name(k) for k in (0, 1, 2)] == ["no answer (class 0)", "class 7 (class 1)", "a b c"]
    assert len(name(3)) == 40


@given(st.lists(st.text(max_size=60), max_size=8))
@example(["a", "a", "a (class 0)"])
@example(["class 1", ""])
def test_no_two_classes_read_alike(names: list[str]) -> None:
    run = Results("", "", None, classes={"d": tuple(names)})  # type: ignore[arg-type]
    name = named(run, "d")
    said = [name(k) for k in range(-1, len(names) + 2)]
    assert len(set(said)) == len(said)
    assert all(word.isprintable() for word in said)


def test_sweeps_that_disagree_name_nothing(tmp_path: Path) -> None:
    a, b = build(tmp_path / "a"), Store(tmp_path / "b")
    b.add(answered(), attack="apgd", n=10)
    assert read([a.root, b.root]).classes == {"scenes(n=200)": tuple(CLASSES)}, "one that says nothing disagrees not"
    name_classes(b, ["dog", "cat"])
    assert read([a.root, b.root]).classes == {}


def test_two_data_sets_under_one_name_keep_their_own_classes(tmp_path: Path) -> None:
    stores = []
    for name, classes in (("one", ["cat", "dog"]), ("two", ["ship", "tree"])):
        store = Store(tmp_path / name)
        store.add(answered(), attack="pgd", n=10, data_sha256=name * 16, seed=len(name))
        name_classes(store, classes)
        facts = json.loads((store.root / "sweep.json").read_text("utf-8"))
        facts["entries"]["dataset"]["scenes(n=200)"] |= {"sha256": name * 16, "asked": f"scenes(root={name}/set)"}
        (store.root / "sweep.json").write_text(json.dumps(facts), "utf-8")
        stores.append(store.root)
        for cell in store.root.glob("cells/*"):  # ids that no other run has
            record = json.loads((cell / "run.json").read_text("utf-8")) | {"run_id": name + cell.name}
            (cell / "run.json").write_text(json.dumps(record), "utf-8")
            rows = store.rows[cell.name].assign(run_id=name + cell.name)
            rows.to_parquet(cell / "examples.parquet")
            cell.rename(cell.with_name(name + cell.name))
    run = read(stores)
    assert len(run.classes) == len(set(run.cells["dataset"])) == 2
    assert sorted(run.classes.values()) == [("cat", "dog"), ("ship", "tree")]
    assert set(run.classes) == set(run.cells["dataset"])


def test_older_rows_give_rates_and_no_confusion(tmp_path: Path) -> None:
    run = read([build(tmp_path / "old", said=False).root])
    assert confusions(run).empty
    section = classes_section(run)
    assert [table.name for table in section.tables] == ["classes-1"]
    assert section.figures == ()


def test_of_many_classes_the_page_shows_ten(tmp_path: Path) -> None:
    rows = answered().iloc[np.zeros(40, int)].assign(index=np.arange(40), label=np.arange(40), prediction=np.arange(40))
    store = Store(tmp_path / "many")
    store.add(rows.reset_index(drop=True), attack="pgd", n=40)
    run = read([store.root])
    table = classes_section(run).tables[0]
    assert len(table.rows) == 10
    assert "the 10 worst of 40 classes with images, no class has more than 1 image, too few" in table.caption
    assert len(per_class(run)) == 40
    assert not classes_section(run).figures
