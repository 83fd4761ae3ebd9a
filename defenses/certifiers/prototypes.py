"""Certificates of a network of prototypes in closed form: the l2 radius within which its answer cannot change.

Saralajew, Rana, Villmann, Shaker (2025, arXiv 2412.15499); `methods/prototypes.py` derives the radius. Of two
components that are argued for by one class each it is half the difference of the distances to them, as of learning
vector quantisation, and exact on the line between them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import PROOF
from robustsuite.config.threats import L2, Access
from robustsuite.errors import Unsupported
from robustsuite.methods.prototypes import Parts, Reasoning, agreement, margin, said, similarities
from robustsuite.scenarios.certification import Certificates, certifier


@certifier(
    paper="Saralajew et al., 2025, arXiv:2412.15499",
    needs=Access.WEIGHTS,
    norms=("l2",),
    cost=lambda **_: Cost(forwards=1),
    **PROOF,
)
def prototypes(net: nn.Module, x: Tensor, y: Tensor, budget: L2) -> Certificates:
    """Proven l2 radii (N,) float64, in [0, 1] pixels, of a network trained by prototype_network; worked out in float64.

    Raises Unsupported for any other network and norm. Source: arXiv 2412.15499.
    """
    if budget.norm != "l2":
        raise Unsupported(f"expected an l2 budget for prototypes, got {budget}; write budget: {{l2: 0.5}}")
    if not isinstance(net, Reasoning):
        raise Unsupported(
            f"expected a network of prototypes, got {type(net).__name__}; add the defense prototype_network"
        )
    with torch.no_grad():
        components, positive, negative, sigma, each = net.parts()
        parts = Parts(components.double(), positive.double(), negative.double(), sigma.double(), each)
        s = similarities(parts, x.double())
        prediction = said(parts, agreement(parts, s)).argmax(1)
        return Certificates(prediction, margin(parts, s, prediction).clamp(min=0))
