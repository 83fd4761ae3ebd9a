"""Soteria: perturb the representation that the last layer's gradient gives away.

Sun et al. (2021, arXiv:2012.06043), algorithm 1: for each feature f of the last layer's input r, |d r_f / d x|_2 /
|r_f| says how much of the picture it carries against what it costs to drop it; the columns of the last layer's weight
gradient that belong to the smallest share of these are zeroed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.errors import BadValue
from robustsuite.methods.federated.updates import Gradients, Head
from robustsuite.scenarios.inversion import Owner
from robustsuite.serve import stages


def kept_columns(dummy: Gradients, seen: Gradients, *, share: float) -> Gradients:
    """One client's dummy update without the columns that are zero in what was shared; differentiable."""
    return {
        k: torch.where((seen[k] != 0).any(0), g, 0.0) if g.dim() == 2 else g for k, g in dummy.items()
    }  # fmt: skip


@stages.share(
    name="soteria",
    paper="Sun et al., 2021, arXiv:2012.06043",
    surrogate=kept_columns,
    differs=("over a batch, the scores of its pictures are added",),
)
def soteria(update: Gradients, *, owner: Owner, share: float = 0.8) -> Gradients:
    """Zero the given share of the columns of the last linear layer's weight gradient, in each client's update (T, ...).

    owner: the clients' network and pictures. Raises BadValue unless 0 <= share < 1, Unsupported without such a layer.
    """
    if not 0 <= share < 1:
        raise BadValue(f"expected a share of 0 or more and below 1, got {share!r}; write 0.8")
    head = owner.client.head(tuple(owner.x.shape[2:]))
    score = _scores(owner, head)
    order = score.argsort(dim=1, stable=True)
    zeroed = torch.zeros_like(score, dtype=torch.bool).scatter_(1, order[:, : int(share * score.shape[1] + 1e-9)], True)
    weight = torch.where(zeroed[:, None, :], 0.0, update[head.weight])
    return {**update, head.weight: weight}


def _scores(owner: Owner, head: Head) -> Tensor:
    """(T, d): sum over a client's pictures of |d r_f / d x| / |r_f|, for each feature f."""
    coupled = owner.client.terms.mode == "train"  # by each batch's statistics; else all clients are one batch
    parts = [_each(owner, x, head) for x in (owner.x if coupled else owner.x.flatten(0, 1)[None])]
    return torch.cat(parts).view(*owner.x.shape[:2], -1).sum(1)


def _each(owner: Owner, x: Tensor, head: Head) -> Tensor:
    """(N, d) of pictures (N, C, H, W)."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        r = owner.client.features(leaf, head)
        lengths = [
            torch.autograd.grad(r[:, f].sum(), leaf, retain_graph=True)[0].flatten(1).norm(dim=1)
            for f in range(r.shape[1])
        ]
    return torch.stack(lengths, 1) / r.detach().abs().clamp_min(1e-12)
