"""Galleries: only what is kept and broken, in bounded bytes, escaped, the same twice, and nothing for older records."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kept_store import answered, build, keep, pictures
from PIL import Image
from report_store import Store

from robustsuite.reports import write_report
from robustsuite.reports.boards import site
from robustsuite.reports.boards.cell_pages import cell_page
from robustsuite.reports.examples import gallery
from robustsuite.reports.examples.gallery import affordable, gallery_section, length, shown_of
from robustsuite.reports.read.runs import read
from robustsuite.reports.render.document import Shot
from robustsuite.reports.render.pictures import magnified, png, sampled, size_of


def images(page: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(BytesIO(b64decode(data))))
        for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    ]


def test_what_is_shown_is_kept_broken_and_answered(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    section = gallery_section(read([store.root]))
    (shown,) = section.galleries
    assert "magnified by its own factor, which stands below it" in section.lead[0]
    assert [shot.facts[-1] for shot in shown.shots] == [f"example {i}" for i in (0, 1, 2, 4, 8)]
    assert [shot.words for shot in shown.shots][:3] == [
        "cat → <img src=x onerror=alert(1)>"] * 2 + ["cat → class 2"]  # fmt: skip
    assert all(shot.facts[0] == "linf distance 8/255 of 8/255 allowed" for shot in shown.shots)
    assert {round(shot.times, 2) for shot in shown.shots} == {15.94}
    kept = pictures([0, 1, 2, 3, 4, 5, 6, 8])
    levels = np.rint(kept.clean[0] * 255).astype(np.uint8)
    assert (np.asarray(Image.open(BytesIO(shown.shots[0].clean))) == np.moveaxis(levels, 0, -1)).all()


def test_the_page_embeds_them_and_names_are_text(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    write_report([store.root], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert len(images(page)) == 15
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert page.count("<script") == 1
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(alts) == 15
    assert all(alts)
    assert page.count('class="enlarged"') == 15
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    (figure,) = re.findall(r"\((figures/gallery-[^)]*)\)", text)
    assert Image.open(tmp_path / "out" / figure).size > (100, 100)
    assert "<img" not in text


def test_two_reports_are_the_same_bytes(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    for out in ("one", "two"):
        write_report([store.root], tmp_path / out)
    names = {f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*") if f.is_file()}
    assert any("gallery" in str(name) for name in names)
    assert {"per_class.csv", "confusions.csv"} <= set(map(str, names))
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize("said", [True, False])
def test_no_pictures_or_no_answers_are_no_gallery(tmp_path: Path, said: bool) -> None:
    store = Store(tmp_path / "old") if said else build(tmp_path / "old", said=False)
    if said:
        store.add(answered(), attack="pgd", n=10)
    assert gallery_section(read([store.root])).galleries == ()
    write_report([store.root], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert 'id="pictures"' not in page
    assert "data:image" not in page


def test_damaged_pictures_are_a_sentence(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    (file,) = (store.root / "pictures").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    section = gallery_section(read([store.root]))
    assert section.galleries == ()
    assert "cannot be shown: pictures/" in section.lead[-1]


def test_large_pictures_are_shrunk_and_say_so(tmp_path: Path) -> None:
    (shown,) = gallery_section(read([build(tmp_path / "run", side=150).root])).galleries
    assert "shown smaller: 150 × 150 pixels at 112 × 112" in shown.caption
    for shot in shown.shots:
        assert {Image.open(BytesIO(data)).size for data in (shot.clean, shot.attacked, shot.difference)} == {(112, 112)}
        assert not shot.enlarged


def test_bytes_are_bounded_and_dealt_out_one_a_gallery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def shot(size: int) -> Shot:
        return Shot(b"x" * size, b"", b"", 1.0, (1, 1), False, "", ())

    dealt = affordable([[shot(300)] * 6, [shot(300)] * 6, [shot(3000)]], most=2000)
    assert [len(each) for each in dealt] == [3, 2, 0]
    monkeypatch.setattr(gallery, "affordable", lambda shots: affordable(shots, most=1000))
    store = build(tmp_path / "run", side=40)
    section = gallery_section(read([store.root]))
    assert section.galleries == ()
    assert "nothing is shown" in section.lead[1]


def test_a_whole_page_of_noise_stays_within_its_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path / "many")
    for i in range(8):
        run_id = store.add(answered(), attack="pgd", n=10, threat=f"t{i}", budget=f"linf(eps={i + 8}/255)")
        keep(store, run_id, pictures([0, 1, 2, 4, 8], side=112))
    write_report([store.root], tmp_path / "out", ["html"])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    data = re.findall(r"data:image/png;base64,([^\"]*)", page)
    assert 1 << 20 < sum(map(len, data)) <= 2 << 20
    assert page.count('class="gallery"') == 8, "each threat has its first"


def test_triggered_pictures_are_shown_where_the_trigger_changed_the_answer(tmp_path: Path) -> None:
    store = Store(tmp_path / "po")
    rows = pd.DataFrame({
        "index": range(4), "label": [0, 1, 1, 2], "clean_ok": [True, True, False, True], "flagged_clean": False,
        "prediction": [0, 1, 3, 2], "answer": [3, 3, 3, 2], "eligible": True, "flagged": False, "recovered": False,
        "triggered_as_target": [True, True, True, False], "psnr": 30.25,
    })  # fmt: skip
    threat = {"threat": "patch", "scenario": "poisoning", "access": "train_set", "budget": "poison_rate(0.1)", "n": 4,
              "goal": "class 3"}  # fmt: skip
    run_id = store.add(rows, attack="badnets", **threat)
    keep(store, run_id, pictures([0, 1, 2]))
    (shown,) = gallery_section(read([store.root])).galleries
    assert [shot.words for shot in shown.shots] == ["class 0 → class 3", "class 1 → class 3"]
    assert shown.shots[0].facts[0] == "PSNR of the trigger 30.2 dB"


def test_distances_have_their_unit() -> None:
    assert length(np.float32(8 / 255), "linf") == "8/255"
    assert length(0.001, "linf") == "0.255/255"
    assert length(0.49712, "l2") == "0.4971"


@pytest.mark.parametrize(
    ("few", "broke", "words"),
    [
        (1, 1, "The only picture, of 9, that gets"),
        (2, 2, "All 2 pictures, of 9, that get"),
        (1, 2, "1 of the 2 pictures"),
    ],
)
def test_how_many_are_shown_is_a_sentence(few: int, broke: int, words: str) -> None:
    assert shown_of(few, broke, 9).startswith(words)


def test_sizes_and_sampling() -> None:
    assert size_of(np.zeros((1, 28, 28), np.float32), 112) == (112, 112)
    assert size_of(np.zeros((3, 32, 16), np.float32), 112) == (48, 96)
    assert size_of(np.zeros((3, 224, 448), np.float32), 112) == (112, 56)
    wide = np.arange(3 * 224 * 448, dtype=np.float32).reshape(3, 224, 448)
    few = sampled(wide, 112)
    assert few.shape == (3, 56, 112)
    assert np.isin(few, wide).all()
    assert Image.open(BytesIO(png(few))).size == (112, 56)
    difference, times = magnified(np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), 0.25, np.float32))
    assert (times, difference.max()) == (2.0, 1.0)


def test_a_cells_page_shows_its_own_pictures(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    run = read([store.root])
    (run_id,) = run.known
    page = cell_page(run, run_id)
    (shown,) = next(section.galleries for section in page.sections if section.name == "pictures")
    assert len(images(site.render(page))) == 3 * len(shown.shots) == 15
    assert "What the attack changed" in site.render(page)
