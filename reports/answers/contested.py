"""Every other scenario in short: what its adversary reaches against each system, by the headline of its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from robustsuite.maths import stats
from robustsuite.records.schema import Budget

from ..measure.grades import DOUBTED
from ..measure.ranked import Contest, contests, declared, ranges
from ..measure.worst import LEVEL
from ..read.runs import Results
from ..render.adversary import begun, share, titled, who
from ..render.document import Answer, Entry, accuracy
from ..render.text import interval, number, percent, plain
from ..render.text import words as spoken
from ..sections.generic import groups
from . import cards
from .cards import NONE_YET, OTHER, VERDICT

OWN = ("evasion", "certification", "shift", "scan", "explanation")
"""Scenarios that have answers of their own kind, or, as explanations, no adversary and none."""

KEY = ("scenario", "threat", "budget", "goal", "dataset", "model")
GOES_ON = ("poisoning", "unlearnable", "inversion", "membership", "extraction")
"""Scenarios whose sentence goes on after the system: what names its defense ends with a comma there."""

LABELS = {"attack_success_rate": "attack success", "mean_psnr": "PSNR, dB", "all_ok_rate": "all three named",
          "membership_auc": "AUC"}


def contested(run: Results) -> Iterator[Answer]:
    """One answer a threat and model of what is none of OWN; over seeds the mean."""
    rest = run.cells[~run.cells["scenario"].isin(OWN)]
    for key, part in groups(rest, KEY):
        facts = dict(zip(KEY, (str(value) for value in key), strict=True))
        record = part["record"].iloc[0]
        if record.threat is None:
            continue
        # a thief changes no picture that is judged: its ball is that of the attacks which are taken from its clone
        adversary = titled(who(record), Budget() if facts["scenario"] == "extraction" else record.threat.budget)
        adversary = adversary[:1].lower() + adversary[1:]
        head = f"{facts['threat']}: {facts['budget']}" if facts["budget"] else facts["threat"]
        found = list(contests(run, part, ("seed", "defense")))
        seeds = sorted({seed for seed, _ in (contest.system for contest in found)})
        seed = seeds[0] if len(seeds) == 1 else 0
        where = cards.place((facts["dataset"], facts["model"], seed), head, facts["goal"])
        title = f"{begun(facts['scenario'])}: {adversary}"
        if not found:
            cells = part.to_dict("records")
            yield cards.not_measured(title, where, f"{facts['scenario']}, {adversary}", cells, (OTHER, 0.0, 0.0))
            continue
        yield _answer(run, facts, title, where, adversary, found)


def _answer(
    run: Results, facts: Mapping[str, str], title: str, where: str, adversary: str, found: Sequence[Contest]
) -> Answer:  # fmt: skip
    about = declared(found[0].source["record"])
    assert about is not None
    column, scoring = about
    sign = 1.0 if column.better == "more" else -1.0
    what = LABELS.get(scoring.name, spoken(scoring.name))
    systems = {name: [c for c in found if c.system[1] == name] for name in dict.fromkeys(c.system[1] for c in found)}
    value = {name: fmean(c.score.value for c in several) for name, several in systems.items()}
    ordered = sorted(systems, key=lambda name: -sign * value[name])
    sound = [name for name in ordered if not any(c.unranked for c in systems[name])]
    met = [name for name in sound if all(c.cell["status"] != "inert" for c in systems[name])]
    own, best = ("none" if "none" in sound else None), next((name for name in met if name != "none"), None)
    best = None if facts["scenario"] == "parsing" else best  # there a defended network is another victim
    rate = scoring.kind == "rate"
    say = percent if rate else number
    helped = own is None or best is None or sign * value[best] > sign * value[own]
    figures = tuple(
        (f"{what}, {whose}" if run.defended else what, say(value[name]), _span(systems[name], rate), tone)
        for name, (whose, tone) in ((own, cards.OWN), (best, cards.best_label(best or "", helped))) if name is not None
    )  # fmt: skip
    bars = tuple(("", cards.called(run, name, what), _bar(systems[name], value[name], rate, column.better))
                 for name in ordered)  # fmt: skip
    attacks = list(dict.fromkeys(attack for c in found for attack, _, _ in c.attacks))
    n = min(int(c.score.n) for c in found)
    sentences = (f"Worst of {len(attacks)} attack{'s' if len(attacks) > 1 else ''}: {cards.listed(attacks)}; "
                 f"{number(n)} examples.",)  # fmt: skip
    lead = own or best
    if lead is None:
        flags = sorted({flag["name"] for c in found for flag in c.cell["flags"]})
        why = f"the numbers are in doubt ({', '.join(flags)})" if flags else "no system met every attack"
        said: tuple[str, ...] = (f"No verdict yet on {facts['scenario']}, {adversary}: {why}.",)
    else:
        by = "" if lead == "none" else f" with its best defense, {plain(lead)}"
        said = (_told(run, facts, adversary, what, by, systems[lead], rate),)
        if own is not None and best is not None:
            said += (_defended(facts["scenario"], best, systems[own], systems[best], rate, what),)
    standing = VERDICT if lead else NONE_YET
    figures = figures if lead else cards.NONE
    order = (standing, OTHER, 0.0, sign * value[ordered[0]])
    return Answer(title, where, figures, bars, sentences, n, said, order)


def _defended(
    scenario: str, name: str, own: Sequence[Contest], best: Sequence[Contest], rate: bool, what: str
) -> str:  # fmt: skip
    """What the best defense does to the number that the sentence before has: 'down' only where that is told."""
    reached = _reached(scenario, best, rate, what)
    helps, up = _helps(scenario, own, best)
    if not helps:
        return f"{cards.no_help(name, reached)}."
    few = min(int(contest.score.n) for contest in (*own, *best)) < cards.FEW
    if few or (len(own) == len(best) == 1 and not _differ(scenario, own[0], best[0])):
        return f"{cards.untold(name, f'has {reached}')}."
    return f"The best defense, {plain(name)}, brings that {'up' if up else 'down'} to {reached}."


def _helps(scenario: str, own: Sequence[Contest], best: Sequence[Contest]) -> tuple[bool, bool]:
    """Whether a defense is better than none by the number that is said, and whether that is by more of it."""
    about = declared(own[0].source["record"])
    up = scenario != "inversion" and about is not None and about[0].better == "more"
    ahead = _value(scenario, best) - _value(scenario, own)
    return (ahead > 0 if up else ahead < 0), up


def _differ(scenario: str, own: Contest, best: Contest) -> bool:
    """Whether a paired test on the same examples tells the two apart by the number that is said."""
    if scenario != "inversion":
        return ranges((own, best))[0] != ranges((own, best))[1]
    mine, other = (contest.rows.set_index("index")["identified"].astype(bool) for contest in (own, best))
    both = mine.index.intersection(other.index)
    return stats.mcnemar_exact(mine.loc[both].to_numpy(), other.loc[both].to_numpy()).pvalue < LEVEL


def _told(
    run: Results, facts: Mapping[str, str], adversary: str, what: str, by: str, several: Sequence[Contest], rate: bool
) -> str:  # fmt: skip
    """What the adversary reaches against one system, in the words of its scenario; `by` names a defense."""
    scenario = facts["scenario"]
    it = cards.subject(run, facts) + by + ("," if by and scenario in GOES_ON else "")
    reached, attack = _reached(scenario, several, rate, what), str(several[0].cell["attack"])
    attack += f", mean of {len(several)} seeds" if len(several) > 1 else ""
    n = number(min(int(contest.score.n) for contest in several))
    if scenario == "poisoning":
        clean = fmean(float(contest.rows["clean_ok"].mean()) for contest in several)
        seen = number(min(len(contest.rows) for contest in several))
        return (f"{begun(adversary)} makes {it} answer as they wish on {reached} of {n} triggered images ({attack}); "
                f"of {seen} clean images {share(clean)} stay right.")  # fmt: skip
    if scenario == "unlearnable":
        return f"{begun(adversary)} leaves {it} right on {reached} of {n} clean images ({attack})."
    if scenario == "inversion":
        return (f"{begun(adversary)} of {it} rebuilds its pictures: {reached} of {n} are told from all others "
                f"({attack}).")  # fmt: skip
    if scenario == "parsing":
        return (f"{begun(adversary)} names kernel size, activation and sparsity of {it}, all three, on {reached} of "
                f"{n} such pictures ({attack}); of a guesser's answers 4 % would be right.")  # fmt: skip
    if scenario == "membership":
        return (f"{begun(adversary)} tells members of the training set of {it} from others by an AUC of {reached}, on "
                f"{n} examples ({attack}); a guesser's is 0.5.")  # fmt: skip
    if scenario == "extraction":
        return f"{begun(adversary)} has one that says what {it} says on {reached} of {n} images ({attack})."
    if scenario == "adaptation":
        order = several[0].source["record"].threat.budget.terms.get("order", "given")
        stream = f"in the stream of corruptions ({order})"
        if several[0].cell["attack"] == "benign":
            return f"{begun(reached)} of {n} pictures {stream} are answered right by {it}."
        return (f"{begun(adversary)}, leaves {reached} of {n} others' pictures {stream} answered right by {it} "
                f"({attack}).")  # fmt: skip
    return f"{begun(scenario)}, {adversary}: {reached} against {it}, on {n} examples ({attack})."


def _reached(scenario: str, several: Sequence[Contest], rate: bool, what: str) -> str:
    """The number of a system in a sentence."""
    value = _value(scenario, several)
    if scenario == "membership":
        return f"{value:.2f}"
    return share(value) if rate or scenario == "inversion" else f"{number(value)} {what}"


def _value(scenario: str, several: Sequence[Contest]) -> float:
    """What a sentence says of a system: of rebuilt pictures the share that is recognised, else the headline."""
    if scenario == "inversion":
        return fmean(float(contest.rows["identified"].mean()) for contest in several)
    return fmean(contest.score.value for contest in several)


def _span(several: Sequence[Contest], rate: bool) -> str:
    if len(several) > 1:
        return f"{len(several)} seeds"
    score = several[0].score
    return interval(score.lo, score.hi) if rate else f"{number(score.lo)}–{number(score.hi)}"


def _bar(several: Sequence[Contest], value: float, rate: bool, better: str) -> Entry:
    """A share with its bar, anything else as a number; what is in doubt has no bar."""
    score, doubted = several[0].score, {str(c.cell["grade"]) for c in several} & set(DOUBTED)
    note = "; ".join(sorted({c.unranked for c in several if c.unranked}))
    if rate and len(several) == 1 and np.isfinite(score.value):
        entry = accuracy(score.value, score.lo, score.hi)
        kind = "error" if better == "less" else ""
        return Entry(entry.text, entry.key, note, "INVALID" in doubted, kind, None if doubted else entry.bar)
    return Entry(percent(value) if rate else number(value), value, note, "INVALID" in doubted)
