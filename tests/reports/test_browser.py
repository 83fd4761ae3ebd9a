"""The pages in a real Chromium: sorting, filtering, opening a cell, dark mode, a phone's width, no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.boards.board_files import write_leaderboard

pytestmark = pytest.mark.slow
PHONE, DESK = (390, 800), (1280, 900)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not service:
        pytest.skip("no Chromium with its driver here (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = ["--headless=new", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def board(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("board")
    write_leaderboard([store.root], out)
    return out


@pytest.fixture(params=["report", "index", "threat", "cells", "union", "cell"])
def page(request: pytest.FixtureRequest, written: Path, board: Path) -> Path:
    """One of every kind of page."""
    first = {"union": "unions", "cell": "cells"}
    if request.param in first:
        return min((board / first[request.param]).glob("*.html"))
    named = {"index": "index.html", "threat": "linf.html", "cells": "cells.html"}
    return written / "report.html" if request.param == "report" else board / named[request.param]


def show(driver: Any, page: Path, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
    """Open a page at a width in CSS pixels, under a system that prefers light or dark."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(page.as_uri())
    driver.execute_script("try { localStorage.clear() } catch {}")
    driver.refresh()


def column(driver: Any, table: str, place: int) -> list[str]:
    """The text of the rows that are shown, in one column."""
    script = """return [...document.getElementById("table-" + arguments[0]).tBodies[0].rows]
                .filter((row) => row.offsetHeight).map((row) => row.cells[arguments[1]].textContent.trim())"""
    found: list[str] = driver.execute_script(script, table, place)
    return found


def heads(driver: Any, table: str) -> list[Any]:
    from selenium.webdriver.common.by import By

    found: list[Any] = driver.find_elements(By.CSS_SELECTOR, f"#table-{table} th button")
    return found


def sort_by(driver: Any, table: str, place: int) -> None:
    """Click a column's head, brought to the middle first: at the page's edge the sticky line of sections covers it."""
    head = heads(driver, table)[place]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", head)
    head.click()


def luminance(driver: Any) -> float:
    script = "return getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    return float(sum(driver.execute_script(script)) / 3)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["1280", "390"])
def test_nothing_is_asked_of_the_network_and_nothing_is_complained_about(
    driver: Any, page: Path, size: tuple[int, int]
) -> None:
    show(driver, page, size)
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked, "the log sees requests"
    beside = tuple((page.parent.parent / name).as_uri() for name in ("site.css", "site.js"))
    assert not [url for url in asked if not url.startswith(("data:", page.as_uri(), "about:", *beside))]
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(driver: Any, page: Path, scheme: str) -> None:
    show(driver, page, PHONE, scheme)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
    script = """return [...document.querySelectorAll('h1, h2, h3, p, button, input, nav a')]
                .filter((e) => e.offsetHeight && !e.closest('.scroll') && e.getBoundingClientRect().right > 391)
                .map((e) => e.tagName + ' ' + e.textContent.slice(0, 40))"""
    assert driver.execute_script(script) == []


def test_a_narrow_phone_breaks_names_that_are_longer_than_a_line(driver: Any, tmp_path: Path) -> None:
    rows = pd.DataFrame({"index": range(20), "label": 0, "clean_ok": True, "robust": True})
    store = Store(tmp_path / "run")
    store.add(rows, attack="pgd", n=20, defense="gaussian_augmentation+randomized_smoothing_of_the_outputs")
    index = write_leaderboard([store.root], tmp_path / "out")[0]
    show(driver, index, (320, 800))
    assert "One system is ranked" in driver.find_element("css selector", "section .lead + .lead").text
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 320


