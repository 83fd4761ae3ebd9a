"""Analytic inversion of a first linear layer with bias: its gradient holds the picture in every row.

For a = W x + b, dW_i = da_i x^T and db_i = da_i, hence x = dW_i / db_i: exact for one picture (Phong et al., 2018,
"Privacy-preserving deep learning via additively homomorphic encryption", section III; Geiping et al., 2020,
arXiv:2003.14053, proposition 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import INVERSION
from robustsuite.config.threats import Access
from robustsuite.errors import Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.gradient_matching import Observed, Recovered
from robustsuite.methods.federated.label_recovery import recovered
from robustsuite.scenarios import inversion
from robustsuite.serve.models import Normalised


def _cost(**_: object) -> Cost:
    return Cost(0, 0)


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE, paper="Geiping et al., 2020, arXiv:2003.14053", cost=_cost,
    **INVERSION,
)  # fmt: skip
def analytic(seen: Observed, *, rng: Rng) -> Recovered:
    """x = dW_i / db_i at the row of largest |db_i|, per client. For one picture and one local step.

    Returns pictures (T, 1, C, H, W), not cut. Raises Unsupported unless the first layer is linear with a bias, or for
    batches of several. Source: arXiv:2003.14053.
    """
    net, pixels = seen.client.net, math.prod(seen.shape[1:])
    first = next(((k, m) for k, m in net.named_modules() if list(m.parameters(recurse=False))), None)
    if first is None or not isinstance(first[1], nn.Linear) or first[1].bias is None or seen.shape[0] > 1 or (
        first[1].in_features != pixels
    ):  # fmt: skip
        raise Unsupported("expected one picture a client and a first layer that is linear with bias; use dlg")
    prefix = f"{first[0]}." if first[0] else ""
    dw, db = seen.update[f"{prefix}weight"], seen.update[f"{prefix}bias"]
    row = db.abs().argmax(1)
    clients = torch.arange(len(seen), device=db.device)
    entered = (dw[clients, row] / db[clients, row, None]).view(len(seen), *seen.shape)
    return Recovered(_pixels(entered, net), recovered(seen))


def _pixels(entered: Tensor, net: nn.Module) -> Tensor:
    for module in net.modules():
        if isinstance(module, Normalised):
            return entered * module.std + module.mean
    return entered
