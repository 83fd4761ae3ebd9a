"""The integrity checks in one table: what each looks at, when it warns, when it fails, and the flags that say so.

Sources: Carlini et al., 2019, arXiv:1902.06705; Athalye et al., 2018, arXiv:1802.00420; Tramer et al., 2020,
arXiv:2002.08347; Croce & Hein, 2020, arXiv:2003.01690; Pintor et al., 2022, arXiv:2106.09947 (indicators of attack
failure); Croce et al., 2022, arXiv:2202.13711. `docs/integrity.md` shows this table; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from robustsuite.maths.stats import one_sided

SMALL, LARGE = 0.005, 0.01
"""Shares of the images: a difference above the first is noticed, one above the second is not forgiven."""

LEVEL = 0.05
"""Of the one-sided exact McNemar tests."""

TEMPERED = (0.01, 100.0)
"""Where the median margin of the first logit over the second lies outside, losses have been tampered with."""

TURNED = 0.3
"""Median cosine of two gradients within a level of each other: honest networks of the field have 0.4 to 1."""

BENT, BROKEN = 0.05, 0.2
"""Median relative error of the gradient against finite differences: above these, a warning and a failure."""

PARITY = 0.05
"""Queries on standing images that two defenses in one ranking may differ by."""

STRONGER = 0.02
"""Above this share of the images, what another system's pictures break beyond the own attacks is a failure."""

PUBLISHED = 1000
"""Images below which a number is a screening, none to publish: half a width of 3.1 points at 50 %."""

AUDITED = 64
"""Images an audit looks at in each cell."""

ENOUGH = 50
"""Clean pictures of a cell whose verdicts say more of class order and chance than the probe's few."""

GRADES = ("CERTIFIED", "SOUND", "PROVISIONAL", "INVALID")
"""From the best; a cell has the worst that its flags say. Only the first two are ranked."""


class Flag(NamedTuple):
    """What was noticed: the word reports use, the figures in words, a level where the table leaves a choice."""

    name: str
    detail: str
    level: str = ""

    def facts(self) -> dict[str, str]:
        """As stored: name, detail, the check's id and the level."""
        return {"name": self.name, "detail": self.detail, "check": check_of(self.name), "level": level_of(self)}


class Check(NamedTuple):
    """flags: name -> (level, concerns), where concerns is all cells, evasion, or attacks that ask for gradients."""

    id: str
    title: str
    rule: str
    where: str
    flags: Mapping[str, tuple[str, str]] = {}


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


