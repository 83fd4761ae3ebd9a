"""Gradient inversion: an observer of a federated training reconstructs a client's pictures from the update it shares.

Relaxations are the threat's budget (Huang et al., 2021, arXiv:2112.00059): batch, local steps, batch norm's mode,
whether the network is trained, whether labels are known. Scored against the originals after matching each batch; an
observer chooses among its restarts by what it can see, never by these scores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.adversary import Aux
from robustsuite.data import Split
from robustsuite.methods.inversion import Observed, Recovered
from robustsuite.methods.picture_quality import matched, mse, psnr, ssim
from robustsuite.methods.updates import VALUES, Client, Gradients, updates
from robustsuite.probes import Flag
from robustsuite.randomness import Rng
from robustsuite.registry import Card, carded
from robustsuite.scenarios.record import Record
from robustsuite.stages import Applied
from robustsuite.threats import Access, Threat, Update


class Attack(Protocol):
    """What T clients shared -> their pictures and classes; `rng` has one stream a client.

    One that needs AUX_DATA also takes `aux: Aux`.
    """

    def __call__(self, seen: Observed, *, rng: Rng) -> Recovered: ...


@dataclass(frozen=True)
class Owner:
    """What a share-stage defense that asks for `owner` knows of the clients: the network and their own batches.

    x (T, B, C, H, W) in [0, 1], y (T, B).
    """

    client: Client
    x: Tensor
    y: Tensor


A = TypeVar("A", bound=Callable[..., Recovered])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register a gradient inversion. needs: Access.WEIGHTS | UPDATE, with AUX_DATA for pictures of its own."""
    return carded("attack", "inversion", **facts)


def play(
    net: nn.Module, attack: Callable[..., Recovered], split: Split, threat: Threat, rng: Rng, *, card: Card,
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


def observed(
    client: Client, x: Tensor, y: Tensor, share: Sequence[Applied], rng: Rng, *, labels_known: bool = False
) -> Observed:
    """What an observer sees of clients with pictures (T, B, C, H, W) and classes (T, B), after the share stage."""
    update = updates(client, x, y)
    for i, defense in enumerate(share):
        known = {"rng": rng.fold("share").fold(i), "owner": Owner(client, x, y)}
        asked = inspect.signature(defense.card.function).parameters
        update = defense.card.function(update, **{k: v for k, v in known.items() if k in asked}, **dict(defense.given))
    return Observed(client, update, tuple(x.shape[1:]), y if labels_known else None, _informed(share))


def _informed(share: Sequence[Applied]) -> Callable[[Gradients, Gradients], Gradients]:
    """Every defense that can be re-applied to one client's dummy update, in order."""
    known = [d for d in share if d.card.surrogate is not None]

    def informed(dummy: Gradients, seen: Gradients) -> Gradients:
        for defense in known:
            dummy = defense.card.surrogate(dummy, seen, **dict(defense.given))  # type: ignore[misc]
        return dummy

    return informed


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
