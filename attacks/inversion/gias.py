"""GIAS: search a generator's codes, then its weights, one copy a client.

Jeon et al. (2021, arXiv:2110.14962), section 3: z by Adam on the cosine cost; then, from the best z, the generator's
parameters, whose space holds pictures that no code makes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call, vmap

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import INVERSION
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.generators import CODE, trained_generator
from robustsuite.methods.federated.gradient_matching import (
    Best,
    Observed,
    Recovered,
    Row,
    Schedule,
    Variables,
    adam,
    chosen,
    cosine,
    cost,
    evaluator,
    hidden,
    ramp,
    starts,
    total_variation,
)  # fmt: skip
from robustsuite.methods.federated.label_recovery import recovered
from robustsuite.scenarios import inversion
from robustsuite.serve.adversary import Aux

Make = Callable[[Variables, Row], Tensor]


def _cost(*, iterations: int, restarts: int, **_: object) -> Cost:
    return cost(iterations=iterations, restarts=restarts, stages=2)


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE | Access.AUX_DATA,
    paper="Jeon et al., 2021, arXiv:2110.14962",
    cost=_cost,
    **INVERSION,
    differs=("the generator is a small one trained on the adversary's own pictures", "both stages get `iterations`"),
)
def gias(
    seen: Observed, *, rng: Rng, aux: Aux, iterations: int = 500, restarts: int = 2, lr: float = 0.1,
    lr_weights: float = 1e-3, tv: float = 1e-4, epochs: int = 20,
) -> Recovered:  # fmt: skip
    """Codes, then weights, of a generator trained for `epochs` on aux.pictures.

    Returns pictures (T, B, C, H, W) in [0, 1]. Source: arXiv:2110.14962.
    """
    device = str(next(iter(seen.update.values())).device)
    return search(
        seen, trained_generator(aux.pictures, epochs=epochs, device=device), rng=rng, restarts=restarts, tv=tv,
        code=Schedule(iterations, lr, ramp), weights=Schedule(iterations, lr_weights, ramp),
    )  # fmt: skip


def search(
    seen: Observed, generator: nn.Sequential, *, rng: Rng, restarts: int, tv: float, code: Schedule, weights: Schedule,
) -> Recovered:  # fmt: skip
    """The same with any generator from codes (N, 128)."""
    y = recovered(seen)
    own = {k: p.detach() for k, p in generator.named_parameters()}

    def stage(make: Make, start: Variables, rows: Row, schedule: Schedule) -> Best:
        def objective(v: Variables, row: Row) -> tuple[Tensor, Tensor]:
            x = make(v, row)
            match = cosine(seen.informed(seen.client.update(x, row["y"]), row["observed"]), row["observed"])
            return match + tv * total_variation(hidden(x)), match

        return adam(start, evaluator(seen, objective, {"y": y, **rows}), schedule)

    z = starts(rng, restarts, seen.shape[0], CODE).to(next(iter(seen.update.values())))
    first = stage(lambda v, row: generator(v["z"]), {"z": z}, {}, code)
    z = chosen(first.variables["z"], first).nan_to_num()
    copies = {k: p.expand(len(seen), 1, *p.shape) for k, p in own.items()}
    second = stage(lambda v, row: functional_call(generator, v, (row["z"],)), copies, {"z": z}, weights)
    made = vmap(lambda w, own: functional_call(generator, w, (own,)))
    pictures = made({k: w[:, 0] for k, w in second.variables.items()}, z)
    found = chosen(pictures[:, None], second)
    return Recovered(found, y, (code.iterations + 1) * restarts + weights.iterations + 1)
