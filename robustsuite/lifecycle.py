"""From data and recipe to the served network, a defense changing one stage each; training is done once and kept."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_dir
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from robustsuite import __version__
from robustsuite.adversary import Aux, Poisoned, Poisoner
from robustsuite.data import Dataset, Split, parse_spec
from robustsuite.methods.updates import untrained
from robustsuite.models import Fit, Model, Reshaping, Training, load_model, ready, weights_sha256
from robustsuite.stages import Applied, applied
from robustsuite.system import System
from robustsuite.threats import Access

ADVERSARY = 1_000_003
"""Added to the seed of what the adversary trains: it shares the recipe, never the weights."""


def cache_folder() -> Path:
    """Where trained weights are kept: $ROBUSTSUITE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("ROBUSTSUITE_CACHE") or user_cache_dir("robustsuite"))


@dataclass
class Lifecycle:
    """One model under one tuple of defenses, at one seed. findings: what its trainings keep for the report, by name."""

    model: Model
    data: Dataset
    defenses: tuple[Applied, ...] = ()
    seed: int = 0
    device: str = "cpu"
    tell: Callable[[str], None] = field(default=lambda _: None)
    poison: Poisoner | None = None
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at(self, stage: str) -> list[Applied]:
        """The defenses of one stage, in order."""
        return [d for d in self.defenses if d.card.place == stage]

    def trainings(self) -> list[str]:
        """The keys of the trainings this lifecycle needs and the cache does not hold yet."""
        return [key for key, _ in self._fits()[1] if not _file(key).exists()]

    def trained_on(self) -> list[str]:
        """What the weights come from besides model, defenses and seed: the pictures they are made with, if any."""
        changed = self.poison or any(
            d.card.place in ("data", "train", "harden") or d.card.learns for d in self.defenses
        )
        if self.model.pretrained and not changed:
            return []
        return [self.data.split("train").sha256, self.data.split("val").sha256]

    def trained(self) -> nn.Module:
        """The network after data, train and harden; a copy, the model's own is not touched."""
        train = self.poisoned.train if self.poison else self._selection()[0]
        for defense in self.at("data"):
            train = defense(train, self._trial) if defense.card.learns else defense(train)
        training = self._training(train)
        fit = self._fits()[0]
        return ready(fit(copy.deepcopy(self.model.net), training), self.device)

    def _trial(self, train: Split) -> nn.Module:
        """The model's own recipe on this train set: what a filter of training data looks at."""
        training = self._training(train)
        facts = [self.model.identity(), train.sha256, training.val.sha256, str(self.seed), __version__, "trial"]
        return ready(_kept(self.model.fit, _key(facts))(copy.deepcopy(self.model.net), training), self.device)

    @cached_property
    def poisoned(self) -> Poisoned:
        """The training set as the adversary leaves it, with its trigger; the same in every process."""
        if self.poison is None:
            raise ValueError("expected a poisoning attack on this lifecycle, got none")
        return self.poison(self.data.split("train"), self.seed, self.adversary)

    def adversary(self) -> Aux:
        """The adversary's own pictures (the val split where there is one) and nets, trained at a seed of its own."""
        pictures = self.data.splits.get("val", next(iter(self.data.splits.values())))

        def net(spec: str, *defenses: object) -> nn.Module:
            model = load_model(spec, self.data.space)
            used = tuple(applied(*parse_spec(entry, "defense")) for entry in defenses)
            return Lifecycle(model, self.data, used, self.seed + ADVERSARY, self.device, self.tell).trained()

        return Aux(pictures, net)

    def shared(self, trained: bool) -> nn.Module:
        """The network that clients of a federated training compute on: after harden, or with freshly drawn weights."""
        return self.trained() if trained else ready(untrained(self.model.net, self.seed), self.device)

    def served(self) -> System:
        """The system as it answers, with what it hides and its surrogate."""
        base = net = self.trained()
        stand_in: nn.Module | None = base
        hides = Access.NONE
        for defense in self.at("serve"):
            served = defense(net, self._training()) if defense.card.learns else defense(net)
            stand_in = _stand_in(defense, stand_in, net, served)
            net, hides = served, hides | defense.card.hides
        surrogate = ready(stand_in, self.device) if stand_in not in (None, net) else None
        served = ready(net, self.device) if net is not base else base
        used = [d.card for d in self.defenses]
        stochastic, adapts = any(card.stochastic for card in used), any(card.adapts for card in used)
        eot = max([1, *(card.eot for card in used)])
        return System(served, self.model.space, stochastic, hides, surrogate, self.device, eot, adapts)

    def _training(self, train: Split | None = None) -> Training:
        """What training and selection may see; the data set's own train split where none is given."""
        clean, val = self._selection()
        keep = self.findings.__setitem__
        watch = self.poison is not None and self.poison.watched
        return Training(clean if train is None else train, val, self.seed, self.device, self.tell, keep, watch)

    def _selection(self) -> tuple[Split, Split]:
        if not self.trained_on():
            nothing = next(iter(self.data.splits.values()))
            return nothing, nothing  # a pretrained net without weight-changing defenses is never trained
        return self.data.split("train"), self.data.split("val")

    def _fits(self) -> tuple[Fit, list[tuple[str, Fit]]]:
        """The recipe with every train- and harden-stage defense applied, each step kept under what went into it."""
        facts = [self.model.identity(), *self.trained_on(), *(d.identity() for d in self.at("data"))]
        facts += [str(self.seed), __version__, *([self.poison.identity()] if self.poison else [])]
        fit, steps, shapes = self.model.fit, list[tuple[str, Fit]](), list[Fit]()
        if not self.model.pretrained:
            fit = _kept(fit, _key(facts))
            steps.append((_key(facts), fit))
        for defense in (*self.at("train"), *self.at("harden")):
            facts.append(defense.identity())
            made = defense(fit) if defense.card.place == "train" else partial(_hardened, defense, fit)
            if isinstance(made, Reshaping):
                shapes.append(made.shape)
            fit = _kept(made, _key(facts), tuple(shapes))
            steps.append((_key(facts), fit))
        return fit, steps


