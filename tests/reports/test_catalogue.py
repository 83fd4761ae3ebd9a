"""The documentation: every plugin has a page that says what it is, and one that says nothing fails here."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from robustsuite.config.registry import Card, cards
from robustsuite.reports.publish.catalogue import gaps, installed, write_catalogue

SILENT = {
    "adversarial_distillation", "adversarial_distillation_zero", "cgba", "cgba_h", "gias", "gifd", "gradinversion",
    "quscore", "rift", "checkpoint", "imagenet_c",
}  # fmt: skip
"""Plugins whose docstrings leave a letter of their paper unexplained. May only become fewer."""


@pytest.mark.parametrize(
    "card", [c for c in cards().values() if c.origin.startswith("robustsuite.")], ids=lambda c: c.name
)
def test_every_plugin_is_documented(card: Card) -> None:
    found = gaps(card)
    assert not [gap for gap in found if not (card.name in SILENT and ": no word on " in gap)]


def test_an_undocumented_plugin_is_named() -> None:
    def mute(model: object, *, wobble: int = 3) -> None:
        pass

    found = " ".join(gaps(Card("attack", "mute", mute)))
    assert "has no docstring" in found
    assert "names no paper" in found
    assert "no word on wobble" in found


def test_a_word_in_the_docstring_is_enough() -> None:
    def told(model: object, *, wobble: int = 3) -> None:
        """Shake the picture (Nobody, 2020).

        wobble: how often it is shaken. Raises nothing.
        """

    assert gaps(Card("attack", "told", told, paper="Nobody, 2020")) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    write_catalogue(*installed(), out)
    return out


def test_every_plugin_has_a_page_and_the_index_knows_it(site: Path) -> None:
    index = (site / "index.html").read_text("utf-8")
    for kind, name in cards():
        assert (site / kind / f"{name}.html").is_file()
        assert f'href="{kind}/{name}.html"' in index


def test_a_page_says_what_the_card_says(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", unescape((site / "attack" / "pgd.html").read_text("utf-8"))).replace("\n", " ")
    card = cards()["attack", "pgd"]
    for said in (card.summary, card.paper, card.origin, "rel_step", "gradient steps an image and restart"):
        assert said in text
    assert "https://arxiv.org/abs/1706.06083" in (site / "attack" / "pgd.html").read_text("utf-8")


def test_links_lead_on_and_nothing_is_loaded(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        for link in map(unescape, re.findall(r'href="([^"#]+)', text)):
            if not link.startswith(("https://", "http://", "data:")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
        assert not re.search(r'<script[^>]+src|<link[^>]+stylesheet|src="http', text)
