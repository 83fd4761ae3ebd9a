"""Knockoff Nets (Orekondy et al., 2019): ask about pictures of one's own at random, and train on the answers."""

from __future__ import annotations

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import EXTRACTION
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.scenarios import extraction
from robustsuite.scenarios.extraction import ALL, EPOCHS, LR, Stolen, Thief, Victim


@extraction.attack(
    needs=Access.LABELS | Access.AUX_DATA,
    paper="Orekondy et al., 2019, arXiv:1812.02766",
    cost=lambda classes, epochs, lr: Cost(ALL, 2 * epochs),
    differs=(
        "a half cosine of SGD with Nesterov's momentum of 0.9; the authors': momentum 0.5, the rate cut tenfold after "
        "60 epochs",
        "the last epoch counts; theirs keeps the one that is best on the victim's test pictures",
        "the network is drawn anew at each budget of the curve, where the authors' goes on from the last",
        "no picture is asked about twice: with fewer pictures than queries the rest are not asked",
        "the strategy is random; the adaptive adversary of the authors' repository draws at random as well",
    ),
    **EXTRACTION,
)
def knockoff(victim: Victim, own: Thief, *, epochs: int = EPOCHS, lr: float = LR) -> Stolen:
    """Pictures of the pool in a drawn order, answered once; cross-entropy with scores, or with classes where hard.

    lr: the first of a half cosine. Raises BadValue without a pool.
    """
    if own.pool is None:
        raise BadValue("expected pictures of one's own for knockoff, got none; grant aux_data")
    rows = own.order()[: victim.left()]
    x = own.pool.images(rows)
    return own.curve(x, victim.ask(x), epochs, lr)
