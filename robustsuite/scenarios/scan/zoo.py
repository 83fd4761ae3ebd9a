"""A zoo of small networks, clean and trojaned, that scanners are calibrated on: a file each, so that it is resumed.

Every network is a `Member`: what it is made from, and nothing else, says how it comes out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.stacked import trained
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Dataset, Split
from robustsuite.serve.kept import save
from robustsuite.serve.models import load_model, ready
from robustsuite.serve.training import Recipe, held, one_cycle

ASR, ACCURACY = 0.9, 0.03
"""A trojaned network counts where its trigger works so often, and its accuracy is at most so far below clean ones'.

Small networks of one recipe differ by two points (a standard deviation) without any poison.
"""

PICTURES = 4000
"""Training pictures of each network, a draw of its own."""


@dataclass(frozen=True)
class Member:
    """One network to be made. attack: '' for a clean one, else a poisoning attack, given its parameters, rate, target.

    recipe: Adam's peak rate and the epochs. Its weights, pictures and poison are drawn by the seed.
    """

    arch: str
    seed: int
    recipe: tuple[float, int]
    attack: str = ""
    given: dict[str, Any] = field(default_factory=dict, hash=False)
    rate: float = 0.0
    target: int = -1

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.arch}-{self.attack or 'clean'}-{self.seed}"


@dataclass(frozen=True)
class Kept:
    """A network of the zoo as it came out: its clean accuracy, and how often its trigger works, NaN of a clean one."""

    member: Member
    net: nn.Module = field(repr=False)
    accuracy: float
    asr: float


def read(folder: Path, member: Member, data: Dataset) -> Kept | None:
    """The kept network of this member; None where it is not there, or was made from something else."""
    file = folder / f"{member.name}.safetensors"
    if not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        facts = json.loads((opened.metadata() or {})["findings"])
    if facts.get("member") != json.loads(json.dumps(asdict(member))):
        return None
    net = load_model(f"recipe:{member.arch}", data.space).net
    net.load_state_dict(load_file(file))
    found = facts["measured"]
    return Kept(member, ready(net), found["accuracy"], float("nan") if found["asr"] is None else found["asr"])


def made(members: Sequence[Member], data: Dataset, aux: Aux | None, folder: Path) -> None:
    """Train these networks, all of one architecture and recipe, at once, measure each and keep it in the folder."""
    train, test = data.split("train"), data.split("test")
    parts, pools, labels, rows, start = list[Poisoned | None](), [], [], [], 0
    for member in members:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(member.seed))
        own = train.at(order[:PICTURES].sort().values)
        part = _poisoned(member, own, aux) if member.attack else None
        x, y = held(own if part is None else part.train)
        parts.append(part)
        pools.append(x)
        labels.append(y)
        rows.append(torch.arange(start, start + len(y)))
        start += len(y)
    lr, epochs = members[0].recipe
    net = load_model(f"recipe:{members[0].arch}", data.space).net
    recipe = Recipe(epochs, one_cycle(lr, epochs), batch=50, optimiser="adamw", flip=True)
    nets = trained(net, torch.cat(pools), torch.cat(labels), torch.stack(rows), [m.seed for m in members], recipe)
    for one, member, part in zip(nets, members, parts, strict=True):
        accuracy, asr = _measured(one, member, part, test)
        found = {"accuracy": accuracy, "asr": None if part is None else asr}
        save(one.state_dict(), folder / f"{member.name}.safetensors", {"member": asdict(member), "measured": found})


def _poisoned(member: Member, train: Split, aux: Aux | None) -> Poisoned:
    card = card_of("attack", member.attack)
    handed = {"aux": aux} if Access.AUX_DATA in card.needs else {}
    rng = Rng.of(member.seed, f"zoo/{member.attack}", train.ids)
    found: Poisoned = card.function(
        train, PoisonRate(member.rate), target=member.target, rng=rng, **handed, **member.given
    )
    return found


def _measured(net: nn.Module, member: Member, part: Poisoned | None, test: Split) -> tuple[float, float]:
    """Clean accuracy, and the share of triggered pictures of other classes (or the source's) answered as wished."""
    x, y = test.images(torch.arange(len(test))), test.y
    with torch.no_grad():
        accuracy = float((net(x).argmax(1) == y).float().mean())
        if part is None or part.trigger is None:
            return accuracy, float("nan")
        meant = (y != member.target if part.source is None else y == part.source).nonzero().flatten()
        rng = Rng.of(member.seed, "zoo/test", test.ids)[meant]
        hit: Tensor = net(part.trigger(x[meant], test.ids[meant], rng).clamp(0, 1)).argmax(1) == member.target
    return accuracy, float(hit.float().mean())
