"""Gaussian noise on every entry of the shared update (Zhu et al., 2019, arXiv:1906.08935, section 5.1)."""

from __future__ import annotations

from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.updates import Gradients
from robustsuite.serve import stages


@stages.share(name="gradient_noise", paper="Zhu, Liu, Han, 2019, arXiv:1906.08935")
def gradient_noise(update: Gradients, *, rng: Rng, std: float = 0.01) -> Gradients:
    """Add N(0, std^2) to each entry of each client's update (T, ...); nothing an observer could re-apply.

    rng: one stream a client. Raises BadValue for std < 0.
    """
    if std < 0:
        raise BadValue(f"expected std >= 0, got {std!r}; write 0.01")
    return {k: g + std * rng.fold(k).normal(*g.shape[1:]).to(g) for k, g in update.items()}
