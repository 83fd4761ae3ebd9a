"""Which known class of attack a plugin belongs to, by NIST AI 100-2, MITRE ATLAS and the EU AI Act.

Cards and records hold ids alone. Names change between releases, so they stand here, once, with the version they are of:
NIST AI 100-2 E2025, "Adversarial Machine Learning: A Taxonomy and Terminology of Attacks and Mitigations", March 2025;
MITRE ATLAS data, content version 5.6.0, May 2026; Regulation (EU) 2024/1689, Article 15(5). Which class an attack of
ours belongs to, and under which threat of the Article a class falls, is our reading: neither source says it.
`docs/evidence.md` shows the mapping; a test holds the two together. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from robustsuite.config.registry import AttackCard

NIST_EDITION = "NIST AI 100-2 E2025"
ATLAS_VERSION = "MITRE ATLAS 5.6.0 (May 2026)"

DATA, MODEL, EVASION, SECRETS, FLAWS = (
    "data poisoning", "model poisoning", "adversarial examples or model evasion", "confidentiality attacks",
    "model flaws",
)  # fmt: skip
OTHER = "other ways to alter use, outputs or performance"
THREATS = (DATA, MODEL, EVASION, SECRETS, FLAWS, OTHER)
"""What Article 15(5) names; the last is its first sentence, for what its list does not name."""


class Class(NamedTuple):
    """A class of attacks on predictive AI: its name, and under which of THREATS it falls."""

    name: str
    threat: str


NIST: Final[Mapping[str, Class]] = {
    "NISTAML.012": Class("clean-label poisoning", DATA),
    "NISTAML.013": Class("data poisoning", DATA),
    "NISTAML.021": Class("clean-label backdoor", DATA),
    "NISTAML.023": Class("backdoor poisoning", DATA),
    "NISTAML.024": Class("targeted poisoning", DATA),
    "NISTAML.011": Class("model poisoning (availability)", MODEL),
    "NISTAML.026": Class("model poisoning (integrity)", MODEL),
    "NISTAML.051": Class("model poisoning (supply chain)", MODEL),
    "NISTAML.022": Class("evasion", EVASION),
    "NISTAML.025": Class("black-box evasion", EVASION),
    "NISTAML.031": Class("model extraction", SECRETS),
    "NISTAML.032": Class("data reconstruction", SECRETS),
    "NISTAML.033": Class("membership inference", SECRETS),
    "NISTAML.034": Class("property inference", SECRETS),
    "NISTAML.014": Class("energy-latency", OTHER),
}
"""The classes of attacks on predictive AI by id, in the order of THREATS; those on generative AI alone are left out."""

ATLAS: Final[Mapping[str, str]] = {
    "AML.T0005": "Create Proxy AI Model",
    "AML.T0014": "Discover AI Model Family",
    "AML.T0015": "Evade AI Model",
    "AML.T0018.000": "Poison AI Model",
    "AML.T0020": "Poison Training Data",
    "AML.T0024.000": "Infer Training Data Membership",
    "AML.T0024.001": "Invert AI Model",
    "AML.T0024.002": "Extract AI Model",
    "AML.T0040": "AI Model Inference API Access",
    "AML.T0043.000": "White-Box Optimization",
    "AML.T0043.001": "Black-Box Optimization",
    "AML.T0043.002": "Black-Box Transfer",
    "AML.T0043.004": "Insert Backdoor Trigger",
    "AML.T0044": "Full AI Model Access",
    "AML.T0059": "Erode Dataset Integrity",
    "AML.M0008": "Validate AI Model",
}
"""The techniques, and the one mitigation, that cards of ours name."""

Ids = Mapping[str, tuple[str, ...]]
"""What a card says: `atlas` and `nist`, to be handed to it as they are."""

WHITE_BOX: Ids = {"nist": ("NISTAML.022",), "atlas": ("AML.T0043.000", "AML.T0015", "AML.T0044")}
"""Evasion by gradients; an ensemble that needs them as well, whatever else it plays."""

BLACK_BOX: Ids = {"nist": ("NISTAML.025",), "atlas": ("AML.T0043.001", "AML.T0015", "AML.T0040")}
"""Evasion by questions alone: scores, labels, noise."""

TRANSFER: Ids = {"nist": ("NISTAML.025",), "atlas": ("AML.T0043.002", "AML.T0015", "AML.T0005")}
"""Evasion found on a network of the adversary's own."""

