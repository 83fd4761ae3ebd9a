"""Norms and projections onto norm balls around x, inside the box [0, 1]; x itself must lie in the box.

Nothing here is meant to be differentiated through: torch 2.14 gives `clamp` the gradient 0 at its bounds.
"""

import torch
from torch import Tensor

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""Of each norm the one that a linear function's slope is measured in."""


def norm(delta: Tensor, name: str) -> Tensor:
    """Length (N,) of rows (N, D) in the norm linf, l2, l1 or l0 (number of entries that are not 0)."""
    if name == "linf":
        return delta.abs().amax(1) if delta.shape[1] else delta.new_zeros(len(delta))
    if name == "l2":
        return delta.square().sum(1).sqrt()
    return delta.abs().sum(1) if name == "l1" else (delta != 0).sum(1).to(delta.dtype)


def levels(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) as 8 bits a value hold them."""
    return (x * 255).round().clamp(0, 255) / 255


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """View (N,) as (N, 1, 1, ...) so that it broadcasts against `like` (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def chosen(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Entries of `new` where `which` (N, or broadcast against them) holds, else those of `old`; all of them finite.

    An interpolation by 0 or 1 is exact, and takes a third of the time of torch.where.
    """
    return torch.lerp(old, new, (per_row(which, old) if which.dim() == 1 else which).to(old.dtype))


def keep(kept: Tensor, new: Tensor, which: Tensor) -> Tensor:
    """Write the rows of `new` where `which` (N,) holds over those of `kept`, in place; both are finite."""
    return kept.lerp_(new, per_row(which, kept).to(kept.dtype))


def unit(direction: Tensor, name: str) -> Tensor:
    """Rows (N, ...) scaled to length 1 in the named norm; a zero row stays zero."""
    length = norm(direction.flatten(1), name)
    return direction / per_row(length.clamp_min(torch.finfo(direction.dtype).tiny), direction)


def largest(score: Tensor, k: int | Tensor) -> Tensor:
    """Mask of the k (one number, or one a row) largest entries of each row (N, ...)."""
    flat = score.flatten(1)
    rank = torch.empty_like(flat, dtype=torch.int64)
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank.scatter_(1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(flat))
    k = k[:, None] if isinstance(k, Tensor) else k
    return (rank < k).view_as(score)


def top_signs(grad: Tensor, k: Tensor) -> Tensor:
    """Signs of the k (N,) largest entries of each row by size (at least one, and ties with the last), else 0."""
    size = grad.abs().flatten(1)
    place = k.clamp(1, size.shape[1])[:, None] - 1
    least = size.sort(1, descending=True).values.gather(1, place)
    return grad.sign() * (size >= least).view_as(grad)


def steepest(x: Tensor, grad: Tensor, eps: float | Tensor, name: str) -> Tensor:
    """Where grad . (x_adv - x) is largest in the ball (linf, l2, l1); for linf and l1, in the box as well.

    eps: one number, or one a row (N,).
    """
    if name == "linf":
        return linf(x, x + _column(eps, x) * grad.sign(), eps)
    if name == "l2":
        return l2(x, x + _column(eps, x) * unit(grad, "l2"), eps)
    g = grad.flatten(1)
    order = g.abs().argsort(dim=1, descending=True, stable=True)
    room = torch.where(g > 0, 1 - x.flatten(1), x.flatten(1)) * (g != 0)
    sorted_room = room.gather(1, order).double()
    spent = _spent(_column(eps, g), sorted_room).to(x.dtype)
    change = torch.zeros_like(g).scatter_(1, order, spent) * g.sign()
    return (x + change.view_as(x)).clamp(0, 1)


def onto_plane(x: Tensor, way: Tensor, gap: Tensor, name: str) -> Tensor:
    """The change (N, C, H, W), least in linf, l2 or l1, that stays in the box and raises way . x by gap (N,).

    Where the box is too small for it, all the way to its walls (Croce & Hein, 2020, arXiv 1907.02044, section 2.3):
    how far an entry goes is min(t, room) in linf, min(t |way|, room) in l2, and in l1 the steepest go first.
    """
    toward = (way * per_row(gap.sign(), way)).flatten(1)
    steep = toward.abs().double()
    flat, gap = x.flatten(1).double(), gap.abs().double()[:, None]
    room = torch.where(toward > 0, 1 - flat, flat) * (toward != 0)
    if name == "l1":
        order = steep.argsort(dim=1, descending=True, stable=True)
        gains = (steep * room).gather(1, order)
        spent = _spent(gap, gains) / steep.gather(1, order).clamp_min(1e-300)
        far = torch.zeros_like(spent).scatter_(1, order, spent)
    else:
        pace = torch.ones_like(steep) if name == "linf" else steep
        ends, order = (room / pace.clamp_min(1e-300)).sort(dim=1)
        rates = (steep * pace).gather(1, order)
        left = rates.flip(1).cumsum(1).flip(1)  # of those that have not come to their wall when t is there
        before = (rates * ends).cumsum(1) - rates * ends
        short = (before + left * ends < gap).sum(1, keepdim=True)
        at = short.clamp_max(flat.shape[1] - 1)
        t = (gap - before.gather(1, at)) / left.gather(1, at).clamp_min(1e-300)
        far = torch.where(short == flat.shape[1], room, torch.minimum(t * pace, room))
    return (far * toward.sign()).to(x.dtype).view_as(x)


def _spent(total: float | Tensor, parts: Tensor) -> Tensor:
    """How much of each of parts (N, D) is used where `total`, one number or (N, 1), is spent in their order."""
    return (total - (parts.cumsum(1) - parts)).clamp_min(0).minimum(parts)


def _column(eps: float | Tensor, like: Tensor) -> float | Tensor:
    return per_row(eps, like) if isinstance(eps, Tensor) else eps


def linf(x: Tensor, x_adv: Tensor, eps: float | Tensor) -> Tensor:
    """Nearest point of the linf ball and box. eps: one number, or one a row (N,)."""
    eps = _column(eps, x)
    return torch.clamp(x_adv, x - eps, x + eps).clamp_(0, 1)


def walls(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each pixel in the linf ball and the box; clamping to them is `linf`."""
    return (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)


def l2(x: Tensor, x_adv: Tensor, eps: float | Tensor) -> Tensor:
    """Into the l2 ball by scaling, then into the box by clipping."""
    delta = x_adv - x
    length = per_row(norm(delta.flatten(1), "l2"), delta).clamp_min(1e-30)
    return delta.mul_((_column(eps, x) / length).clamp_max_(1)).add_(x).clamp_(0, 1)


def l1(x: Tensor, x_adv: Tensor, eps: float | Tensor, *, halvings: int = 32) -> Tensor:
    """Nearest point of l1 ball and box together: d = clip(shrink(d0, lambda)), lambda by bisection.

    The l1 length falls as lambda grows, so bisection on it converges; the upper end is kept, which is feasible.
    """
    delta = (x_adv - x).flatten(1)
    least, most = -x.flatten(1), 1 - x.flatten(1)
    radius = eps[:, None] if isinstance(eps, Tensor) else eps

    def shrunk(lam: Tensor) -> Tensor:
        shorter = delta.sign() * (delta.abs() - lam).clamp_min(0)
        return torch.minimum(torch.maximum(shorter, least), most)

    low = torch.zeros_like(delta[:, :1])
    high = delta.abs().amax(1, keepdim=True)
    outside = shrunk(low).abs().sum(1, keepdim=True) > radius
    for _ in range(halvings):
        mid = (low + high) / 2
        too_long = shrunk(mid).abs().sum(1, keepdim=True) > radius
        low, high = torch.where(too_long, mid, low), torch.where(too_long, high, mid)
    return (x + shrunk(torch.where(outside, high, 0.0)).view_as(x)).clamp(0, 1)


def l0(x: Tensor, x_adv: Tensor, eps: float | Tensor) -> Tensor:
    """Keep each row's eps largest changes (after clipping to the box), undo the others."""
    inside = x_adv.clamp(0, 1)
    k = eps.to(torch.int64) if isinstance(eps, Tensor) else int(min(eps, x[:1].numel()))
    return torch.where(largest((inside - x).abs(), k), inside, x)


def project(x: Tensor, x_adv: Tensor, eps: float | Tensor, name: str) -> Tensor:
    """Projection by the norm's name: linf, l2, l1, l0."""
    return {"linf": linf, "l2": l2, "l1": l1, "l0": l0}[name](x, x_adv, eps)
