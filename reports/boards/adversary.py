"""Who attacks, in one plain sentence: what the adversary sees, how far it may go, what it wants."""

from __future__ import annotations

import math

from robustsuite.records.schema import Budget, ThreatFacts, radius_words

from ..render.text import number, percent

SEES = (
    ({"weights", "gradients"}, "knows the whole network"),
    ({"gradients"}, "is handed gradients and scores"),
    ({"scores"}, "is told the scores of every class and nothing of the network"),
    ({"labels"}, "is told the answered class alone"),
    ({"weights"}, "knows the weights"),
)
"""The first whose kinds are all granted says what is seen of the network."""

BESIDES = {"train_set": "holds the training set", "update": "watches what a client of a federated training shares",
           "aux_data": "owns pictures and networks of its own"}  # fmt: skip
WANTS = {
    "untargeted": "any wrong answer will do",
    "targeted": "the answer must become one wrong class, drawn at random",
}


def described(threat: ThreatFacts, scenario: str) -> str:
    """'The adversary knows the whole network; it may move each pixel value by at most 4/255 …; any wrong answer …'."""
    if scenario == "certification":
        return f"Nobody attacks: a certifier proves answers for every picture that {_proven(threat.budget)}."
    may = [part for part in (_moves(threat.budget), _asks(threat.budget)) if part]
    wants = WANTS.get(threat.goal.name, f"its goal is {threat.goal.words}")
    if target := threat.goal.terms.get("target"):
        wants = f"the answer must become class {target}"
    aims = [wants] if scenario == "evasion" else []
    parts = [f"The adversary {sees(threat.access)}", *([f"it may {' and '.join(may)}"] if may else []), *aims]
    return "; ".join(parts) + "."


def sees(access: tuple[str, ...]) -> str:
    """What is granted, as what somebody does: 'knows the whole network'."""
    granted = set(access)
    of_net = next((words for kinds, words in SEES if kinds <= granted), "")
    more = [words for kind, words in BESIDES.items() if kind in granted]
    return " and ".join(part for part in (of_net, *more) if part) or "sees nothing"


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
    }.get(budget.norm, f"change the picture by at most {eps} in {budget.norm}")


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
