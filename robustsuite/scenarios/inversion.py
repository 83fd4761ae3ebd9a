"""Gradient inversion: an observer of a federated training reconstructs a client's pictures from the update it shares.

Relaxations are the threat's budget (Huang et al., 2021, arXiv:2112.00059): batch, local steps, batch norm's mode,
whether the network is trained, whether labels are known. Scored against the originals after matching each batch; an
observer chooses among its restarts by what it can see, never by these scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.config.keys import Spec
from robustsuite.config.registry import AttackCard, carded
from robustsuite.config.threats import Access, Threat, Update, parse_access
from robustsuite.integrity.probes import Flag
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
    from robustsuite.scenarios.context import Context


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
    return judged(
        context.shared(threat.update.trained), context.attack, context.split, threat, context.rng, card=card,
        share=context.share(), aux=context.aux() if Access.AUX_DATA in card.needs else None, learnt=context.learnt(),
        device=context.device,
    )  # fmt: skip


def judged(
    net: nn.Module, attack: Callable[..., Recovered], split: Split, threat: Threat, rng: Rng, *, card: AttackCard,
    share: Sequence[Applied] = (), aux: Aux | None = None, learnt: float | None = None, device: str = "cpu",
) -> Record:  # fmt: skip
    """Let clients share updates of the split's examples, batch by batch, and score what the observer makes of them.

    net: the network of the round. share: what changes the updates on their way. learnt: the accuracy of a federated
    training under these defenses, where it was measured. Columns: mse, psnr (dB), ssim, label_ok (the matched
    reconstruction's class), label_found (counted without order), failed (nothing finite came back; scored as mid-grey),
    identified (nearer to its own original than to any other of the split), control_psnr (against another client's
    originals), federated_accuracy.
    """
    if threat.update is None:
        raise ValueError(f"expected an update in the inversion threat {threat.name!r}, got none")
    terms, handed = threat.update, {"aux": aux} if Access.AUX_DATA in card.needs else {}
    client = Client(net.to(device), terms)
    x, y = split.images(torch.arange(len(split))).to(device), split.y.to(device)
    parts, evaluations = [], 0
    for rows in _clients(len(split), terms.batch, client, device):
        streams = rng[rows[:, 0]]
        batch, labels = x[rows], y[rows]
        seen = observed(client, batch, labels, share, streams, labels_known=terms.labels)
        found = attack(seen, rng=streams.fold("attack"), **handed)
        parts.append(_judged(batch, labels, found, x, rows))
        evaluations += found.evaluations * rows.numel() * terms.local_steps
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    if learnt is not None:
        columns["federated_accuracy"] = torch.full((len(split),), learnt)
    return Record(columns, _flags(columns), 2 * evaluations, 3 * evaluations, _note(columns, terms, learnt))


def _clients(n: int, batch: int, client: Client, device: str) -> list[Tensor]:
    """Example numbers (T, B), as many clients at once as their updates fit; a last client may have fewer examples."""
    whole = torch.arange(n - n % batch).view(-1, batch)
    most = max(1, VALUES["cuda" if device.startswith("cuda") else "cpu"] // (4 * client.size))
    rest = torch.arange(n - n % batch, n)[None]
    return [*(rows for rows in whole.split(most) if len(rows)), *([rest] if rest.numel() else [])]


def _judged(x: Tensor, y: Tensor, found: Recovered, pool: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Columns of the examples in `rows` (T, B), in order; pool (N, C, H, W): every original."""
    failed = ~torch.isfinite(found.x).flatten(2).all(2)
    x_hat = torch.where(failed[..., None, None, None], 0.5, found.x.nan_to_num()).clamp(0, 1)
    order = matched(x, x_hat)
    clients = torch.arange(len(x), device=x.device)[:, None]
    x_hat, y_hat, failed = x_hat[clients, order], found.y[clients, order], failed[clients, order]
    others = x.roll(1, 0)
    other_order = matched(others, x_hat)
    a, b = x.flatten(0, 1), x_hat.flatten(0, 1)
    nearest = torch.cdist(b.flatten(1), pool.flatten(1)).argmin(1)
    control = psnr(others.flatten(0, 1), x_hat[clients, other_order].flatten(0, 1))
    return {
        "mse": mse(a, b).float(),
        "psnr": psnr(a, b).float(),
        "ssim": ssim(a, b).float(),
        "label_ok": (y_hat == y).flatten(),
        "label_found": _counted_right(y, found.y).flatten(),
        "failed": failed.flatten(),
        "identified": nearest == rows.flatten().to(nearest),
        "control_psnr": (control if len(x) > 1 else torch.full_like(control, torch.nan)).float(),
    }


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


def _note(columns: dict[str, Tensor], terms: Update, learnt: float | None) -> str:
    """What a reader of the number should know."""
    gain = float((columns["psnr"] - columns["control_psnr"]).nanmean())
    notes = [f"PSNR {gain:+.1f} dB beside another client's pictures"] if gain == gain else []
    if failed := int(columns["failed"].sum()):
        notes.append(f"{failed} failed and count as mid-grey")
    if learnt is not None:
        notes.append(f"a short federated training reaches {learnt:.1%}")
    return "; ".join([*notes, *(["labels known: worst case"] if terms.labels else [])])


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
    spec=InversionSpec, passes=("data", "train", "harden", "share"),
    sections="robustsuite.reports.sections.reconstructions:part",
)  # fmt: skip
