"""What a model's own answers betray: cheap questions asked before any attack, after section 3 of Croce & Hein.

Sources: Croce & Hein, 2020, "Reliable evaluation of adversarial robustness", arXiv:2003.01690 (randomised, softmax
outputs); Croce et al., 2022, arXiv:2202.13711 (answers that depend on the batch); Athalye et al., 2018,
arXiv:1802.00420 (gradients that vanish).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.data import InputSpace
from robustsuite.errors import BadModel


def fits(net: nn.Module, space: InputSpace, name: str) -> None:
    """Ask one blank picture (1, C, H, W). Raises BadModel unless (1, classes) finite numbers come back."""
    try:
        with torch.no_grad():
            out = net(torch.full((1, *space.shape), 0.5, device=_device(net)))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        shape = "x".join(map(str, space.shape))
        raise BadModel(
            f"expected {name} to take {shape} pictures, got an error: {line}; choose data or model to fit"
        ) from error
    checked(out, space, name)


def checked(out: object, space: InputSpace, name: str) -> Tensor:
    """The logits (N, classes). Raises BadModel where they are none."""
    if not isinstance(out, Tensor) or out.ndim != 2:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise BadModel(
            f"expected logits (pictures, classes) from {name}, got {got}; return one tensor of two dimensions"
        )
    if out.shape[1] != space.classes:
        raise BadModel(
            f"expected a {space.classes}-class model for {space.classes}-class data, got {name} with {out.shape[1]} "
            f"classes; choose data or model to fit"
        )
    if not bool(torch.isfinite(out).all()):
        raise BadModel(f"expected finite logits from {name}, got NaN or infinity; check weights and normalisation")
    return out


def _device(net: nn.Module) -> torch.device:
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device