CHECKS = (
    Check("E1", "within the threat model", "norm and box read again in float64; any picture outside fails; a warning "
          "where rounding to 8 bits undoes more than a tenth of the breaks and 2 images", "scenario",
          {"over_budget": ("fail", "all"), "below_a_bit": ("warn", "all")}),
    Check("E2", "verified again", "the judge reads near ties again, twice in float32 with the batch in another order "
          "and in float64; a tie, and readings that disagree, are neither a break nor a right answer; claims it "
          f"does not share warn, above {_percent(SMALL)} and more than 2 images they fail (a claim on a stand-in or on "
          "one draw of a random system is none)", "report", {"overturned": ("warn", "all")}),
    Check("E3", "more budget, fewer survivors", f"same attack, larger eps: a rise above {_percent(SMALL)} and 1 image "
          f"warns, above {_percent(LARGE)} and 2 images fails", "report", {"not_monotone": ("warn", "all")}),
    Check("E4", "an unbounded attack wins", f"on {AUDITED} images, the whole box: more than 1 % left standing fails; "
          "half of it: more than a guess and its Wilson half width warns (iterated gradient attacks); unaudited, "
          f"in cells of at least {PUBLISHED} images, one in 80 in the whole box: more than one left fails",
          "scenario, audit", {"unbounded_fails": ("fail", "all"), "half_box_fails": ("warn", "all")}),
    Check("E5", "white box beats black box", "images that only black-box attacks break: any warns; more than 0.2 % of "
          f"at least 1000, or one-sided exact McNemar p < {LEVEL:g}, fails; what an exhaustive one breaks says nothing "
          "of gradients", "report",
          {"black_box_wins": ("warn", "all")}),
    Check("E6", "white box beats transfer", "the surrogate's points, or (audit) an undefended net's, break more than "
          f"{_percent(SMALL)} and 2 images that the direct attack leaves: a warning, as the row is the least of the "
          "ways; an undefended net's above 2 % fails; an attack played on the adversary's own network alone warns "
          f"(random systems: only at McNemar p < {LEVEL:g}, in an audit against the attack itself in another play)",
          "scenario, audit",
          {"transfer_beats_direct": ("warn", "all"), "transfer_wins": ("warn", "all"),
           "transfer_alone": ("warn", "all")}),
    Check("E7", "converged", "gradient attacks with twice the steps or restarts, on standing images: a drop "
          f"above {_percent(SMALL)} and 1 image warns, above {_percent(LARGE)} and 2 images fails; unaudited, "
          f"in cells of at least {PUBLISHED} images, twice the steps on one in 100 (random systems: as in E6)",
          "scenario, audit", {"not_converged": ("warn", "all")}),
    Check("E8", "random search finds nothing", "gradient attacks: 1000 points (of a random system 100, the worst one "
          f"judged anew, and as in E6), in linf every other one a corner, around at most {AUDITED} standing images, "
          "any break fails; without an audit as many points as 5 % of the attack's cost pay for, around one standing "
          "image in 8: up to 2 breaks warn, more fail",
          "scenario, audit", {"random_search_wins": ("fail", "all")}),
    Check("E9", "order of attacks", f"FGSM leaves no fewer than PGD, PGD no fewer than APGD: beyond {_percent(SMALL)} "
          "and 2 images, the first inversion fails, the second warns (random systems: only at McNemar p < "
          f"{LEVEL:g})", "report", {"weaker_than_simpler": ("warn", "all")}),
    Check("E10", "gradients tell the truth", "no missing or infinite gradient, none all zero where the answer moves or "
          "on more than a tenth of the pictures; zeros on saturated pixels, where there are none inside the box, at "
          "most 3 times as frequent as elsewhere; the directional derivative of the margin against "
          "central differences (h = 0.001 and a quarter of it, 8 low-frequency directions): median relative error "
          f"above {_percent(BENT)} warns, above {_percent(BROKEN)} fails, so does one above 60 % along a step of an "
          "attack or a pattern of all frequencies; answers that do not move with the pixels (by a level, of what is "
          "given 8 bits and judged so) warn; all of it also at random points of linf 8/255, and the derivative (2 "
          "directions and a step) where the attack ended, on one picture in 8: off by half on more than half of those "
          "that stand, it fails; so does what an attack was given at its last question, against the rise of its own "
          "loss along it, on more than a tenth and 2 pictures",
          "probe, scenario",
          {"zero_gradients": ("fail", "gradients"), "gradient_mismatch": ("fail", "gradients"),
           "piecewise_constant": ("warn", "evasion")}),
    Check("E11", "framework canary", "clamp gradient at the bounds, scripted gradients, repeated convolutions, TF32; "
          "stored with every row", "provenance"),
    Check("E12", "no loss starves", "cross entropy gradients that vanish in float32 where the margin's do not, on more "
          f"than 5 % of images: fails where the attack's only loss is cross entropy, else warns; median margin outside "
          f"{TEMPERED[0]:g} ... {TEMPERED[1]:g} warns; rounded logits and exact ties warn; audit: logits scaled by "
          f"0.01 and 100, a drop above {_percent(LARGE)} and 2 images warns, above 5 % and 3 images fails "
          f"(random systems: only at McNemar p < {LEVEL:g})", "probe, audit",
          {"loss_vanishes": ("fail", "gradients"), "logit_scale": ("warn", "gradients"),
           "rounded_logits": ("warn", "evasion"), "scale_dependent": ("warn", "all")}),
    Check("E13", "randomness is averaged", "answers that differ between two calls of a system not declared random, or "
          "a gradient attack on a random system that averages over no draws, fail; a random system is judged 10 times",
          "probe, scenario", {"randomised": ("fail", "all")}),
    Check("E14", "one picture, one answer", "training mode and answers that depend on the batch (beyond 0.0001 of the "
          "largest logit) fail; parameters, buffers or attributes changed by what was asked fail", "probe",
          {"training_mode": ("fail", "all"), "batch_dependent": ("fail", "all"), "stateful": ("fail", "all")}),
    Check("E15", "logits, not probabilities", "rows that sum to 1 within 0.0001 warn", "probe",
          {"probabilities_not_logits": ("warn", "gradients")}),
    Check("E16", "no silent success", "an attack returns its best iterate by contract, the judge reads every returned "
          "picture", "conformance tests"),
    Check("E17", "a smooth loss", "gradients at 16 pictures and at a random point within 1/255: a median cosine below "
          f"{TURNED:g} warns; audit: mean relative change of the margin over 100 points within 1/255 of 16 images "
          "above 10 % warns", "probe, audit", {"rough_landscape": ("warn", "gradients")}),
    Check("E18", "enough targets", "a targeted attack that says n_targets=k with k below both the other classes and 9 "
          "warns", "report", {"few_targets": ("warn", "all")}),
    Check("E19", "adaptive attack declared", "a serve-stage defense without a surrogate warns", "plan",
          {"no_adaptive_attack": ("warn", "evasion")}),
    Check("E20", "detectors keep off the test data", "defenses are handed the train and val splits alone; one that "
          "sets itself by what it is asked is stateful (E14)", "design, probe"),
    Check("E21", "data hygiene", "no hash of the pictures, repeated images, survivors among misclassified images, or "
          "verdicts on clean pictures that differ between attacks fail", "report",
          {"bad_denominator": ("fail", "all")}),
    Check("E22", "equal budgets", "black-box attacks: median queries on standing images of two defenses differ by more "
          f"than {_percent(PARITY)}: the cheaper one warns (gradient attacks have equal steps by their name, and end "
          "early only where they repeat themselves)", "report", {"fewer_queries": ("warn", "all")}),
    Check("E23", "order and batch do not matter", f"two batch sizes and another order on {AUDITED} images: any verdict "
          "that flips warns, so does one that changes where the attack is handed 16 alone (E35)", "audit",
          {"order_dependent": ("warn", "all")}),
    Check("E24", "not proven and broken", "a broken image inside its proven radius fails on both sides", "report",
          {"proof_contradicted": ("fail", "all")}),
    Check("E25", "every answer is a number", "NaN or infinite logits count as wrong, and are shown to an attack as its "
          "goal reached; only a defense that says rejects=True may answer by a row of NaN, where the network below it "
          f"has an answer; any other warns, above {_percent(SMALL)} and more than 2 images it fails", "probe, scenario",
          {"undefined_answers": ("warn", "all")}),
    Check("E26", "classes in one order", "names of a model's outputs (id2label, a checkpoint's or an endpoint's "
          "classes) and the data's, in lower case, words alone, a wnid or any of the names between commas: the same "
          "set in another order fails; others that do not meet warn, unless more than half of at least "
          f"{ENOUGH} clean pictures of those classes are right", "scenario", {"class_order": ("warn", "all")}),
    Check("E27", "everybody is answered alike", "one attacked picture in 8 is asked again with gradients on, in "
          "float64, among others and 4e-6 away: an answer of another kind (or other numbers to one question, beyond "
          f"0.001 of the largest logit) on more than {_percent(SMALL)} and 1 picture fails", "scenario",
          {"two_faced": ("fail", "all")}),
    Check("E28", "every picture has an answer", "a right answer that is gone (rejected, tied, unsettled) counts as "
          f"broken; more than {_percent(SMALL)} and 2 images beyond clean ones that end in a tie, or in readings that "
          "disagree, fail", "scenario", {"no_answer": ("fail", "all")}),
    Check("E29", "no memory of the pictures", "3 steps of linf 4/255 within 8/255, on at most 24 right pictures, on "
          "their mirror images, and moved by an eighth: those that fall so alone, beyond the reverse, at one-sided "
          "McNemar p < 0.005, fail", "probe", {"remembers": ("fail", "all")}),
    Check("E30", "no better way inside", "the same steps through each network that is found inside the system (as a "
          "layer, in a list, behind a function) break more than through its own gradients and its surrogate's: "
          "p < 0.005 fails", "probe", {"inner_wins": ("fail", "gradients")}),
    Check("E31", "the scores decide", "on at most 16 lines between pictures of two classes, halved 14 times (8 on "
          "8-bit levels, whose answers are kept by what keeps those of clean-looking pictures): where the class "
          "changes, the lead jumps by more than a tenth of the clean pictures' median lead, or falls by half of it "
          "within a 256th of the line, on more than half of at least 4 lines, or where a 32nd of the way before it the "
          "lead is still above half of what it was, on more than a third: fails; not asked of rounded scores or "
          "inputs", "probe", {"scores_jump": ("fail", "evasion")}),
    Check("E32", "a detector earns nothing", "a rejected picture counts as broken, and the row says what would stand "
          "if it did not; more clean pictures rejected than twice the share that the defense says (`fpr`; exact "
          "binomial, p < 0.001) warns; more than half of at least 4 random points of the ball rejected warns",
          "scenario", {"over_rejecting": ("warn", "all"), "noise_rejected": ("warn", "evasion")}),
    Check("E33", "a strong attack was played", "of the cell's threat, on its pictures, not failed: an attack by "
          "gradients (gradient, minimum norm) at its card's least, or, where the threat grants none or the model shows "
          "none, one by queries (score, decision), or an exhaustive one; none warns, unless nothing stands or a proof "
          "agrees", "report",
          {"weak_alone": ("warn", "all")}),
    Check("E34", "two families agree", "beside it one of another family at its least, which the adversary could play, "
          "on the same system, pictures, budget and goal; none warns (noise is no family, nor what a card says nothing "
          "of; an exhaustive one needs no second)", "report", {"one_family": ("warn", "all")}),
    Check("E35", "nothing beyond the access", "threats that do not grant weights: the attack again on 16 images in a "
          "process of its own that holds a line to its oracle and nothing else; a verdict or a number of queries that "
          "differs, or an attack that fails there, fails; one that does not end there warns", "audit",
          {"beyond_access": ("fail", "all")}),
    Check("E36", "no memory of what was asked", "16 attacked pictures that stand are asked of the system planned, "
          "trained and served anew in a process that never asked it: a verdict that differs warns, two fail", "audit",
          {"remembers_questions": ("fail", "all")}),
    Check("E37", "no foreign picture is stronger", "kept pictures made against the run's other systems, in the same "
          "threat and data and within the budget, are put to this one (a random one: 8 of 10 answers must be wrong): "
          "an image that stands under all its own attacks and falls to one of them counts as broken in the union; any "
          f"warns, above {_percent(STRONGER)} and 2 images they fail", "audit",
          {"foreign_wins": ("warn", "all")}),
    Check("C1", "sampled soundness", "16 points in each proven ball are asked of the judge; a break fails", "scenario",
          {}),
    Check("C2", "precision of proofs", "bounds are computed in float32 or better and compared with a margin",
          "certifiers' tests"),
    Check("C3", "preprocessing is bounded too", "normalisation is folded into the bounded network",
          "certifiers' tests"),
    Check("C4", "the optimiser moved", "alpha-CROWN's slopes have gradients on this framework", "certifiers' tests"),
    Check("C5", "sandwich", "as E24, image by image", "report"),
    Check("S1", "smoothing: confidence", "one-sided Clopper-Pearson, selection on separate votes, an abstention is no "
          "proof", "certifiers' tests"),
    Check("S2", "smoothing: many images", "alpha holds an image; the report gives the interval over images",
          "report"),
    Check("S3", "smoothing: noise", "one counter-based stream an image, the same for every defense", "design"),
    Check("S4", "smoothing: prediction", "two-sided binomial test, the abstained share is a column", "design"),
    Check("S5", "smoothing: sandwich", "images broken inside a radius that votes have proven: more than alpha = 0.001 "
          "of them and 1 image warns", "report", {"vote_contradicted": ("warn", "all")}),
    Check("–", "worth asking", "accuracy on clean pictures that a guesser reaches once in twenty tries (exact "
          f"binomial; of a pretrained model as it is on all pictures of a cell with at least {ENOUGH}, else on the "
          "probe's), a trigger without a picture to stand on, reconstructions no nearer to their own originals than "
          "to others', adversarial pictures to parse of which there are none, an observer that names what its own "
          "nets are made of as a guesser would, and one that names the victim's values as often of other nets fail",
          "probe, scenario",
          {"clean_at_chance": ("fail", "all"), "nothing_to_trigger": ("fail", "all"),
           "nothing_to_parse": ("fail", "all"), "observer_at_chance": ("fail", "all"),
           "control_as_good": ("fail", "all")}),
    Check("T1", "members and others", "members of a training set with no others to tell them from fail; shadows whose "
          "accuracy is another than their victim's, by more than a point and twice their spread, warn", "scenario",
          {"nothing_to_tell": ("fail", "all"), "shadows_unlike": ("warn", "all")}),
    Check("T2", "clone above chance", "a system that answers nothing to hold a clone against and a clone that agrees "
          "no more often than one class does fail", "scenario",
          {"nothing_answered": ("fail", "all"), "clone_at_chance": ("fail", "all")}),
    Check("T3", "scan beside clean networks", "a scanner that measures nothing fails; one whose number stands beside "
          "no clean network's warns", "scenario", {"not_scanned": ("fail", "all"), "not_calibrated": ("warn", "all")}),
)  # fmt: skip
"""Every check of the battery; an id without flags is kept by construction, where the last column says."""