def test_dark_follows_the_system_and_the_button_turns_it_for_good(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By

    show(driver, page, scheme="light")
    assert luminance(driver) > 230
    show(driver, page, scheme="dark")
    assert luminance(driver) < 50
    driver.find_element(By.ID, "theme").click()
    assert luminance(driver) > 230
    driver.refresh()
    assert luminance(driver) > 230, "remembered"
    driver.execute_script("localStorage.clear()")


@pytest.mark.parametrize("kind", ["report", "threat"])
def test_a_click_sorts_by_value_and_a_second_turns_it_round(driver: Any, written: Path, board: Path, kind: str) -> None:
    show(driver, written / "report.html" if kind == "report" else board / "linf.html")
    table, name = ("attacks", "robust accuracy") if kind == "report" else ("attacks-1", "leaves standing")
    names = [head.text for head in heads(driver, table)]
    place = names.index(name)
    before = column(driver, table, place)
    sort_by(driver, table, place)
    up = [float(text.lstrip("≤ ").split(" ")[0]) for text in column(driver, table, place) if text != "–"]
    assert up == sorted(up)
    assert len(set(up)) > 3
    sort_by(driver, table, place)
    down = [float(text.lstrip("≤ ").split(" ")[0]) for text in column(driver, table, place) if text != "–"]
    assert down == up[::-1] == sorted(down, reverse=True)
    assert sorted(column(driver, table, place)) == sorted(before)


@pytest.mark.parametrize("kind", ["report", "threat"])
def test_typing_filters_rows_and_says_how_many_are_left(driver: Any, written: Path, board: Path, kind: str) -> None:
    from selenium.webdriver.common.by import By

    show(driver, written / "report.html" if kind == "report" else board / "linf.html")
    table = "attacks" if kind == "report" else "attacks-1"
    names = [head.text for head in heads(driver, table)]
    rows = len(column(driver, table, 0))
    field = driver.find_element(By.CSS_SELECTOR, f'input[data-table="{table}"]')
    field.send_keys("crossmax FGSM")
    left = column(driver, table, names.index("attack"))
    assert left == ["fgsm"]
    said = driver.find_element(By.CSS_SELECTOR, f'output[data-count="{table}"]').text
    assert said == f"1 of {rows} rows"
    field.clear()
    field.send_keys("nothing is called that")
    assert column(driver, table, 0) == []


def test_a_reader_chooses_among_all_cells_and_a_link_has_chosen(driver: Any, board: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    show(driver, board / "cells.html")
    said = driver.find_element(By.CSS_SELECTOR, 'output[data-count="cells"]')
    rows = int(said.text.split()[0])
    names = [head.text for head in heads(driver, "cells")]
    for name, value in (("threat", "linf"), ("defense", "crossmax")):
        Select(driver.find_element(By.NAME, name)).select_by_visible_text(value)
    WebDriverWait(driver, 10).until(lambda _: "of" in said.text)
    chosen = {(a, b) for a, b in zip(*(column(driver, "cells", names.index(n)) for n in ("threat", "defense")),
                                     strict=True)}  # fmt: skip
    assert chosen == {("linf", "crossmax")}
    assert said.text == f"{len(column(driver, 'cells', 0))} of {rows} rows"
    sort_by(driver, "cells", names.index("attack"))
    assert column(driver, "cells", names.index("attack")) == sorted(column(driver, "cells", names.index("attack")))
    Select(driver.find_element(By.NAME, "defense")).select_by_index(0)
    Select(driver.find_element(By.NAME, "grade")).select_by_visible_text("SOUND")
    assert set(column(driver, "cells", names.index("grade"))) == {"SOUND, screening: 200 images"}
    Select(driver.find_element(By.NAME, "grade")).select_by_index(0)
    Select(driver.find_element(By.NAME, "status")).select_by_visible_text("unmeasured")
    assert column(driver, "cells", names.index("result")) == [
        "crossmax hides gradients and ships no surrogate; the number would flatter it"
    ]
    driver.get("about:blank")
    driver.get((board / "cells.html").as_uri() + "#threat=proof&grade=nonsense")
    said = driver.find_element(By.CSS_SELECTOR, 'output[data-count="cells"]')
    WebDriverWait(driver, 10).until(lambda _: "of" in said.text)
    assert set(column(driver, "cells", names.index("threat"))) == {"proof"}
    driver.find_element(By.CSS_SELECTOR, "#table-cells td a").click()
    assert "/cells/" in driver.current_url


def test_a_table_that_is_cut_off_shows_it_and_the_first_columns_are_system_and_number(driver: Any, board: Path) -> None:
    show(driver, board / "index.html", PHONE)
    script = """const box = document.querySelector(".table .scroll");
                const [head] = box.querySelector("table").tHead.rows;
                const at = (name) => [...head.cells].find((cell) => cell.textContent.trim().startsWith(name));
                return [box.scrollWidth > box.clientWidth, getComputedStyle(box).backgroundAttachment,
                        at("attacked").getBoundingClientRect().right <= box.getBoundingClientRect().right]"""
    wide, shade, seen = driver.execute_script(script)
    assert wide
    assert shade == "local, local, scroll, scroll, scroll"
    assert seen, "the number stands in the frame"


def test_a_number_opens_its_images_then_its_cell_then_its_record(driver: Any, board: Path) -> None:
    from selenium.webdriver.common.by import By

    show(driver, board / "index.html")
    driver.find_element(By.CSS_SELECTOR, "#board-1 h2 a").click()
    assert driver.title.startswith("linf")
    driver.find_element(By.CSS_SELECTOR, "#table-standings-1 td.number a[href^=unions]").click()
    names = [head.text for head in heads(driver, "examples")]
    assert names[:3] == ["index", "label", "no attack"]
    assert names[-1] == "all at once"
    stand = column(driver, "examples", len(names) - 1)
    lead = driver.find_element(By.CSS_SELECTOR, "header .lead").text
    assert f"{stand.count('stands')} of {len(stand)} stand" in lead
    driver.find_element(By.CSS_SELECTOR, ".links a[href*=cells]").click()
    assert "index" in [head.text for head in heads(driver, "examples")]
    record = driver.find_element(By.LINK_TEXT, "record (json)").get_attribute("href")
    assert json.loads(Path(record.removeprefix("file://")).read_text())["status"] == "done"
    driver.find_element(By.LINK_TEXT, "All boards").click()
    assert driver.current_url == (board / "index.html").as_uri()
