"""The pretended device refuses what CUDA refuses, allows what it allows, counts what would wait, leaves no trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from robustsuite.app.api import evaluate
from robustsuite.config.threats import Linf
from tests.device.battery import REAL
from tests.device.pretended import CUDA, Pretended
from tests.toys import labelled, linear

pytestmark = pytest.mark.skipif(bool(REAL), reason="the real device speaks for itself")


def here() -> torch.Tensor:
    """Four numbers on the device."""
    return torch.arange(4.0).to("cuda")


REFUSED = {
    "two devices meet": (lambda: here() + torch.ones(4), "same device"),
    "a CPU tensor indexed by the device's": (lambda: torch.arange(4)[here().long()], "indices should be"),
    "a value written from the CPU": (lambda: here().index_put_((here().long(),), torch.ones(4)), "same device"),
    "a number of the device added into the CPU's": (lambda: torch.zeros(()).add_(here().sum()), "same device"),
    "a CPU row gathered": (lambda: here().gather(0, torch.arange(4)), "same device"),
    "concatenated": (lambda: torch.cat([here(), torch.ones(1)]), "same device"),
    "numpy": (lambda: np.asarray(here()), "convert cuda:0"),
    "another device's generator": (lambda: torch.rand(2, device="cuda", generator=torch.Generator()), "generator"),
    "the device's generator on the CPU": (lambda: torch.rand(2, generator=torch.Generator("cuda")), "generator"),
    "integers multiplied as matrices": (lambda: here().long()[None] @ here().long()[:, None], "not implemented"),
}  # fmt: skip

ALLOWED = {
    "a number held on the CPU": lambda x: x * torch.tensor(2.0),
    "indexed by a CPU tensor": lambda x: x[torch.tensor([1, 2])],
    "indexed by a list": lambda x: x[[1, 2]],
    "a CPU number written": lambda x: x.index_put((torch.tensor([0]),), torch.tensor(1.0)),
    "a slice of the CPU's filled": lambda x: torch.zeros(4)[1:].copy_(x[1:]),
    "its own generator": lambda x: torch.rand(2, device=x.device, generator=torch.Generator(x.device).manual_seed(0)),
    "made there": lambda x: torch.zeros(2, device=x.device) + torch.tensor([1.0, 2.0], device=x.device),
    "data replaced": lambda x: replaced(x),
    "a shape changed in place": lambda x: x[None].clone().squeeze_(0).unsqueeze_(1) * torch.ones_like(x[:, None]),
    "quantile": lambda x: x.quantile(0.5),
    "fourier": lambda x: torch.fft.irfft(torch.fft.rfft(x).conj()),
}  # fmt: skip


def replaced(x: torch.Tensor) -> torch.Tensor:
    """As old code updates a weight."""
    y = torch.zeros_like(x)
    y.data = copy.deepcopy(x.data)
    return y


@pytest.mark.parametrize("case", REFUSED)
def test_what_cuda_refuses(case: str) -> None:
    play, words = REFUSED[case]
    with Pretended(), pytest.raises((RuntimeError, TypeError), match=words):
        play()


@pytest.mark.parametrize("case", ALLOWED)
def test_what_cuda_allows_with_the_values_of_the_cpu(case: str) -> None:
    with Pretended():
        found = ALLOWED[case](here()).cpu()
    assert torch.equal(found, ALLOWED[case](torch.arange(4.0)))


@pytest.mark.parametrize(
    ("play", "waits"),
    [
        (lambda x: x.sum() > 0, 0), (lambda x: bool(x.sum() > 0), 1), (lambda x: x[x > 1], 1), (lambda x: x.cpu(), 1),
        (lambda x: x.tolist(), 1), (lambda x: x.nonzero(), 1), (lambda x: x + torch.ones(4).to("cuda"), 1),
        (lambda x: x[torch.tensor([0])], 1), (lambda x: torch.where(x > 1, x, 0.0), 0), (lambda x: x.sort(), 0),
    ],
)  # fmt: skip
def test_what_waits_is_counted(play: object, waits: int) -> None:
    with Pretended() as gpu:
        x = here()
        gpu.reset()
        play(x)  # type: ignore[operator]
        assert sum(gpu.waits.values()) == waits


def test_launches_are_the_networks_or_ones_own_and_questions_are_counted() -> None:
    with Pretended() as gpu:
        net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to("cuda"), here()[None]
        gpu.reset()
        net(x) * 2
        assert (gpu.questions, gpu.launches["own"]) == (1, 1)
        assert gpu.launches["network"] >= 2


def test_a_module_trains_copies_and_comes_back() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    with Pretended():
        there = copy.deepcopy(net).to("cuda")
        optimiser = torch.optim.SGD(there.parameters(), 0.1)
        there(here()[None]).sum().backward()
        optimiser.step()
        twin = copy.deepcopy(there).double()
        assert next(twin.parameters()).device == CUDA
        back = there.to("cpu")
    net(torch.arange(4.0)[None]).sum().backward()
    torch.testing.assert_close(back.weight, net.weight - 0.1 * net.weight.grad)


def test_it_leaves_no_trace() -> None:
    before = torch.Generator, torch.cuda.is_available(), nn.Module.__call__, torch.tensor
    with Pretended():
        assert torch.cuda.is_available()
        assert isinstance(torch.Generator("cuda"), torch.Generator)
    assert before == (torch.Generator, torch.cuda.is_available(), nn.Module.__call__, torch.tensor)


@pytest.mark.parametrize("at", ["the net", "the pictures", "named"])
def test_evaluate_takes_pictures_and_nets_of_any_device(at: str) -> None:
    split = labelled(linear())
    x, y = split.images(torch.arange(24)), split.y
    expected = evaluate(linear(), x, y, budget=Linf(0.05), steps=4)
    with Pretended():
        net = linear().to("cuda") if at == "the net" else linear()
        x, y = (x.to("cuda"), y.to("cuda")) if at == "the pictures" else (x, y)
        found = evaluate(net, x, y, budget=Linf(0.05), steps=4, device="cuda" if at == "named" else None)
        assert next(net.parameters()).is_cuda == (at == "the net")
    assert torch.equal(found.columns["robust"], expected.columns["robust"])
    assert found.flags == expected.flags
