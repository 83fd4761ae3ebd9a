"""An adversary in words, briefly for headings and in full for a page: what it knows, may change and wants."""

from __future__ import annotations

import math
from collections.abc import Collection

from robustsuite.integrity.strength import granted
from robustsuite.records.schema import Budget, CellRecord, ThreatFacts, radius_words

from .text import number, percent

SMALL, VISIBLE = 8 / 255, 16 / 255
"""linf radii up to which changes are called small, and up to which visible; whether anybody sees one depends on the
picture (a flat tint of 8 levels shows), so the levels stand beside the word. The other norms have none without the size
of the pictures."""

KNOWS = ("sees nothing of the model", "sees only the model's answers", "sees the model's scores", "knows the model")
"""By what `knows` returns."""

BESIDES = {"train_set": "holds the training set", "update": "watches what a client of a federated training shares",
           "aux_data": "owns pictures and networks of its own"}  # fmt: skip
WANTS = {
    "untargeted": "any wrong answer will do",
    "targeted": "the answer must become one wrong class, drawn at random",
}


BEYOND = {
    "patch": ("putting anything into one square of {share} of the picture",
              "put anything into one square of at most {share} of the picture"),
    "frame": ("putting anything into a border of {eps} pixel{s}", "put anything into a border {eps} pixel{s} wide"),
    "spatial": ("turning the picture by up to {eps} degree{s} and shifting it by up to {tenth}",
                "turn the picture by up to {eps} degree{s} and shift it by up to {tenth} of each side"),
    "flow": ("moving each pixel by up to {eps} pixel{s}",
             "take each pixel from up to {eps} pixel{s} beside it, down and across"),
    "elastic": ("bending the picture (elastic {eps})",
                "move pixels along a smoothed flow of up to {eps} pixel{s} before it is smoothed"),
    "colour": ("recolouring the picture by up to {share} of a channel's range",
               "recolour the picture by one function of colour, no channel by more than {share} of its range"),
    "fog": ("putting fog before the picture (thickness {eps})",
            "put fog of a shape of its choice before the picture, up to {eps} thick"),
    "snow": ("adding snow of their choice (brightness {eps})", "add snowflakes of its choice, each up to {eps} bright"),
    "jpeg": ("moving JPEG coefficients by up to {eps} step{s}",
             "move each JPEG coefficient by up to {eps} quantisation step{s} of quality 50"),
}  # fmt: skip
"""Of sets that are no ball of a norm: how the adversary changes a picture, briefly and after 'may'."""

SLACK = 1e-8
"""Of a per cent, for what a float leaves of an exact half."""


def knows(record: CellRecord) -> int:
    """How much the adversary has of the system itself: 3 gradients or weights, 2 scores, 1 answers, 0 nothing."""
    return _has(granted(record))


def _has(has: Collection[str]) -> int:
    inside = {"gradients", "weights", "white_box"}.intersection(has)
    return 3 if inside else 2 if "scores" in has else 1 if "labels" in has else 0


def who(record: CellRecord) -> str:
    """'an attacker who sees the model's scores (500 questions an image)'."""
    budget = record.threat.budget if record.threat else Budget()
    if record.scenario.name in ("poisoning", "unlearnable"):
        return f"whoever poisons {_rate(budget.poison_rate)} of the training data"
    if record.scenario.name == "inversion":
        return "whoever sees one shared update"
    if record.scenario.name == "parsing":
        learnt = f"learns from {budget.terms['assumes']} and " if "assumes" in budget.terms else ""
        return f"whoever {learnt}finds pictures by {budget.terms.get('evasion', 'an attack')} that break it"
    if record.scenario.name == "membership":
        owns = " and trains networks alike" if record.threat and "aux_data" in record.threat.access else ""
        return f"whoever {KNOWS[knows(record)]}{owns}"
    if record.scenario.name == "extraction":
        own = " about pictures of their own" if "aux_data" in (record.threat.access if record.threat else ()) else ""
        seen = "scores" if "scores" in (record.threat.access if record.threat else ()) else "answers"
        return f"whoever asks for {number(budget.queries_total or 0)} {seen}{own} and trains a clone on them"
    if record.scenario.name == "adaptation":
        owned = budget.terms.get("share")
        return f"whoever owns {_rate(owned)} of each batch" if owned else "a stream that nobody meddles with"
    if record.scenario.name != "evasion":
        return f"the adversary of {record.threat.name if record.threat else record.scenario.name}"
    own = " and has a network of their own" if budget.terms.get("surrogate") else ""
    asked = [f"{_counted(budget.queries)} an image"] if budget.queries else []
    asked += [f"{_counted(budget.queries_total)} in all"] if budget.queries_total else []
    limit = f" ({', '.join(asked)})" if asked else ""
    return f"an attacker who {KNOWS[knows(record)]}{own}{limit}"


