"""The pytest plugin in a package of its own: it passes, it fails with a sentence, and a baseline is paired by image."""

import json
import shutil
from pathlib import Path

import pytest

import robustsuite.app.api  # noqa: F401  pytester forgets what was first imported inside, and torch cannot be imported twice
from robustsuite.app.pytest_plugin import Baseline

NET = """
import torch
from torch import nn

class Step(nn.Module):
    '''Two classes by one pixel, above 0.5 or below; within eps of it an image falls. Below `bad` it always errs.'''
    def __init__(self, bad=0.0):
        super().__init__()
        self.threshold, self.bad = nn.Parameter(torch.tensor(0.5)), bad
    def forward(self, x):
        pixel = x.flatten(1).mean(1)
        lead = 20 * (pixel - self.threshold) * (pixel >= self.bad).float().mul(2).sub(1)
        return torch.stack([torch.zeros_like(lead), lead], 1)

order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
x = torch.linspace(0.001, 0.999, 400)[order][:, None, None, None]
y = (x.flatten() > 0.5).long()
"""
TEST = """
from net import Step, x, y
import pytest
from robustsuite import Linf

@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_it_stands(robustness, eps):
    found = robustness.check(Step({bad}), (x, y), attack={{"pgd": {{"steps": 20}}}}, budget=Linf(eps){more})
    assert 0.6 < found.robust < 0.95
"""


@pytest.fixture
def package(pytester: pytest.Pytester) -> pytest.Pytester:
    """A small package of somebody's, with a net and its test."""
    pytester.makepyfile(net=NET)
    pytester.syspathinsert()
    return pytester


def write(package: pytest.Pytester, bad: float = 0.0, more: str = "") -> None:
    package.makepyfile(test_net=TEST.format(bad=bad, more=more))


def run(package: pytest.Pytester, *arguments: str) -> tuple[dict[str, int], str]:
    """Outcomes and output of a pytest run of the package."""
    shutil.rmtree(package.path / "__pycache__", ignore_errors=True)  # two versions within a second look the same
    done = package.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    return done.parseoutcomes(), done.stdout.str() + done.stderr.str()


def test_the_lower_end_of_the_interval_decides(package: pytest.Pytester) -> None:
    write(package, more=", at_least=0.7")
    assert run(package)[0] == {"passed": 2}
    # Of 400 images 80 % stand within 0.1, with the exact interval 75.7 ... 83.8: 78 % is above its lower end.
    write(package, more=", at_least=0.78")
    outcomes, text = run(package)
    assert outcomes == {"passed": 1, "failed": 1}
    assert "pgd(steps=20) within linf(eps=25.5/255): 80.0 % of 400 images stand (75.7–83.8 %)" in text
    assert "the lower end is below the 78.0 % asked for" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)])
def test_a_worse_model_loses_against_its_baseline(package: pytest.Pytester, workers: tuple[str, ...]) -> None:
    file = "--robustness-baseline=base.json"
    write(package)
    # What is read is the same with workers and without; what is written has to travel from them.
    outcomes, text = run(package, file, "--robustness-update", *workers)
    assert outcomes == {"passed": 2}
    assert "2 checks written to" in text
    checks = json.loads(Path(package.path, "base.json").read_text())["checks"]
    assert sorted(len(check["stands"]) for check in checks.values()) == [400, 400]
    assert run(package, file)[0] == {"passed": 2}
    write(package, bad=0.05)
    outcomes, text = run(package, file)
    assert outcomes == {"failed": 2}
    assert "images lost, 0 won, p = " in text


def test_an_update_of_one_test_keeps_the_others(package: pytest.Pytester) -> None:
    write(package)
    arguments = ("--robustness-baseline=base.json", "--robustness-update")
    run(package, *arguments)
    before = Path(package.path, "base.json").read_text()
    run(package, *arguments, "-k", "0.05")
    assert Path(package.path, "base.json").read_text() == before


def test_what_is_not_in_the_baseline_or_shows_other_pictures_fails(package: pytest.Pytester) -> None:
    write(package)
    run(package, "--robustness-baseline=base.json", "--robustness-update", "-k", "0.05")
    outcomes, text = run(package, "--robustness-baseline=base.json")
    assert outcomes == {"passed": 1, "failed": 1}
    assert "holds no such check, write it with --robustness-update" in text
    package.makepyfile(net=NET.replace("0.999", "0.998"))
    outcomes, text = run(package, "--robustness-baseline=base.json", "-k", "0.05")
    assert outcomes["failed"] == 1
    assert "cannot be paired" in text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("", "expected at_least=... or --robustness-baseline FILE, got neither"),
        (", at_least=40", "expected at_least in [0, 1], got 40"),
        (", at_least=0.1, name='a'); robustness.check(Step(), (x, y), at_least=0.1, attack='fgsm', name='a'", ""),
    ],
)
def test_wrong_use_is_a_sentence(package: pytest.Pytester, more: str, says: str) -> None:
    write(package, more=more)
    outcomes, text = run(package)
    assert says in text
    assert outcomes == ({"failed": 2} if says else {"passed": 2})


def test_a_flagged_number_proves_nothing(package: pytest.Pytester) -> None:
    package.makepyfile(
        test_net="""
        import torch
        from net import Step, x, y

        class Saturated(Step):
            def forward(self, x):
                return super().forward(x.round())

        def test_it_hides_its_gradients(robustness):
            robustness.check(Saturated(), (x, y), attack="fgsm", at_least=0.1)
        """
    )
    outcomes, text = run(package)
    assert outcomes == {"failed": 1}
    assert "failed the suite's own checks and proves nothing" in text


@pytest.mark.parametrize("arguments", [("--robustness-update",), ("--robustness-baseline=absent.json",)])
def test_a_wrong_option_ends_the_session(package: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    write(package)
    done = package.runpytest_inprocess(*arguments)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "expected" in done.stderr.str()
    assert "--robustness-update" in done.stderr.str()


def test_pytest_starts_without_torch(package: pytest.Pytester) -> None:
    package.makepyfile("import sys\n\ndef test_light():\n    assert 'torch' not in sys.modules")
    done = package.runpytest_subprocess("-k", "light")
    assert done.parseoutcomes() == {"passed": 1}
    assert "robustsuite" in done.stdout.str(), "the plugin is loaded"


def test_two_sessions_that_update_one_baseline_keep_both(tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    entry = {"stands": "01", "data_sha256": "x"}
    sessions = [Baseline(file, True, {}, {name: entry}) for name in ("first", "second")]  # both began without a file
    for session in sessions:
        session.write()
    assert set(json.loads(file.read_text())["checks"]) == {"first", "second"}
    assert [f.name for f in tmp_path.iterdir()] == ["base.json"]