_FLAGS = {name: (check.id, *facts) for check in CHECKS for name, facts in check.flags.items()}


def undefined(found: int, n: int) -> list[Flag]:
    """The flag of answers that are no numbers, `found` of n."""
    if not found:
        return []
    level = "fail" if found > max(2, SMALL * n) else "warn"
    words = f"NaN or infinite logits on {found} of {n} pictures, counted as wrong; mend the network"
    return [Flag("undefined_answers", f"{words} (a defense that rejects says rejects=True)", level)]


def check_of(name: str) -> str:
    """The id of the check that raises this flag, '' for one of a plugin's own."""
    return _FLAGS.get(name, ("", "", ""))[0]


def concerns(name: str) -> str:
    """Which cells the flag bears on: all, evasion or gradients."""
    return _FLAGS.get(name, ("", "", "all"))[2]


def level_of(flag: Flag | Mapping[str, Any]) -> str:
    """warn or fail; an unknown flag, as in the rows of an older version, fails."""
    name, level = (flag.name, flag.level) if isinstance(flag, Flag) else (flag.get("name"), flag.get("level"))
    return str(level or _FLAGS.get(str(name), ("", "fail", ""))[1])


def surprising(more: int, fewer: int) -> bool:
    """Whether one side has more of the discordant pairs than chance explains at LEVEL."""
    return one_sided(more, fewer) < LEVEL


def grade(flags: Iterable[Flag | Mapping[str, Any]], *, certified: bool = False) -> str:
    """INVALID with a failed check, PROVISIONAL with a warning, else CERTIFIED where a proof agrees, else SOUND."""
    levels = {level_of(flag) for flag in flags}
    if "fail" in levels:
        return "INVALID"
    if levels:
        return "PROVISIONAL"
    return "CERTIFIED" if certified else "SOUND"


def as_markdown() -> str:
    """The table as `docs/integrity.md` shows it."""
    lines = ["| id | check | rule | where | flags |", "|---|---|---|---|---|"]
    for check in CHECKS:
        flags = ", ".join(f"`{name}` ({level})" for name, (level, _) in check.flags.items()) or "–"
        lines.append(f"| {check.id} | {check.title} | {check.rule} | {check.where} | {flags} |")
    return "\n".join(lines)
