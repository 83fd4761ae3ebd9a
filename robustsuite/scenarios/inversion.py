"""Gradient inversion: an observer of a federated training reconstructs a client's pictures from the update it shares.

Relaxations are the threat's budget (Huang et al., 2021, arXiv:2112.00059): batch, local steps, batch norm's mode,
whether the network is trained, whether labels are known. Scored against the originals after matching each batch; an
observer chooses among its restarts by what it can see, never by these scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.config.keys import Spec
from robustsuite.config.registry import AttackCard, carded
from robustsuite.config.threats import Access, Threat, Update, parse_access
from robustsuite.integrity.probes import Flag
from robustsuite.integrity.tampering import untampered
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.gradient_matching import Observed, Recovered
from robustsuite.methods.federated.image_quality import matched, mse, psnr, ssim
from robustsuite.methods.federated.observation import Owner as Owner
from robustsuite.methods.federated.observation import observed
from robustsuite.methods.federated.updates import VALUES, Client
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.record import Record
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.stages import Applied

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context

POOL = 64
"""Originals at once that a reconstruction is compared with."""


class Attack(Protocol):
    """What T clients shared -> their pictures and classes; `rng` has one stream a client.

    One that needs AUX_DATA also takes `aux: Aux`.
    """

    def __call__(self, seen: Observed, *, rng: Rng) -> Recovered: ...


A = TypeVar("A", bound=Callable[..., Recovered])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register a gradient inversion. needs: Access.WEIGHTS | UPDATE, with AUX_DATA for pictures of its own."""
    return carded("attack", "inversion", **facts)


def play(context: Context) -> Record:
    """Let clients share updates of the cell's examples, and score what the observer makes of them."""
    threat, card = context.threat, context.card
    if threat.update is None:
        raise ValueError(f"expected an update in the inversion threat {threat.name!r}, got none")
    return reconstructed(
        context.shared(threat.update.trained), context.attack, context.everyone, threat, context.rng, card=card,
        share=context.share(), aux=context.aux() if Access.AUX_DATA in card.needs else None, device=context.device,
        rows=context.rows,
    )  # fmt: skip


def conclude(context: Context, record: Record) -> Record:
    """What the reconstructions show beside another client's pictures, and what a training reaches at all."""
    columns, learnt = record.columns, context.learnt()
    if learnt is not None:
        columns = {**columns, "federated_accuracy": torch.full((len(context.split),), learnt)}
    return concluded(record._replace(columns=columns), context.threat)


def together(cell: Cell) -> int:
    """The examples of one client."""
    return cell.threat.update.batch if cell.threat is not None and cell.threat.update is not None else 1


def judged(
    net: nn.Module, attack: Callable[..., Recovered], split: Split, threat: Threat, rng: Rng, *, card: AttackCard
) -> Record:
    """Both at once, for a network that is no cell's."""
    return concluded(reconstructed(net, attack, split, threat, rng, card=card), threat)


def reconstructed(
    net: nn.Module, attack: Callable[..., Recovered], split: Split, threat: Threat, rng: Rng, *, card: AttackCard,
    share: Sequence[Applied] = (), aux: Aux | None = None, device: str = "cpu", rows: range | None = None,
) -> Record:  # fmt: skip
    """Let clients share updates of the examples at `rows`, batch by batch, and score what the observer makes of them.

    net: the network of the round. split: all originals. share: what changes the updates on their way. rng: a stream for
    each of `rows`. Columns: mse, psnr (dB), ssim, label_ok (the matched reconstruction's class), label_found (counted
    without order), failed (nothing finite came back; scored as mid-grey), identified (nearer to its own original than
    to any other of the split), control_psnr (against the originals of the client before).
    """
    if threat.update is None:
        raise ValueError(f"expected an update in the inversion threat {threat.name!r}, got none")
    terms, handed = threat.update, {"aux": aux} if Access.AUX_DATA in card.needs else {}
    client = Client(net.to(device), terms)
    rows, whole = rows or range(len(split)), len(split) - len(split) % terms.batch
    parts, evaluations, who = [], 0, f"the attack {card.name}"
    for local in _clients(len(rows), terms.batch, client, device):
        clients, streams = local + rows.start, rng[local[:, 0]]
        batch, labels = _pictures(split, clients).to(device), split.y[clients].to(device)
        seen = observed(client, batch, labels, share, streams, labels_known=terms.labels)
        with untampered([client.net], who, partial(client.net, batch.flatten(0, 1)[:1]), pictures=batch, labels=labels):
            found = attack(seen, rng=streams.fold("attack"), **handed)
        # a last smaller client has no other of its size
        others = (clients - terms.batch) % whole if whole > terms.batch == clients.shape[1] else None
        parts.append(_judged(batch, labels, found, split, clients, others))
        evaluations += found.evaluations * clients.numel() * terms.local_steps
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return Record(columns, [], 2 * evaluations, 3 * evaluations)


def concluded(record: Record, threat: Threat) -> Record:
    """The record with the flags and the note that its columns lead to."""
    return record._replace(flags=_flags(record.columns), note=_note(record.columns, threat.update))


def _pictures(split: Split, rows: Tensor) -> Tensor:
    """The originals (T, B, C, H, W) at the positions `rows` (T, B)."""
    x = split.images(rows.flatten())
    return x.view(*rows.shape, *x.shape[1:])


