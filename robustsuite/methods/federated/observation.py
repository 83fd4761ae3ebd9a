"""What an observer of a federated training sees of its clients, after the defenses of the share stage."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.gradient_matching import Observed
from robustsuite.methods.federated.updates import Client, Gradients, updates
from robustsuite.serve.stages import Applied


@dataclass(frozen=True)
class Owner:
    """What a share-stage defense that asks for `owner` knows of the clients: the network and their own batches.

    x (T, B, C, H, W) in [0, 1], y (T, B).
    """

    client: Client
    x: Tensor
    y: Tensor


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
            dummy = defense.card.surrogate(dummy, seen, **defense.parameters)  # type: ignore[misc]
        return dummy

    return informed
