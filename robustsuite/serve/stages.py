"""The stages of a classifier's life that a defense may change, each with its function type.

data(split) -> split, train(fit) -> fit, harden(net, training) -> net, serve(net) -> net, share(update) -> update.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from robustsuite.config.registry import DefenseCard, canonical, card_of, carded, checked_parameters, identity, used
from robustsuite.records.schema import Used
from robustsuite.serve.data import Split
from robustsuite.serve.models import Fit, Training

STAGES = ("data", "train", "harden", "serve", "share")

D = TypeVar("D", bound=Callable[..., Split])
T = TypeVar("T", bound=Callable[..., Fit])
N = TypeVar("N", bound=Callable[..., nn.Module])
U = TypeVar("U", bound=Callable[..., Any])


def data(**facts: Any) -> Callable[[D], D]:
    """A defense that changes the train set: (split, *, ...) -> split; (split, trained, *, ...) -> split if it learns.

    trained: train set -> the network that the model's recipe makes of it.
    """
    return carded("defense", "data", **facts)


def train(**facts: Any) -> Callable[[T], T]:
    """A defense that changes the recipe: (fit, *, ...) -> fit."""
    return carded("defense", "train", **facts)


def harden(**facts: Any) -> Callable[[N], N]:
    """A defense that changes the trained weights: (net, training: Training, *, ...) -> net."""
    return carded("defense", "harden", **facts)


def serve(**facts: Any) -> Callable[[N], N]:
    """A defense that wraps the network at test time: (net, *, ...) -> net; (net, training, *, ...) -> net if it learns.

    hides: what the wrapper takes from a white-box adversary (Access.GRADIENTS). surrogate: a function (base, served) ->
    net, a differentiable stand-in for `served` over `base`, the network below it as an attack can differentiate it.
    stochastic: it draws noise. rejects: a row of NaN is its way to give no answer; of any other network, NaN is a wrong
    answer. `protocols` says how a network draws, rejects or votes.
    """
    return carded("defense", "serve", **facts)


def share(**facts: Any) -> Callable[[U], U]:
    """A defense that changes what a federated client sends: (update, *, ...) -> update.

    `rng` (a stream a client) and `owner` are handed to a function that names them.
    surrogate(dummy, seen, *, ...) -> update: the same to an observer's own update, read off what was seen; handed every
    parameter.
    """
    return carded("defense", "share", **facts)


@dataclass(frozen=True)
class Applied:
    """A defense with its parameters."""

    card: DefenseCard
    given: tuple[tuple[str, Any], ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter, those that are not given at their defaults."""
        return {**self.card.parameters, **dict(self.given)}

    def __str__(self) -> str:
        return canonical(self.card, dict(self.given))

    def facts(self) -> Used:
        """As a record holds it."""
        return used(self.card, dict(self.given))

    def identity(self) -> str:
        """What tells it from any other defense, and from itself with another source."""
        return identity(self.card, dict(self.given))

    def __call__(self, *args: Any) -> Any:
        return self.card.function(*args, **dict(self.given))


def applied(name: str, given: dict[str, Any]) -> Applied:
    """A registered defense with parameters; raises UnknownName or BadValue."""
    card = card_of("defense", name)
    return Applied(card, tuple(sorted(checked_parameters(card, given).items())))


__all__ = ["STAGES", "Applied", "Training", "applied", "data", "harden", "serve", "share", "train"]
