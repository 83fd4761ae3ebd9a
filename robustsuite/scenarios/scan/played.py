"""The judge's side: the suspect is scanned, and what is found is ranked among clean networks like it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustsuite.config.decision import Decision
from robustsuite.config.threats import Access
from robustsuite.integrity.checks import Flag
from robustsuite.methods.backdoors.calibrated import WORKS, deviations, kind_number, natural, rank, shipped
from robustsuite.records.pictures import Kept
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.record import Record
from robustsuite.scenarios.scan.asked import ScanSpec, ScanThreat
from robustsuite.scenarios.scan.likes import Likes, clean_nets, kind_of, learnt, worked
from robustsuite.scenarios.scan.suspect import Finding, Suspect, scanned
from robustsuite.serve.data import Dataset, Split, Subjects

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context
    from robustsuite.serve.models import Fit


def play(context: Context) -> Record:
    """Scan the network, without what serves it, and those that it is compared with."""
    threat, space, card = context.threat, context.served().space, context.card
    pictures = context.aux().pictures if Access.AUX_DATA in threat.access else None
    suspect = Suspect.of(context.network(), space, pictures, context.device)
    found = scanned(suspect, context.attack, card, context.seed)
    own = clean_nets(context, threat.zoo) if isinstance(threat, ScanThreat) and threat.zoo else ()
    likes, kind = _of_the_zoo(suspect, card.name, context.identity), kind_of(suspect.net)
    if own and not likes.scalars:  # what the calibration's weights are of comes first
        each = [scanned(Suspect.of(net, space, pictures, context.device), context.attack, card, context.seed)
                for net in own]  # fmt: skip
        likes, kind = Likes(tuple(one.suspicion for one in each), tuple(tuple(one.scores.tolist()) for one in each),
                            f"{len(own)} clean networks trained for it"), ""  # fmt: skip
    record = judged(found, likes, worked(found, suspect, own), kind)
    shown = _shown(context, suspect, found)
    return record._replace(forwards=int(context.cost.forwards), backwards=int(context.cost.backwards), kept=shown)


def _of_the_zoo(suspect: Suspect, scanner: str, identity: str) -> Likes:
    """What the shipped calibration knows of networks like this one; of none where it has none."""
    known = shipped()
    if known is None or suspect.pictures is None:
        return Likes(words="without clean pictures its task is not known" if known else "there is no calibration")
    if suspect.pictures.sha256 != known.pictures:
        return Likes(words="its task is not the zoo's")
    kind = known.kinds.get(kind_of(suspect.net))
    if kind is None:
        return Likes(words="the zoo has no network of its architecture")
    if known.scanners.get(scanner) != identity:
        return Likes(words="the zoo was scanned with other parameters")
    scalars = kind.suspicions[scanner]
    return Likes(scalars, kind.scores[scanner], f"{len(scalars)} clean networks of the zoo, {kind.arch}")


def judged(found: Finding, likes: Likes, triggered: tuple[float, float], kind: str = "") -> Record:
    """A row a class. likes: what the suspicion is ranked among; triggered: how often the trigger works, on clean nets.

    Columns: score, class_deviation and most (the class that is named), and, the same in every row, suspicion, p_rank,
    deviation, references (how many), works, works_on_clean, calibration and kind (of the joining, 0 where nothing
    like it is known), and the scanner's own figures. Flags: not_scanned, not_calibrated.
    """
    k = len(found.scores)
    p, z = rank(found.suspicion, likes.scalars), float(deviations(found.suspicion, likes.scalars))
    classes = torch.from_numpy(deviations(found.scores.numpy(), likes.scores))
    known = shipped()
    numbers = {
        "suspicion": found.suspicion, "p_rank": p, "deviation": z, "works": triggered[0],
        "works_on_clean": triggered[1], **found.figures,
    }  # fmt: skip
    most = torch.arange(k) == found.target
    columns: dict[str, Tensor] = {"score": found.scores, "class_deviation": classes, "most": most}
    columns |= {name: torch.full((k,), float(value), dtype=torch.float64) for name, value in numbers.items()}
    columns["references"] = torch.full((k,), len(likes.scalars))
    columns["calibration"] = torch.full((k,), known.digest if known and math.isfinite(z) else 0)
    columns["kind"] = torch.full((k,), kind_number(kind) if known and math.isfinite(z) else 0)
    return Record(columns, _flags(found, z, likes), 0, 0, _note(found, p, likes, triggered))


def _flags(found: Finding, z: float, likes: Likes) -> list[Flag]:
    if not math.isfinite(found.suspicion):
        return [Flag("not_scanned", f"nothing was measured: {found.why or 'the scanner says no number'}")]
    if not math.isfinite(z):
        words = f"no clean network like it is known ({likes.words}): a scalar alone is no evidence"
        return [Flag("not_calibrated", words)]
    return []


def _note(found: Finding, p: float, likes: Likes, triggered: tuple[float, float]) -> str:
    """What a reader of the number should know."""
    if not math.isfinite(found.suspicion):
        return f"could not be measured: {found.why or 'the scanner says no number'}"
    words = [f"most suspicious is class {found.target}", f"suspicion {found.suspicion:.3g}"]
    words.append(f"p {p:.3g} among {likes.words}" if math.isfinite(p)
                 else f"not calibrated for this kind of network: {likes.words}")  # fmt: skip
    if math.isfinite(triggered[0]):
        words.append(f"the trigger that was found works on {triggered[0]:.0%} of clean pictures")
    if math.isfinite(triggered[1]) and triggered[0] >= WORKS:
        own = "a natural one" if natural(*triggered) else "its own"
        words.append(f"on {triggered[1]:.0%} of them for clean networks: {own}")
    return "; ".join(words)


def _shown(context: Context, suspect: Suspect, found: Finding) -> Kept | None:
    """One clean picture of another class, or a grey one, with the trigger that was found; under the class's number."""
    if found.stamp is None or context.threat.keep == "none":
        return None
    x = torch.full((1, *suspect.space.shape), 0.5, device=suspect.device)
    if suspect.pictures is not None and len(suspect.pictures):
        others = (suspect.pictures.y != found.target).nonzero().flatten()[:1]
        x = suspect.pictures.images(others).to(suspect.device)
    with torch.no_grad():
        stamped = found.stamp(x).clamp(0, 1)
    return Kept(torch.tensor([found.target]).numpy(), x.cpu().numpy(), stamped.detach().cpu().numpy())