BACKDOOR: Ids = {"nist": ("NISTAML.023",), "atlas": ("AML.T0020", "AML.T0018.000", "AML.T0043.004")}
"""A trigger in the training set, with labels changed."""

CLEAN_LABEL_BACKDOOR: Ids = {**BACKDOOR, "nist": ("NISTAML.023", "NISTAML.021")}
"""The same, with every label as it was."""

UNLEARNABLE: Ids = {"nist": ("NISTAML.013", "NISTAML.012"), "atlas": ("AML.T0020", "AML.T0059")}
"""A training set that nothing is learnt from, with every label as it was."""

LABEL_NOISE: Ids = {**UNLEARNABLE, "nist": ("NISTAML.013",)}
"""The same, by labels alone."""

INVERSION: Ids = {"nist": ("NISTAML.032",), "atlas": ("AML.T0024.001",)}
"""Pictures from a shared update. ATLAS has no technique for updates: the nearest inverts a model through its API."""

PARSING: Ids = {"nist": ("NISTAML.031",), "atlas": ("AML.T0014",)}
"""Facts of an architecture, from pictures. NIST's extraction is of architecture and weights."""

EXTRACTION: Ids = {"nist": ("NISTAML.031",), "atlas": ("AML.T0024.002", "AML.T0005", "AML.T0040")}
"""A copy of a model from its answers."""

MEMBERSHIP: Ids = {"nist": ("NISTAML.033",), "atlas": ("AML.T0024.000",)}
"""Who was in the training set, from answers."""

SCAN: Ids = {"nist": ("NISTAML.023", "NISTAML.021"), "atlas": ("AML.M0008",)}
"""A scanner looks for backdoors and is no attack: the classes are those whose traces it looks for."""

PROOF: Ids = {"nist": ("NISTAML.022", "NISTAML.025"), "atlas": ("AML.M0008",)}
"""A certifier is no attack: the classes are those that its proof bounds inside the ball, the id is a mitigation's."""

OURS = {i for ids in (WHITE_BOX, BLACK_BOX, CLEAN_LABEL_BACKDOOR, UNLEARNABLE, INVERSION, MEMBERSHIP, EXTRACTION)
        for i in ids["nist"]}  # fmt: skip
"""The classes that attacks of ours are of."""


def joined(*several: Ids) -> Ids:
    """The ids of an attack that is of several kinds, each once."""
    return {key: tuple(dict.fromkeys(i for ids in several for i in ids[key])) for key in ("nist", "atlas")}


FORM = {"atlas": re.compile(r"AML\.[TM]\d{4}(\.\d{3})?"), "nist": re.compile(r"NISTAML\.0\d{1,2}")}


def formed(ids: object, which: str) -> bool:
    """Whether these are ids of `atlas` or `nist` by their form; a later release has some that the tables lack."""
    return isinstance(ids, tuple | list) and all(isinstance(i, str) and FORM[which].fullmatch(i) for i in ids)


def worded(atlas: Iterable[str], nist: Iterable[str]) -> dict[str, str]:
    """The ids with their names, by the edition whose names they are; an id that the tables lack stands alone."""
    classes = (f"{i} {NIST[i].name}" if i in NIST else i for i in nist)
    techniques = (f"{i} {ATLAS[i]}" if i in ATLAS else i for i in atlas)
    return {NIST_EDITION: ", ".join(classes), ATLAS_VERSION: ", ".join(techniques)}


def as_markdown(cards: Iterable[AttackCard]) -> str:
    """The mapping as `docs/evidence.md` shows it: a row a class of NIST, with what these attacks' cards name."""
    known = list(cards)
    lines = ["| Article 15(5) | NIST | class | ATLAS, as our cards name it | measured in |", "|---|---|---|---|---|"]
    for name, (words, threat) in NIST.items():
        own = [card for card in known if name in card.nist]
        techniques = ", ".join(dict.fromkeys(i for card in own for i in card.atlas)) or "–"
        places = ", ".join(dict.fromkeys(card.place for card in own)) or "**not measured by this suite**"
        lines.append(f"| {threat} | {name} | {words} | {techniques} | {places} |")
    return "\n".join(lines)
