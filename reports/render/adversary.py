"""An adversary in words: what it knows, how far it may go, how often it may ask. No name of an attack is needed."""

from __future__ import annotations

import math

from robustsuite.integrity.strength import granted
from robustsuite.records.schema import Budget, CellRecord, radius_words

UNSEEN, SOUGHT = 8 / 255, 16 / 255
"""linf radii up to which nobody sees a change, and up to which one has to look for it. The other norms say nothing of
what is seen without the size of the pictures."""

KNOWS = ("sees nothing of the model", "sees only the model's answers", "sees the model's scores", "knows the model")
"""By what `knows` returns."""


def knows(record: CellRecord) -> int:
    """How much the adversary has of the system itself: 3 gradients or weights, 2 scores, 1 answers, 0 nothing."""
    has = granted(record)
    return 3 if has & {"gradients", "weights", "white_box"} else 2 if "scores" in has else 1 if "labels" in has else 0


def who(record: CellRecord) -> str:
    """'an attacker who sees the model's scores (500 questions an image)'."""
    budget = record.threat.budget if record.threat else Budget()
    if record.scenario.name in ("poisoning", "unlearnable"):
        return f"whoever poisons {_rate(budget.poison_rate)} of the training data"
    if record.scenario.name == "inversion":
        return "whoever sees one shared update"
    if record.scenario.name != "evasion":
        return f"the adversary of {record.threat.name if record.threat else record.scenario.name}"
    own = " and has a network of their own" if budget.terms.get("surrogate") else ""
    asked = [f"{_counted(budget.queries)} an image"] if budget.queries else []
    asked += [f"{_counted(budget.queries_total)} in all"] if budget.queries_total else []
    limit = f" ({', '.join(asked)})" if asked else ""
    return f"an attacker who {KNOWS[knows(record)]}{own}{limit}"


def reach(budget: Budget) -> str:
    """'with changes nobody sees (linf 8/255)', '' where no norm limits it. Only linf says what is seen."""
    eps = budget.eps
    if eps is None:
        return ""
    if math.isinf(eps):
        return "with any change at all"
    if budget.norm == "l0":
        return f"by changing at most {eps:g} pixel values (l0)"
    size = f"{budget.norm} {radius_words(eps, budget.norm)}"
    if budget.norm != "linf":
        return f"with changes up to {size}"
    seen = ("nobody sees" if eps <= UNSEEN * (1 + 1e-9) else "one has to look for" if eps <= SOUGHT * (1 + 1e-9)
            else "that are plain to see")  # fmt: skip
    return f"with changes {seen} ({size})"


def titled(who_attacks: str, budget: Budget) -> str:
    """The two as a heading: 'An attacker who knows the model, with changes nobody sees (linf 8/255)'."""
    return begun(", ".join(filter(None, (who_attacks, reach(budget)))))


def share(value: float) -> str:
    """A share in whole per cent, for sentences: what is not all is not 100 %, what is not none is not 0 %."""
    if not math.isfinite(value):
        return "–"
    whole = round(100 * value)
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
