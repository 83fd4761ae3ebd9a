"""From data and recipe to the served network, a defense changing one stage each; training is done once and kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from robustsuite import __version__
from robustsuite.config.threats import Access
from robustsuite.maths.numerics import THREADS
from robustsuite.serve.adversary import Aux, Membership, Poisoned, Poisoner
from robustsuite.serve.data import Dataset, Split, parse_spec
from robustsuite.serve.kept import file_of, kept, key_of, learnt
from robustsuite.serve.models import Fit, Model, Reshaping, Training, load_model, ready, weights_sha256
from robustsuite.serve.protocols import Detecting
from robustsuite.serve.stages import Applied, applied
from robustsuite.serve.system import System
from robustsuite.serve.training import untrained

NOTHING = Split.of(torch.zeros(0, 1, 1, 1), torch.zeros(0, dtype=torch.int64))
"""The split that a training which does not need one is handed: no picture of any other."""

ADVERSARY = 1_000_003
"""Added to the seed of what the adversary trains: it shares the recipe, never the weights."""


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
    members: Membership | None = None
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at(self, stage: str) -> list[Applied]:
        """The defenses of one stage, in order."""
        return [d for d in self.defenses if d.card.place == stage]

    def trainings(self) -> list[str]:
        """The keys of the trainings this lifecycle needs and the cache does not hold yet."""
        return [key for key in self._keys if not file_of(key).exists()]

    @cached_property
    def _keys(self) -> list[str]:
        """The keys of all its trainings: asked for by each of its cells."""
        learning = [self._learning(i) for i, d in enumerate(self.at("serve")) if d.card.shape is not None]
        return [*(key for key, _ in self._fits()[1]), *learning]

    def recipes(self) -> list[tuple[str, Fit]]:
        """Each training's key with all that it takes from the first weights on, nothing kept: to be tried on a few."""
        return self._fits(keep=lambda fit, key, shapes=(): fit)[1]

    def trained_on(self) -> list[str]:
        """What the weights come from besides model, defenses and seed: the pictures they are made with, if any."""
        return [self.data.split(name).sha256 for name in self._needed]

    @cached_property
    def _needed(self) -> list[str]:
        """The splits that anything here is trained on, chosen by or set by."""
        if self.poison or not self.model.pretrained or self.at("data") or self.at("train"):
            return ["train", "val"]
        learn = [d.card for d in self.defenses if d.card.place == "harden" or d.card.learns]
        return sorted({split for card in learn for split in card.splits})

    def trained(self) -> nn.Module:
        """The network after data, train and harden; a copy, the model's own is not touched."""
        train = self.poisoned.train if self.poison else self.selection()[0]
        for defense in self.at("data"):
            train = defense(train, self._trial) if defense.card.learns else defense(train)
        training = self._training(train)
        fit = self._fits()[0]
        return ready(fit(copy.deepcopy(self.model.net), training), self.device)

    def _trial(self, train: Split) -> nn.Module:
        """The model's own recipe on this train set: what a filter of training data looks at."""
        training = self._training(train)
        facts = [self.model.identity(), train.sha256, training.val.sha256, str(self.seed), __version__, "trial"]
        return ready(kept(self.model.fit, key_of(facts))(copy.deepcopy(self.model.net), training), self.device)

    @cached_property
    def poisoned(self) -> Poisoned:
        """The training set as the adversary leaves it, with its trigger; the same in every process."""
        if self.poison is None:
            raise ValueError("expected a poisoning attack on this lifecycle, got none")
        return self.poison(self.data.split("train"), self.seed, self.adversary)

    def adversary(self) -> Aux:
        """The adversary's own pictures (the val split where there is one) and nets, trained at a seed of its own."""
        pictures = self.data.splits.get("val", next(iter(self.data.splits.values())))

        def net(spec: str, *defenses: object, draw: int = 0) -> nn.Module:
            model = load_model(spec, self.data.space)
            used = tuple(applied(*parse_spec(entry, "defense")) for entry in defenses)
            seed = self.seed + (draw + 1) * ADVERSARY
            return Lifecycle(model, self.data, used, seed, self.device, self.tell).trained()

        return Aux(pictures, net)

    def own_training(self) -> Training:
        """What the adversary trains with besides nets of a spec: the train split, at its own seed."""
        return Training(self.data.split("train"), NOTHING, self.seed + ADVERSARY, self.device, self.tell)

    def shadow(self, models: int, model: int) -> Lifecycle:
        """The same in the adversary's hands: number `model` of `models`, each on a half of the pool, at its own seed.

        Raises ValueError where no membership is drawn.
        """
        if self.members is None:
            raise ValueError("expected a lifecycle with a draw of members, got one without")
        members = replace(self.members, models=models, model=model)
        return replace(self, members=members, seed=self.seed + (model + 1) * ADVERSARY, findings={})

    def control_training(self) -> Training:
        """What a judge's control trains with: the adversary's pictures, at the adversary's seed."""
        return Training(self.adversary().pictures, NOTHING, self.seed + ADVERSARY, self.device, self.tell)

    def on(self, train: Split, val: Split) -> Lifecycle:
        """The model's own recipe on other pictures, with no defense, no poison and no draw of members."""
        data = replace(self.data, splits={**self.data.splits, "train": train, "val": val})
        return replace(self, data=data, defenses=(), poison=None, members=None, findings={})

    def shared(self, trained: bool) -> nn.Module:
        """The network that clients of a federated training compute on: after harden, or with freshly drawn weights."""
        return self.trained() if trained else ready(untrained(self.model.net, self.seed), self.device)

    def served(self) -> System:
        """The system as it answers, with what it hides and its surrogate."""
        return self.serving(self.trained())

    def serving(self, base: nn.Module) -> System:
        """The same over a network that has been trained."""
        net = base
        stand_in: nn.Module | None = base
        hides, rejects = Access.NONE, False
        for i, defense in enumerate(self.at("serve")):
            served = self._learner(i)(net, self._training()) if defense.card.learns else defense(net)
            stand_in = _stand_in(defense, stand_in, net, served)
            net, hides = served, hides | defense.card.hides
            rejects |= defense.card.rejects or isinstance(served, Detecting)
        surrogate = ready(stand_in, self.device) if stand_in not in (None, net) else None
        served = ready(net, self.device) if net is not base else base
        used = [d.card for d in self.defenses]
        stochastic, adapts = any(card.stochastic for card in used), any(card.adapts for card in used)
        eot = max([1, *(card.eot for card in used)])
        return System(
            served, self.model.space, stochastic, hides, surrogate, self.device, eot, adapts,
            shows=self.model.shows, grid=self.model.grid, under=base if rejects else None,
        )  # fmt: skip

    def _learner(self, i: int) -> Fit:
        """The i-th serve-stage defense, one that learns, as what wraps a network; kept where its card says how."""
        defense = self.at("serve")[i]
        if defense.card.shape is None:
            return defense
        shape = partial(defense.card.shape, **defense.parameters)
        return learnt(defense, self._learning(i), shape)

    def _learning(self, i: int) -> str:
        """The key of what the i-th serve-stage defense learns: all that its network is made of and stands behind."""
        before = [*self.at("train"), *self.at("harden"), *self.at("serve")[: i + 1]]
        return key_of([*self._facts(), "serve", *(d.identity() for d in before)])

    def _facts(self) -> list[str]:
        """What every training depends on."""
        facts = [self.model.identity(), *self.trained_on(), *(d.identity() for d in self.at("data"))]
        changed = [change.identity() for change in (self.poison, self.members) if change]
        return [*facts, str(self.seed), __version__, *changed, *arithmetic(self.device)]

    def _training(self, train: Split | None = None) -> Training:
        """What training and selection may see; the data set's own train split where none is given."""
        clean, val = self.selection()
        keep = self.findings.__setitem__
        watch = self.poison is not None and self.poison.watched
        return Training(clean if train is None else train, val, self.seed, self.device, self.tell, keep, watch)

    def selection(self) -> tuple[Split, Split]:
        """The train and val split as trainings see them; `NOTHING` for one that none of them works on."""
        train, val = (self.data.split(name) if name in self._needed else NOTHING for name in ("train", "val"))
        return train if self.members is None or train is NOTHING else self.members(train), val

    def _fits(self, keep: Callable[..., Fit] = kept) -> tuple[Fit, list[tuple[str, Fit]]]:
        """The recipe with every train- and harden-stage defense applied, each step kept under what went into it."""
        facts = self._facts()
        fit, steps, shapes = self.model.fit, list[tuple[str, Fit]](), list[Fit]()
        if not self.model.pretrained:
            fit = keep(fit, key_of(facts))
            steps.append((key_of(facts), fit))
        for defense in (*self.at("train"), *self.at("harden")):
            facts.append(defense.identity())
            made = defense(fit) if defense.card.place == "train" else partial(_hardened, defense, fit)
            if isinstance(made, Reshaping):
                shapes.append(made.shape)
            fit = keep(made, key_of(facts), tuple(shapes))
            steps.append((key_of(facts), fit))
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


def arithmetic(device: str) -> list[str]:
    """What moves the bits of a training besides: other hardware, or another number of threads than one."""
    kind = device.partition(":")[0]
    return [kind] if kind != "cpu" else [f"{THREADS} threads"] if THREADS != 1 else []


def _hardened(defense: Applied, fit: Fit, net: nn.Module, training: Training) -> nn.Module:
    hardened: nn.Module = defense(fit(net, training), training)
    return hardened


def fingerprint(net: nn.Module) -> str:
    """sha256 of the weights a system was judged with."""
    with torch.no_grad():
        return weights_sha256(net)