def _clients(n: int, batch: int, client: Client, device: str) -> list[Tensor]:
    """Example numbers (T, B), as many clients at once as their updates fit; a last client may have fewer examples."""
    whole = torch.arange(n - n % batch).view(-1, batch)
    most = max(1, VALUES["cuda" if device.startswith("cuda") else "cpu"] // (4 * client.size))
    rest = torch.arange(n - n % batch, n)[None]
    return [*(rows for rows in whole.split(most) if len(rows)), *([rest] if rest.numel() else [])]


def _judged(
    x: Tensor, y: Tensor, found: Recovered, split: Split, rows: Tensor, others: Tensor | None
) -> dict[str, Tensor]:
    """Columns of the examples at `rows` (T, B) of the split, in order; others (T, B): the client before each."""
    failed = ~torch.isfinite(found.x).flatten(2).all(2)
    x_hat = torch.where(failed[..., None, None, None], 0.5, found.x.nan_to_num()).clamp(0, 1)
    order = matched(x, x_hat)
    clients = torch.arange(len(x), device=x.device)[:, None]
    x_hat, y_hat, failed = x_hat[clients, order], found.y[clients, order], failed[clients, order]
    control = torch.full((rows.numel(),), torch.nan, device=x.device)
    if others is not None:
        theirs = _pictures(split, others).to(x)
        control = psnr(theirs.flatten(0, 1), x_hat[clients, matched(theirs, x_hat)].flatten(0, 1)).float()
    a, b = x.flatten(0, 1), x_hat.flatten(0, 1)
    return {
        "mse": mse(a, b).float(),
        "psnr": psnr(a, b).float(),
        "ssim": ssim(a, b).float(),
        "label_ok": (y_hat == y).flatten(),
        "label_found": _counted_right(y, found.y).flatten(),
        "failed": failed.flatten(),
        "identified": _nearest(b, split) == rows.flatten().to(b.device),
        "control_psnr": control,
    }


def _nearest(x: Tensor, split: Split) -> Tensor:
    """The position (M,) in the split of the original nearest to each picture (M, C, H, W), the first of equals."""
    least, position = torch.full((len(x),), torch.inf, device=x.device), torch.zeros(len(x), device=x.device).long()
    for positions, originals, _ in split.batches(POOL, str(x.device)):
        apart = torch.cdist(x.flatten(1), originals.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        here, index = apart.min(1)
        nearer = here < least
        least = torch.where(nearer, here, least)
        position = torch.where(nearer, index + positions[0].to(x.device), position)
    return position


def _counted_right(y: Tensor, y_hat: Tensor) -> Tensor:
    """Which examples (T, B) the recovered classes cover, each of them once."""
    earlier = torch.ones(y.shape[1], y.shape[1], device=y.device).tril(-1).bool()
    before = ((y[:, :, None] == y[:, None, :]) & earlier).sum(2)
    return before < (y_hat[:, None, :] == y[:, :, None]).sum(2)


def _flags(columns: dict[str, Tensor]) -> list[Flag]:
    """Reconstructions that are no nearer to their own originals than to another client's show nothing."""
    gain = (columns["psnr"] - columns["control_psnr"]).nanmean()
    flags = [Flag("control_as_good", f"PSNR is {float(gain):+.2f} dB against another client's pictures")]
    return flags if float(gain) <= 0 else []


def _note(columns: dict[str, Tensor], terms: Update | None) -> str:
    """What a reader of the number should know."""
    gain = float((columns["psnr"] - columns["control_psnr"]).nanmean())
    notes = [f"PSNR {gain:+.1f} dB beside another client's pictures"] if gain == gain else []
    if failed := int(columns["failed"].sum()):
        notes.append(f"{failed} failed and count as mid-grey")
    if "federated_accuracy" in columns:
        notes.append(f"a short federated training reaches {float(columns['federated_accuracy'][0]):.1%}")
    return "; ".join([*notes, *(["labels known: worst case"] if terms and terms.labels else [])])


class InversionSpec(Spec):
    """The budget says what a client shares: batch, local_steps, rate, mode, trained, labels."""

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        terms = self.only(name, list(Update.__dataclass_fields__), least=0)
        return Threat(name, self.scenario, parse_access(self.access), update=Update(**terms))


scenario = Scenario(
    "inversion", "An observer of a federated training reconstructs pictures from the update a client shares.", play,
    columns=(
        Column(name="psnr", dtype="float", unit="dB", better="less", scores=(
            Scoring(name="mean_psnr", kind="mean", compared=True),
        )),
        Column(name="ssim", dtype="float", better="less", scores=(Scoring(name="mean_ssim", kind="mean"),)),
        Column(name="label_ok", better="less", scores=(Scoring(name="label_ok_rate"),)),
        Column(name="label_found", better="less", scores=(Scoring(name="label_found_rate"),)),
        Column(name="identified", better="less", scores=(Scoring(name="identified_rate"),)),
        Column(name="failed", better="more", scores=(Scoring(name="failed_rate"),)),
        Column(name="federated_accuracy", dtype="float", better="more", scores=(
            Scoring(name="mean_federated_accuracy", kind="mean"),
        )),
        Column(name="mse", dtype="float", better="more"),
        Column(name="control_psnr", dtype="float", unit="dB"),
    ),
    headline="mean_psnr", paper="Zhu et al., 2019, arXiv:1906.08935; Geiping et al., 2020, arXiv:2003.14053",
    spec=InversionSpec, passes=("data", "train", "harden", "share"), together=together, conclude=conclude,
    sections="robustsuite.reports.sections.reconstructions:part",
)  # fmt: skip
