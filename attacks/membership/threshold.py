"""One signal and one threshold for all: what was learnt is answered surely (Yeom et al., 2018; Song & Mittal, 2021)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import MEMBERSHIP
from robustsuite.config.threats import Access
from robustsuite.errors import UnknownName
from robustsuite.maths.randomness import Rng
from robustsuite.methods.membership import SIGNALS, asked
from robustsuite.scenarios import membership
from robustsuite.serve.oracle import Oracle


@membership.attack(
    needs=Access.SCORES,
    paper="Yeom et al., 2018, arXiv:1709.01604; Song & Mittal, 2021, arXiv:2003.10595",
    cost=lambda classes, signal: Cost(1),
    differs=("one threshold for all classes, which the report moves along the curve; Song & Mittal have one a class",),
    **MEMBERSHIP,
)
def threshold(model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, signal: str = "loss") -> Tensor:
    """A signal of the answer, by which all examples are compared.

    signal: loss, confidence, scaled_logit, margin, entropy, modified_entropy or correctness. Raises UnknownName.
    """
    if signal not in SIGNALS:
        raise UnknownName("signal", signal, SIGNALS)
    return SIGNALS[signal](asked(model, x), y)
