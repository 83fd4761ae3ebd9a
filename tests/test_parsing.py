"""Model parsing: what a network is made of is read from what it does, and guesses are held against that alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.benchmarks.models.small_nets import build
from robustsuite.config.registry import card_of
from robustsuite.defenses.harden.magnitude_pruning import magnitude_pruning
from robustsuite.engine.plan import decide, plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadValue, Unsupported, UsageError
from robustsuite.integrity.checks import CHECKS
from robustsuite.methods.attributes import ACTIVATIONS, COMBINATIONS, KERNELS, SPARSITIES, Attributes, attributes_of
from robustsuite.records.cells import read_cell
from robustsuite.scenarios.parsing import observer
from robustsuite.scenarios.parsing.observer import Examples, checked
from robustsuite.scenarios.parsing.played import judged
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Training
from robustsuite.serve.training import fitted, untrained

SPACE = InputSpace(3, 8, 8, 4)


def cut(net: nn.Module, share: float) -> nn.Module:
    """The same with this share of its convolutions' weights at zero."""
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.flatten()[: round(share * m.weight.numel())] = 0
    return net.eval()


@pytest.mark.parametrize("kind", COMBINATIONS, ids=str)
def test_what_a_network_is_made_of_is_read_from_it(kind: Attributes) -> None:
    net = cut(build(f"cnn_{kind.kernel}_{kind.activation}", SPACE), kind.sparsity)
    found = attributes_of(net, SPACE.shape)
    assert found[:2] == kind[:2]
    assert found.sparsity == pytest.approx(kind.sparsity, abs=0.01)
    assert found.classes().tolist() == [KERNELS.index(kind.kernel), ACTIVATIONS.index(kind.activation),
                                        SPARSITIES.index(kind.sparsity)]  # fmt: skip


class Functional(nn.Module):
    """A 3x3 and a 1x1 convolution, and an activation that is no module."""

    def __init__(self, act: str = "relu_", kernel: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, kernel), act

    def forward(self, x: Tensor) -> Tensor:
        act = getattr(torch, self.act, None) or getattr(functional, self.act)
        out: Tensor = act(self.b(act(self.a(x)))).mean((2, 3))
        return out