def reach(budget: Budget) -> str:
    """'with small changes (linf 8/255: at most 8 of 255 levels a pixel)', '' where no norm limits it."""
    eps = budget.eps
    if eps is None:
        return ""
    if math.isinf(eps):
        return "with any change at all"
    if budget.norm == "l0":
        return f"by changing at most {eps:g} pixel values (l0)"
    if budget.norm in BEYOND:
        return f"by {_way(BEYOND[budget.norm][0], eps)}"
    size = f"{budget.norm} {radius_words(eps, budget.norm)}"
    if budget.norm != "linf":
        return f"with changes up to {size}"
    kind = "small" if eps <= SMALL * (1 + 1e-9) else "visible" if eps <= VISIBLE * (1 + 1e-9) else "large"
    return f"with {kind} changes ({size}: at most {number(eps * 255)} of 255 levels a pixel)"


def titled(who_attacks: str, budget: Budget) -> str:
    """The two as a heading: 'An attacker who knows the model, with changes up to l2 0.5'."""
    return begun(", ".join(filter(None, (who_attacks, reach(budget)))))


def share(value: float) -> str:
    """A share in whole per cent, for sentences, half up: what is not all is not 100 %, what is not none is not 0 %.

    SLACK decides as the count does that the share comes of: of up to a million images no other share of them is as near
    to a half, and a float is nearer.
    """
    if not math.isfinite(value):
        return "–"
    whole = math.floor(100 * value + 0.5 + SLACK)
    if whole == 100 and value < 1:
        return "more than 99 %"
    return "less than 1 %" if whole == 0 and value > 0 else f"{whole} %"


def begun(sentence: str) -> str:
    """With a capital."""
    return sentence[:1].upper() + sentence[1:]


def _rate(rate: float | None) -> str:
    return "a part" if rate is None else "all" if rate == 1 else f"{100 * rate:.3g} %"


def _counted(questions: int) -> str:
    return f"{questions} question" + ("s" if questions != 1 else "")


def described(threat: ThreatFacts, scenario: str) -> str:
    """'The adversary knows the whole network; it may move each pixel value by at most 4/255 …; any wrong answer …'."""
    if scenario == "certification":
        return f"Nobody attacks: a certifier proves answers for every picture that {_proven(threat.budget)}."
    may = [part for part in (_moves(threat.budget), _asks(threat.budget)) if part]
    wants = WANTS.get(threat.goal.name, f"its goal is {threat.goal.words}")
    if target := threat.goal.terms.get("target"):
        wants = f"the answer must become class {target}"
    aims = [wants] if scenario == "evasion" else []
    parts = [f"The adversary {_sees(threat.access)}", *([f"it may {' and '.join(may)}"] if may else []), *aims]
    return "; ".join(parts) + "."


def _sees(access: Collection[str]) -> str:
    """What is granted, as what somebody does: 'knows the model and holds the training set'."""
    known = [KNOWS[_has(access)]] if _has(access) else []
    more = [words for kind, words in BESIDES.items() if kind in access]
    return " and ".join((*known, *more)) or KNOWS[0]


def _moves(budget: Budget) -> str:
    if budget.poison_rate is not None:
        return f"change {percent(budget.poison_rate)} of the training pictures"
    if budget.eps is None:
        return ""
    if math.isinf(budget.eps):
        return f"change the picture as far as it likes, and the {budget.norm} length of the change is what counts"
    eps = radius_words(budget.eps, budget.norm)
    return {
        "linf": f"move each pixel value by at most {eps}{_levels(budget.eps)}",
        "l2": f"change the picture by a Euclidean length of at most {eps} (pixel values are 0 to 1)",
        "l1": f"change pixel values by at most {eps} in all (they are 0 to 1)",
        "l0": f"set at most {eps} pixel values anew",
        **{name: _way(may, budget.eps) for name, (_, may) in BEYOND.items()},
    }.get(budget.norm, f"change the picture by at most {eps} in {budget.norm}")


def _way(words: str, eps: float) -> str:
    """What such an adversary does, with the size in the set's own unit."""
    share, tenth = f"{100 * eps:.3g} %", f"{eps / 3:.3g} %"
    plural = "" if eps == 1 else "s"
    return words.format(eps=f"{eps:g}", share=share, tenth=tenth, s=plural)


def _levels(eps: float) -> str:
    """Of an 8-bit picture."""
    return f" ({number(eps * 255)} of 255 levels)"


def _proven(budget: Budget) -> str:
    if budget.eps is None:
        return "the budget allows"
    eps = radius_words(budget.eps, budget.norm)
    within = {"linf": f"differs by at most {eps}{_levels(budget.eps)} in each pixel value",
              "l2": f"is within a Euclidean length of {eps} (pixel values are 0 to 1)"}  # fmt: skip
    return within.get(budget.norm, f"is within {eps} in {budget.norm}")


def _asks(budget: Budget) -> str:
    limits = [] if budget.queries is None else [f"ask {number(budget.queries)} times a picture"]
    limits += [] if budget.queries_total is None else [f"ask {number(budget.queries_total)} times in all"]
    return " and ".join(limits)
