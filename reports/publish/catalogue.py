"""The documentation as a static site: a page for every installed plugin from its card, and the written pages.

A card says what the planner knows; the docstrings say what the method is. `gaps` names what a plugin leaves unsaid, and
a test holds our own plugins to it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import markdown_it
from markupsafe import Markup

from robustsuite.config.taxonomy import worded

from ..boards import site
from ..render.document import Entry, Section, Table, words
from ..render.files import put

if TYPE_CHECKING:
    from robustsuite.config.registry import Card

FOOT = "Made by `robustsuite docs` from the cards of the installed plugins."
TITLES = {"attack": "Attacks", "defense": "Defenses", "shift": "Shift sets", "data": "Data sets", "model": "Models",
          "scenario": "Scenarios"}  # fmt: skip
CITED = ("attack", "defense", "shift")
"""Kinds that implement somebody's method or data, and have to say whose."""
COMMON = {
    "steps": "gradient steps an image and restart", "restarts": "independent starts an image",
    "iterations": "optimiser steps", "lr": "learning rate", "epochs": "passes over the training pictures",
    "queries": "answers an image may cost", "seed": "of its own random choices", "batch_size": "pictures at a time",
    "size": "pixels a side", "resize": "pixels of the shorter side before the centre crop",
    "interpolation": "how pictures are resized: bilinear or bicubic", "root": "the folder that holds the data",
    "rate": "share of the training pictures", "first": "only the first so many examples",
    "corruptions": "names, all of the set by default", "severities": "1 ... 5, all of the set by default",
    "tv": "weight of total variation", "surrogate": "the net that stands in for the victim's",
    "classes_file": "a file of class names, one a line", "opacity": "weight of the trigger in the picture",
    "test_opacity": "the same when it is tested", "mutation": "chance that a gene changes",
    "head_epochs": "epochs of the heads alone",
    "cover": "share of triggered pictures that keep their label", "temperature": "of the softmax over fitness",
    "sigma": "standard deviation of the noise, in [0, 1] pixels",
}  # fmt: skip
"""What names mean wherever a plugin says nothing else."""


def gaps(card: Card) -> list[str]:
    """What a plugin's page would lack: a sentence each, nothing where it is documented."""
    text, found = inspect.getdoc(card.function) or "", []
    if not text:
        found.append(f"{card.origin} has no docstring")
    elif not text.split("\n", 1)[0].rstrip().endswith((".", ")", ":")):
        found.append(f"{card.origin}: the docstring's first line is no sentence")
    if card.kind in CITED and not re.search(r"\b(19|20)\d\d\b|\d{4}\.\d{4,5}|this ", card.paper):
        found.append(f"{card.origin}: the card names no paper with its year")
    if not _about(card):
        found.append(f"{card.origin}: its file has no docstring")
    silent = [name for name in card.parameters if not _meaning(card, name)]
    if silent and not card.requires:  # a bridge's parameters are documented by the library that it leads to
        found.append(f"{card.origin}: no word on {', '.join(silent)}")
    return found


def _meaning(card: Card, name: str) -> str:
    """What the docstrings say of a parameter: 'name: ...' up to the full stop, else the sentence that names it."""
    text = " ".join(f"{inspect.getdoc(card.function) or ''}\n{_about(card)}".split())
    own = re.search(rf"(?<![\w.]){re.escape(name)}(?: and \w+|, \w+)*: (.+?)(?:\.(?: |$)|;)", text)
    if own:
        return own[1]
    named = re.search(rf"([^.]*(?<!\w){re.escape(name)}(?!\w)[^.]*)", text)
    return COMMON.get(name) or (named[1].strip() if named else "")


def _about(card: Card) -> str:
    return inspect.getdoc(sys.modules[card.function.__module__]) or ""


def write_catalogue(cards: Sequence[Card], pages: Sequence[Path], out: Path) -> list[Path]:
    """Write the site of these cards and of these markdown files into `out`; returns the files, index.html first."""
    links = tuple((TITLES[kind], f"{kind}.html") for kind in TITLES if any(c.kind == kind for c in cards))
    pictures: dict[str, str | bytes] = {page.name: page.read_bytes() for page in pages if page.suffix == ".png"}
    written = {f"{page.stem.lower()}.html": page for page in pages if page.suffix == ".md"}
    names = tuple((page.stem.capitalize().replace("Readme", "README"), name) for name, page in written.items())
    files: dict[str, str | bytes] = {**site.files("index.html", _index(cards, (*links, *names)))}
    for kind in dict.fromkeys(card.kind for card in cards):
        files |= site.files(f"{kind}.html", _kind(kind, [card for card in cards if card.kind == kind]))
    for card in cards:
        files[f"{card.kind}/{card.name}.html"] = site.render(_plugin(card))
    for name, page in written.items():
        files[name] = site.render(_written(page, {*written, *pictures}))
    files |= pictures
    return [put(Path(out) / name, content) for name, content in files.items()]


def _index(cards: Sequence[Card], links: Sequence[tuple[str, str]]) -> site.Page:
    rows = tuple(_row(card, f"{card.kind}/") for card in cards)
    table = Table("plugins", "Everything that is installed", "", ("name", "kind", "place", "what it does"), rows)
    lead = f"{len(cards)} plugins; `robustsuite list KIND` prints the same in a terminal."
    return site.Page("robustsuite", "Documentation", (Section("all", "", (), (table,)),), lead=(lead,),
                     links=tuple(links), foot=FOOT)  # fmt: skip