def owns(cell: Cell) -> tuple[Fit, int] | None:
    """The clean networks that are trained for a comparison."""
    return (learnt, cell.threat.zoo) if isinstance(cell.threat, ScanThreat) and cell.threat.zoo else None


def decide(cell: Cell) -> Decision | None:
    """What cannot be scanned: a network that nobody sees into."""
    model, attack = cell.lifecycle.model, cell.attack
    if attack is None or attack.needs & (Access.GRADIENTS | Access.WEIGHTS) & ~model.shows == Access.NONE:
        return None
    return Decision("unmeasured", "model", f"{model.name} shows {model.shows.words()} alone: {attack.name} needs more")


def subjects(judged: Split, data: Dataset, threat: object) -> Subjects:
    """A scan is about the network, about no picture."""
    return Subjects.none(data.space)


def _same(name: str, unit: str = "", better: str = "neither") -> Column:
    """A number that is the network's, the same in every row."""
    return Column(name=name, dtype="float", unit=unit, better=better)  # type: ignore[arg-type]


scenario = Scenario(
    "scan", "A scanner looks at one network alone and says how likely it carries a backdoor, and to which class.", play,
    columns=(
        Column(name="deviation", dtype="float", unit="standard deviations", better="less", scores=(
            Scoring(name="suspicion_deviation", kind="mean"),
        )),
        _same("suspicion", better="less"),
        Column(name="score", dtype="float", better="less"),
        Column(name="class_deviation", dtype="float", unit="standard deviations", better="less"),
        Column(name="most"),
        _same("p_rank", "p-value"),
        _same("works", "share"),
        _same("works_on_clean", "share"),
        Column(name="references", dtype="int", unit="networks"),
        Column(name="calibration", dtype="int"),
        Column(name="kind", dtype="int"),
    ),
    headline="suspicion_deviation", paper="Wang et al., 2019, Neural Cleanse; Wang et al., 2024, arXiv:2205.06900",
    spec=ScanSpec, decide=decide, owns=owns, subjects=subjects, sections="robustsuite.reports.sections.scanned:part",
    passes=("data", "train", "harden"),
)  # fmt: skip