def _stand_in(defense: Applied, through: nn.Module | None, net: nn.Module, served: nn.Module) -> nn.Module | None:
    """What stands in for `served`, which wraps `net`, where an attack needs gradients; `through` stands in for `net`.

    None behind what hides gradients and brings no surrogate; the served one itself where nothing stands in.
    """
    card = defense.card
    if through is None or (card.hides and card.surrogate is None):
        return None
    if card.surrogate is not None:
        found: nn.Module = card.surrogate(through, served)
    elif through is net:
        found = served
    else:
        found = through if card.learns else defense(through)
    return found


def _hardened(defense: Applied, fit: Fit, net: nn.Module, training: Training) -> nn.Module:
    hardened: nn.Module = defense(fit(net, training), training)
    return hardened


def _key(facts: list[str]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file(key: str) -> Path:
    return cache_folder() / "weights" / f"{key}.safetensors"


def _kept(fit: Fit, key: str, shapes: tuple[Fit, ...] = ()) -> Fit:
    """The same recipe, its result and findings kept on disk; weights that do not fit the network are made again.

    shapes: what turns the network before into the kept one's architecture, in order.
    """

    def kept(net: nn.Module, training: Training) -> nn.Module:
        file = _file(key)
        if file.exists():
            try:
                return _load(file, net, shapes, training)
            except (RuntimeError, SafetensorError, OSError, ValueError):
                training.tell(f"the kept weights {file.name} do not fit; training again")
        findings: dict[str, dict[str, Any]] = {}

        def keep(name: str, finding: dict[str, Any]) -> None:
            findings[name] = finding
            training.keep(name, finding)

        trained = fit(net, replace(training, keep=keep))
        _save(trained, file, findings)
        return trained

    return kept


def _load(file: Path, net: nn.Module, shapes: tuple[Fit, ...], training: Training) -> nn.Module:
    for shape in shapes:
        net = shape(net, training)
    net.load_state_dict(load_file(file))
    with safe_open(file, "pt") as opened:
        findings = json.loads((opened.metadata() or {}).get("findings", "{}"))
    for name, finding in findings.items():
        training.keep(name, finding)
    return net.to(memory_format=torch.contiguous_format)  # as `fitted` returns it, for the same bits


def _save(net: nn.Module, file: Path, findings: dict[str, dict[str, Any]]) -> None:
    """Written aside, then renamed: a killed run leaves no half file. A full disk only costs the next run its time."""
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in net.state_dict().items()}
        save_file(tensors, aside, metadata={"findings": json.dumps(findings)})
        os.replace(aside, file)
    except (OSError, SafetensorError):
        aside.unlink(missing_ok=True)


def fingerprint(net: nn.Module) -> str:
    """sha256 of the weights a system was judged with."""
    with torch.no_grad():
        return weights_sha256(net)