def _kind(kind: str, cards: Sequence[Card]) -> site.Page:
    rows = tuple(_row(card, f"{kind}/") for card in cards)
    table = Table("plugins", TITLES[kind], "", ("name", "kind", "place", "what it does"), rows)
    return site.Page(TITLES[kind], "Documentation", (Section("all", "", (), (table,)),), (("All", "index.html"),),
                     foot=FOOT)  # fmt: skip


def _row(card: Card, folder: str) -> tuple[Entry, ...]:
    return (Entry(card.name, card.name, href=f"{folder}{card.name}.html"), words(card.kind), words(card.place),
            Entry(card.summary))  # fmt: skip


def _plugin(card: Card) -> site.Page:
    about, text = _about(card), inspect.getdoc(card.function) or ""
    rows = tuple((words(name), Entry(value, kind="code")) for name, value in _facts(card) if value)
    tables = [Table("facts", "Card", "", ("fact", "value"), rows)]
    if card.parameters:
        declared = inspect.signature(card.function).parameters
        given = tuple((words(name), Entry(repr(value), kind="code"), Entry(_type(declared[name]), kind="code"),
                       Entry(_meaning(card, name))) for name, value in card.parameters.items())  # fmt: skip
        tables.append(Table("parameters", "Parameters", "", ("parameter", "default", "type", "meaning"), given))
    if card.differs:
        sentences = tuple((Entry(sentence),) for sentence in card.differs)
        tables.append(Table("differs", "Where it differs from the paper", "", ("sentence",), sentences))
    body = _paragraphs(text) + Markup("<h2>The method</h2>") + _paragraphs(about)
    links = tuple((f"arXiv {number}", f"https://arxiv.org/abs/{number}") for number in _arxiv(card.paper))
    crumbs = (("All", "../index.html"), (TITLES[card.kind], f"../{card.kind}.html"))
    return site.Page(card.name, "Documentation", (Section("card", "", (), tuple(tables)),), crumbs, links=links,
                     foot=FOOT, body=body)  # fmt: skip


def _type(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    return "" if kind is parameter.empty else str(getattr(kind, "__name__", kind))


def _arxiv(paper: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"arXiv[: ]+(\d{4}\.\d{4,5})", paper)))


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    from robustsuite.config.registry import AttackCard, DefenseCard  # a report reads no plugin, and waits for no torch

    yield "kind", f"{card.kind}, {card.place}" if card.place else card.kind
    yield "paper", card.paper
    if isinstance(card, AttackCard):
        yield "needs", card.needs.words()
        yield "budgets", ", ".join(card.norms)
        yield "goals", ", ".join(card.goals)
        yield "family", ", ".join(card.families())
        yield "at the least", ", ".join(f"{name} {value}" for name, value in card.least.items())
        yield from worded(card.atlas, card.nist).items()
        cost = card.priced(10)
        yield "cost an image, at the most", f"{cost.forwards:g} forwards, {cost.backwards:g} backwards (10 classes)"
    if isinstance(card, DefenseCard):
        yield "hides", card.hides.words()
        yield "random", "yes" if card.stochastic else ""
        yield "stand-in to attack through", "yes" if card.surrogate else ""
    yield "needs the package", card.requires
    yield "code", card.origin
    yield "in a sweep", _example(card)


def _example(card: Card) -> str:
    plain = {k: v for k, v in card.parameters.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
    some = ", ".join(f"{k}: {v}" for k, v in list(plain.items())[:2])
    return f"{card.name}: {{{some}}}" if some else card.name


def _paragraphs(text: str) -> Markup:
    """A docstring as paragraphs; lines that are set in stay as they are."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        tag = "pre" if any(line.startswith((" ", "\t")) for line in block.split("\n")) else "p"
        parts.append(Markup("<{0}>{1}</{0}>").format(Markup(tag), block))
    return Markup("\n").join(parts)


def _written(page: Path, known: set[str]) -> site.Page:
    """A markdown file as a page; raw html in it is shown, not obeyed."""
    text = page.read_text("utf-8")
    title = next((line[2:].strip() for line in text.split("\n") if line.startswith("# ")), page.stem)
    html = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = re.sub(r"<h1>.*?</h1>", "", html, count=1)

    def local(found: re.Match[str]) -> str:
        name, anchor = Path(found[2]).name, found[3] or ""
        target = f"{Path(name).stem.lower()}.html" if name.endswith(".md") else name
        # A file of the checkout that is no page stays a name; a link to it would lead nowhere.
        return f'{found[1]}="{target}{anchor}"' if target in known else f'title="{name}"'

    html = re.sub(r'(href|src)="(?!https?:|#|mailto:)([^"#]+)(#[^"]*)?"', local, html)
    return site.Page(title, "Documentation", (), (("All", "index.html"),), foot=FOOT, body=Markup(html))


def installed() -> tuple[list[Card], list[Path]]:
    """The installed cards, and the pages and pictures of the checkout, or those that a wheel brought along."""
    from robustsuite.config.registry import cards

    root = Path(__file__).parents[2]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted((root / "docs").glob("*.png"))]
    if not pages[0].is_file():
        brought = [file for file in metadata.files("robustsuite") or () if "share/robustsuite/docs" in str(file)]
        pages = sorted(Path(str(file.locate())) for file in brought)
    return list(cards().values()), [page for page in pages if page.is_file()]
