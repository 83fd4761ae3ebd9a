"""A defended system as it is served: what scenarios play against."""

from dataclasses import dataclass, field

from torch import nn

from robustsuite.config.threats import Access
from robustsuite.serve.data import InputSpace


@dataclass(frozen=True)
class System:
    """The served network; what it hides from a white-box adversary, and the stand-in to attack through as well.

    eot: gradient draws an attack averages over where the user does not say. adapts: it changes with what it is asked.
    under: the network below the defenses, where one of them may reject by a row of NaN; None where nothing may.
    shows: what the model gives anybody at the most. grid: pictures reach it in 8 bits a value.
    """

    net: nn.Module = field(repr=False)
    space: InputSpace
    stochastic: bool = False
    hides: Access = Access.NONE
    surrogate: nn.Module | None = field(default=None, repr=False)
    device: str = "cpu"
    eot: int = 1
    adapts: bool = False
    shows: Access = Access.WHITE_BOX
    grid: bool = False
    under: nn.Module | None = field(default=None, repr=False)
