"""Float32 means float32 wherever a cell is played, and the caller's own setting comes back."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from robustsuite.app.api import evaluate
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.numerics import float32
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.evasion import attack
from robustsuite.serve.oracle import Oracle
from tests.toys import labelled, linear


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_the_same_bits_are_asked_of_cudnn() -> None:
    before = torch.backends.cudnn.deterministic
    with float32():
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.deterministic == before


@pytest.fixture
def tf32() -> Iterator[None]:
    """A caller who lets CUDA round."""
    before = allowed()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_it_ends_with_the_callers_setting_whatever_happens_inside() -> None:
    @float32()
    def falls() -> None:
        assert allowed() == (False, False)
        raise ValueError("fell over")

    with pytest.raises(ValueError, match="fell over"):
        falls()
    assert allowed() == (True, True)


@pytest.mark.usefixtures("tf32")
def test_attacks_are_played_without_it() -> None:
    seen = []

    @attack(needs=Access.SCORES, norms=("linf",))
    def looks(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng) -> Tensor:
        """Looks around."""
        seen.append(allowed())
        return x

    split = labelled(linear())
    evaluate(linear(), split.images(torch.arange(24)), split.y, attack=looks)
    assert seen == [(False, False)]
    assert allowed() == (True, True)
