"""NaN and infinite logits: a wrong answer that is flagged, unless a defense that may reject gave them on purpose."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.fgsm import fgsm
from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.attacks.evasion.square import square
from robustsuite.config.goals import Goal, Targeted, Untargeted
from robustsuite.config.registry import DefenseCard
from robustsuite.config.threats import Access, Linf, PoisonRate, Threat
from robustsuite.defenses.certifiers.lirpa import lirpa
from robustsuite.errors import BadModel
from robustsuite.integrity.checks import grade
from robustsuite.integrity.probes import probe
from robustsuite.integrity.tampering import Tampered
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.detection import Detector
from robustsuite.scenarios import certification, evasion, poisoning, shift
from robustsuite.scenarios.record import Record
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Dataset, Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, ready, weights_sha256
from robustsuite.serve.stages import Applied
from robustsuite.serve.system import System
from tests.toys import SPACE, linear, pictures, system

N, EPS, EDGE = 40, 0.05, 0.4
"""Steps are too short to change the class of a toy of this scale, and long enough to darken a pixel past the edge."""


class Logged(nn.Module):
    """The linear toy, and nothing but NaN (or `to`) where the first pixel is darker than EDGE: 0 log(x - EDGE)."""

    def __init__(self, only: int | None = None, to: float = torch.nan) -> None:
        super().__init__()
        self.net, self.only, self.value = linear(scale=0.01), only, to
        with torch.no_grad():
            self.net[1].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x) + 0 * (x[:, 0, 0, 0, None] - EDGE).log()
        z = torch.where(z.isnan(), self.value, z)
        return z if self.only is None else torch.where(torch.arange(3) == self.only, z, self.net(x))


def split(dark: int = 0) -> Split:
    """Pictures of class 0, their first pixels from EDGE + 0.005 upwards, `dark` of them below EDGE."""
    x = pictures(N)
    x[:, 0, 0, 0] = EDGE + 0.005 + 0.3 * torch.arange(N) / N
    x[:dark, 0, 0, 0] = EDGE - 0.1
    return Split.of(x, torch.zeros(N, dtype=torch.int64))


def rng(n: int = N) -> Rng:
    return Rng.of(0, "undefined", torch.arange(n))


def attacked(attack: Any, served: System, seen: Split, goal: Goal | None = None, **given: object) -> Record:
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(EPS), goal=goal or Untargeted())
    return evasion.judged(
        served, partial(attack, **given), seen, threat, rng(len(seen)), width=16, card=attack.card
    )  # fmt: skip


def names(record: Record) -> dict[str, str]:
    return {flag.name: flag.level for flag in record.flags}


REACHABLE = split().images(torch.arange(N))[:, 0, 0, 0] - EPS < EDGE
ATTACKS = [(pgd, {"steps": 10}), (fgsm, {}), (square, {"steps": 300})]


@pytest.mark.parametrize("only", [None, 0, 2])
@pytest.mark.parametrize("to", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("repeats", [False, True], ids=["once", "random"])
def test_what_is_no_number_is_a_wrong_answer(only: int | None, to: float, repeats: bool) -> None:
    net, seen = ready(Logged(only, to)), split(dark=7)
    found = Judge(net, stochastic=repeats)(seen.images(torch.arange(N)), seen.y, rng())
    assert found.undefined.tolist() == found.wrong.tolist() == [True] * 7 + [False] * (N - 7)
    assert torch.equal(found.held, ~found.wrong)
    assert not bool(found.rejected.any())
    assert bool(found.confidence.isfinite().all())


@pytest.mark.parametrize(("attack", "given"), ATTACKS, ids=["pgd", "fgsm", "square"])
def test_an_attack_that_drives_a_net_to_nan_has_broken_it(attack: Any, given: dict[str, object]) -> None:
    """PGD and FGSM follow a gradient that says nothing of the first pixel: by its sign it darkens or not."""
    record = attacked(attack, system(ready(Logged())), split(), **given)
    c = record.columns
    assert bool(c["clean_ok"].all())
    assert torch.equal(~c["robust"], c["undefined"])  # nothing else is in reach
    assert bool((c["undefined"] <= REACHABLE).all())
    assert not bool(c["rejected"].any())
    if attack is square:
        assert int(c["undefined"].sum()) >= 3
        assert names(record)["undefined_answers"] == "fail"
        assert grade(record.flags) == "INVALID"


@pytest.mark.parametrize(("attack", "given"), ATTACKS[::2], ids=["pgd", "square"])
@pytest.mark.parametrize("goal", [Untargeted(), Targeted()], ids=str)
def test_an_attack_keeps_the_point_of_nan_that_it_passes(attack: Any, given: dict[str, object], goal: Goal) -> None:
    """A net that is undefined nearly everywhere but at the pictures themselves: no iterate is any other."""
    seen = split()
    clean = seen.images(torch.arange(N))

    class Islands(Logged):
        def forward(self, x: Tensor) -> Tensor:
            near = (x[:, None] - clean[None]).flatten(2).abs().amax(2).amin(1) < 1e-3
            return torch.where(near[:, None], self.net(x), torch.nan)

    if attack.card.goals == ("untargeted",) and goal.name != "untargeted":
        pytest.skip("works towards no class")
    record = attacked(attack, system(ready(Islands())), seen, goal, **given)
    assert not bool(record.columns["robust"].any())
    assert bool(record.columns["undefined"].all())
    assert grade(record.flags) == "INVALID"


def test_clean_pictures_without_an_answer_are_flagged_in_every_cell() -> None:
    served = system(ready(Logged()))
    for dark, expected in ((0, "SOUND"), (1, "PROVISIONAL"), (7, "INVALID")):
        seen = split(dark)
        for record in (
            shift.judged(served, seen, rng(), width=16),
            attacked(pgd, served, seen, steps=1, restarts=1),
            certified(served, seen),
        ):
            found = [flag for flag in record.flags if flag.name == "undefined_answers"]
            if "in_budget" not in record.columns:  # else PGD finds more
                assert grade(found) == expected
            robust = record.columns["robust"]
            assert not bool(robust[:dark].any())
            assert ("undefined" in record.columns) == bool(found)


def certified(served: System, seen: Split, eps: float = 1e-3, certifier: Any = None) -> Record:
    context: Any = SimpleNamespace(
        served=lambda: served, split=seen, threat=Threat("t", "certification", Access.WHITE_BOX, Linf(eps)),
        rng=rng(), attack=certifier or toy_certifier, card=SimpleNamespace(name="toy"), width=16,
    )  # fmt: skip
    return certification.conclude(context, certification.play(context))


def toy_certifier(net: nn.Module, x: Tensor, y: Tensor, budget: Linf) -> certification.Certificates:
    """Claims everything; an argmax over NaN names the class of the NaN."""
    with torch.no_grad():
        return certification.Certificates(net(x).argmax(1), torch.full((len(x),), budget.eps))


def test_a_certifier_that_touches_the_network_has_no_number() -> None:
    net = linear()

    def cheats(net: nn.Module, x: Tensor, y: Tensor, budget: Linf) -> certification.Certificates:
        for weight in net.parameters():
            weight.data.zero_()
        return toy_certifier(net, x, y, budget)

    before = net(split(0).images(torch.arange(2)))
    with pytest.raises(Tampered, match="the certifier toy to leave alone what it is judged by"):
        certified(system(net), split(0), certifier=cheats)
    assert torch.equal(net(split(0).images(torch.arange(2))), before)


def test_a_proof_about_no_answer_is_none() -> None:
    served = system(ready(Logged(only=0)))
    c = certified(served, split(dark=7)).columns
    assert c["undefined"].tolist() == [True] * 7 + [False] * (N - 7)
    assert not bool(c["clean_ok"][:7].any() | c["robust"][:7].any() | (c["radius"][:7] > 0).any())
    assert not bool(c["abstained"].any())
    record = certified(served, split(), eps=0.03)  # some balls reach past the edge
    assert "proof_contradicted" in names(record)


def test_lirpa_proves_nothing_of_nan() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale = linear(), nn.Linear(3, 3)
            with torch.no_grad():
                self.scale.weight.copy_(1e38 * torch.ones(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(1e3 * self.net(x))

    x = pictures(4)
    found = lirpa(ready(Broken()), x, torch.zeros(4, dtype=torch.int64), Linf(1e-6))
    assert found.prediction.tolist() == [-1] * 4
    assert found.radius.tolist() == [0.0] * 4


def test_a_backdoor_whose_trigger_makes_nan_succeeds() -> None:
    def trigger(x: Tensor, ids: Tensor, streams: Rng) -> Tensor:
        return x.index_fill(3, torch.tensor(0), 0.0)

    threat = Threat("t", "poisoning", Access.TRAIN_SET, goal=Targeted(), poison=PoisonRate(0.1), target=2)
    found = Poisoned(split(), torch.arange(4), trigger)
    record = poisoning.judged(system(ready(Logged())), found, split(), threat, rng(), width=16)
    assert bool(record.columns["triggered_as_target"].all())
    assert not bool(record.columns["flagged"].any())
    assert names(record)["undefined_answers"] == "fail"


def test_the_probe_says_so_before_anybody_attacks() -> None:
    x = split(dark=7).images(torch.arange(N))
    y = torch.zeros(N, dtype=torch.int64)
    for net in (Logged(), Logged(only=0), Logged(to=torch.inf)):
        levels = {flag.name: flag.level for flag in probe(ready(net), x, y, SPACE)}
        assert levels["undefined_answers"] == "fail"
    assert "undefined_answers" not in {f.name for f in probe(ready(Logged()), x, y, SPACE, rejects=True)}
    assert "undefined_answers" in {f.name for f in probe(ready(Logged(only=0)), x, y, SPACE, rejects=True)}
    with pytest.raises(BadModel, match="every picture"):
        probe(ready(Logged()), x[:7], y[:7], SPACE)


class Dark(nn.Module):
    """More suspicious the darker the first pixel is."""

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        return 1 - x[:, 0, 0, 0]


def detecting(net: nn.Module) -> nn.Module:
    """Rejects first pixels darker than EDGE."""
    served = Detector(net, Dark())
    served.threshold.fill_(1 - EDGE)
    return ready(served)


def lifecycle(net: nn.Module, defense: Any, **facts: bool) -> System:
    card = DefenseCard("defense", "toy", defense, "serve", **facts)
    data = Dataset("toy", SPACE, ("a", "b", "c"), {"test": split()})
    return Lifecycle(Model("toy", net, SPACE, weights_sha256(net)), data, (Applied(card),)).served()


def test_a_defense_that_rejects_keeps_its_meaning() -> None:
    base = ready(Logged().net)
    for served in (
        lifecycle(base, detecting),
        lifecycle(base, lambda net: nn.Sequential(detecting(net)), rejects=True),
    ):
        assert served.under is not None
        record = attacked(square, served, split(), steps=300)
        assert "undefined" not in record.columns
        assert "undefined_answers" not in names(record)
        assert bool(record.columns["robust"].all())
        shifted = shift.judged(served, split(dark=7), rng(), width=16)
        assert shifted.columns["rejected"].tolist() == [True] * 7 + [False] * (N - 7)
        assert "undefined_answers" not in names(shifted)


def test_the_same_from_a_defense_that_does_not_say_so_is_flagged() -> None:
    served = lifecycle(ready(Logged().net), lambda net: nn.Sequential(detecting(net)))
    assert served.under is None
    record = shift.judged(served, split(dark=7), rng(), width=16)
    assert names(record)["undefined_answers"] == "fail"


def test_a_detector_in_front_does_not_excuse_the_nan_of_the_network() -> None:
    """The network is undefined exactly where the detector rejects, and one logit of it in the second case."""
    for net in (Logged(), Logged(only=1)):
        served = lifecycle(ready(net), detecting)
        record = shift.judged(served, split(dark=7), rng(), width=16)
        assert record.columns["undefined"].tolist() == [True] * 7 + [False] * (N - 7)
        assert not bool(record.columns["rejected"].any() | record.columns["robust"][:7].any())
        assert grade(record.flags) == "INVALID"