def test_functions_count_as_modules_do_and_shortcuts_do_not() -> None:
    assert attributes_of(Functional("relu_", 1), SPACE.shape)[:2] == (3, "relu")
    assert attributes_of(build("scenes_resnet", SPACE).eval(), SPACE.shape)[:2] == (3, "relu")


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Functional("relu", 5), "got 3x3, 5x5"), (Functional("gelu"), "got gelu"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "got no convolution"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh()), "got relu, tanh"),
        (nn.Sequential(nn.Conv2d(3, 4, 4), nn.ReLU()), "got 4x4"),
        (cut(build("cnn_3_elu", SPACE), 0.2), "got 20.0%"),
    ],
)  # fmt: skip
def test_what_is_of_no_class_is_said_in_a_sentence(net: nn.Module, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        attributes_of(net, SPACE.shape)


def test_pruning_cuts_the_smallest_weights_and_keeps_them_cut() -> None:
    net = untrained(build("cnn_3_relu", SPACE), 3)
    train = Split.of(torch.rand(64, *SPACE.shape, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4)
    pruned = magnitude_pruning(net, Training(train, train, 0), sparsity=0.375, epochs=1)
    assert attributes_of(pruned, SPACE.shape).sparsity == pytest.approx(0.375, abs=1e-3)
    before, after = (torch.cat([m.weight.flatten() for m in n.modules() if isinstance(m, nn.Conv2d)]).detach()
                     for n in (net, pruned))  # fmt: skip
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert not torch.equal(before[after != 0], after[after != 0])
    with pytest.raises(BadValue, match=r"expected a sparsity in \[0, 1\)"):
        magnitude_pruning(net, Training(train, train, 0), sparsity=1.0)


TRUTH = Attributes(5, "tanh", 0.625)
N = 600


def of_others(n: int = 2700) -> Tensor:
    """What n pictures' nets are made of, all combinations alike."""
    return torch.stack([kind.classes() for kind in COMBINATIONS]).repeat(n // 27, 1)


def test_a_guesser_is_right_on_a_third_and_its_numbers_are_no_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    guesses, held = (torch.randint(3, (n, 3), generator=generator) for n in (N, 2700))
    record = judged(TRUTH, guesses, torch.ones(N).bool(), held, of_others())
    for name in ("kernel", "activation", "sparsity"):
        share = float(record.columns[f"{name}_ok"].float().mean())
        assert abs(share - 1 / 3) < 4 * (2 / 9 / N) ** 0.5
    assert abs(float(record.columns["all_ok"].float().mean()) - 1 / 27) < 4 * (1 / 27 / N) ** 0.5
    assert [flag.name for flag in record.flags] == ["observer_at_chance"]


def test_who_always_says_what_this_victim_is_made_of_is_found_out() -> None:
    values = of_others()
    always = TRUTH.classes().expand(N, 3)
    record = judged(TRUTH, always, torch.ones(N).bool(), TRUTH.classes().expand(len(values), 3), values)
    assert bool(record.columns["all_ok"].all())
    assert [flag.name for flag in record.flags] == ["observer_at_chance"]
    # one that knows its own nets, and names the victim's values of half of the others as often as of the victim
    half = values.clone()
    half[::2] = TRUTH.classes()
    guesses = torch.zeros(N, 3).long()
    guesses[: N // 4] = TRUTH.classes()
    found = judged(TRUTH, guesses, torch.ones(N).bool(), half, values)
    assert [flag.name for flag in found.flags] == ["control_as_good"]
    assert {"observer_at_chance", "control_as_good", "nothing_to_parse"} <= {n for c in CHECKS for n in c.flags}


def test_pictures_that_did_not_change_do_not_count_and_none_is_no_number() -> None:
    right = TRUTH.classes().expand(4, 3)
    record = judged(TRUTH, right, torch.tensor([True, False, False, False]), of_others(), of_others())
    assert record.columns["adversarial"].tolist() == [True, False, False, False]
    assert "1 of 4 pictures count" in record.note
    assert not record.flags
    none = judged(TRUTH, right, torch.zeros(4).bool(), of_others(), of_others())
    assert [flag.name for flag in none.flags] == ["nothing_to_parse"]


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.full((2, 3), 3), torch.zeros(3, 3).long()])
def test_an_observer_that_returns_no_guesses_is_refused(bad: Tensor) -> None:
    with pytest.raises(BadValue, match=r"expected places 0, 1 or 2 of shape \(2, 3\) from convnet4"):
        checked(bad, 2, card_of("attack", "convnet4"))


def told(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Deltas (n, 3, 8, 8) that say what they are of: the mean of channel k is the k-th value; and those values."""
    generator = torch.Generator().manual_seed(seed)
    values = of_others(27 * (1 + n // 27))[:n]
    return (values[:, :, None, None] - 1 + 0.1 * torch.randn(n, 3, 8, 8, generator=generator)) / 255, values


def own(seed: int) -> Examples:
    """What an observer may learn on, where deltas tell."""
    x, values = told(540, 0)

    def learnt(net: nn.Module, recipe: object) -> nn.Module:
        return fitted(untrained(net, seed), Training(Split.of(x, values), Split.of(x, values), seed), recipe)  # type: ignore[arg-type]

    return Examples(lambda: (x, values), learnt)


@pytest.mark.parametrize("name", ["convnet4", "parsing_mlp"])
def test_what_a_delta_says_outright_is_parsed_and_the_same_at_the_same_seed(name: str) -> None:
    given = {"epochs": 12, "lr": 0.1, **({"width": 16} if name == "convnet4" else {})}
    parse, (x, values) = card_of("attack", name).function, told(270, 1)
    guesses = parse(x, own(0), **given)
    assert float((guesses == values).float().mean()) > 0.97
    assert torch.equal(guesses, parse(x / 4, own(0), **given)), "a radius tells nothing by itself"
    torch.manual_seed(99)
    assert torch.equal(guesses, parse(x, own(0), **given))
    noise = torch.randn(270, 3, 8, 8, generator=torch.Generator().manual_seed(5)) / 255
    assert torch.equal(parse(noise, own(0), **given), parse(noise, own(0), **given))
    assert not torch.equal(parse(noise, own(0), **given), parse(noise, own(1), **given))


def asked(**more: object) -> dict[str, object]:
    """A sweep of one victim that is trained for a moment, parsed by an observer whose nets are as well."""
    threat = {"scenario": "parsing", "access": "aux_data", "budget": {"linf": 0.5}, "evasion": {"pgd": {"steps": 2}},
              "shadows": "recipe:cnn_{kernel}_{activation}?epochs=3", "pictures": 60,
              "attacks": [{"parsing_mlp": {"epochs": 1}}], **more}  # fmt: skip
    return {"name": "p", "models": ["recipe:cnn_3_relu?epochs=3"], "defenses": ["none"], "threats": {"p": threat},
            "data": [{"digits": {"first": 24}}]}  # fmt: skip


def test_a_sweep_plays_it_from_nets_of_its_own_to_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustsuite.engine.execute import Progress, execute, ordered
    from robustsuite.engine.store import Store

    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(observer, "COMBINATIONS", COMBINATIONS[::13])  # 3 nets of 27
    cells = [(cell, decision) for cell, decision in plan(sweep_of(asked(), "a test")) if cell.threat is not None]
    execute(list(ordered(cells)), store := Store(tmp_path / "run"), Progress())
    record = read_cell(next(store.cells.glob("*/run.json")).parent)
    assert record.status == "done", record.sentence or record.traceback
    assert record.sentence.startswith("kernel 3, relu, 0.0% of the weights zero; ")
    names = {column.name for column in record.columns}
    assert {"all_ok", "kernel_ok", "kernel", "kernel_guess", "own_kernel", "others_kernel", "adversarial"} <= names
    assert record.threat is not None
    assert record.threat.budget.terms["evasion"] == "pgd(steps=2)"


def decided(**changed: object) -> str:
    """Why the sweep's cell cannot be played, '' where it can."""
    sweep = asked(**{k: v for k, v in changed.items() if k != "models"})
    sweep |= {k: v for k, v in changed.items() if k == "models"}
    cell = next(cell for cell, _ in plan(sweep_of(sweep, "a test")) if cell.threat is not None)
    found = decide(cell)
    return "" if found.status == "run" else f"{found.status}: {found.sentence}"


def test_a_plan_says_what_cannot_be_parsed() -> None:
    assert decided() == ""
    assert decided(models=["recipe:cnn_a?epochs=1"]).startswith("unmeasured: expected convolutions of one size")
    assert decided(evasion="rays", budget={"l2": 1}).startswith("refused: rays works in linf, not in l2")
    assert decided(access="white_box").startswith("refused: parsing_mlp needs aux_data")


def test_what_is_asked_is_checked_and_tells_cells_apart() -> None:
    def run_id(**changed: object) -> str:
        return next(c.run_id for c, _ in plan(sweep_of(asked(**changed), "a test")) if c.threat is not None)

    several = [run_id(), run_id(evasion={"pgd": {"steps": 3}}), run_id(sees="picture"), run_id(pictures=20),
               run_id(assumes={"evasion": "fgsm"}), run_id(assumes={"budget": {"l2": 1}}), run_id(draws=2)]  # fmt: skip
    assert len(set(several)) == len(several)
    assert run_id() == run_id(assumes={"budget": {"linf": 0.5}})
    for wrong, said in [
        ({"evasion": "convnet4"}, "expected an evasion attack"), ({"shadows": "recipe:cnn_3"}, "kernel"),
        ({"goal": "targeted"}, "no goal"), ({"budget": {"linf": 0.5, "queries": 9}}, "alone as the budget"),
        ({"evasion": {"pgd": {"step": 3}}}, "step"), ({"assumes": {"attack": "pgd"}}, "attack"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=said):
            run_id(**wrong)
