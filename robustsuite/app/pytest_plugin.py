"""Robustness as a test: the fixture `robustness`, judged by intervals, and by paired tests against a baseline.

    def test_model(robustness):
        robustness.check(net, (x, y), attack={"pgd": {"steps": 20}}, budget=Linf(8 / 255), at_least=0.4)

With `--robustness-baseline FILE` each check is also compared, image by image, with what stood when the file was
written (`--robustness-update`). Exact McNemar (1947), the level of 5 % shared over the checks of the file (Bonferroni),
so that a suite that changed nothing fails in at most one run of twenty. Imports no torch until a check runs.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustsuite.app.api import Evaluation
    from robustsuite.serve.data import Dataset, Split

LEVEL = 0.05
PICTURES = "other pictures than the baseline's"


@dataclass
class Baseline:
    """What stood before: `file`, the checks read from it, and those of this session by name."""

    file: Path | None
    update: bool
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    fresh: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self) -> None:
        """Put this session's checks into the file, beside those of tests that were not run and of other sessions."""
        from filelock import FileLock

        from robustsuite.reports.render.files import put

        if self.file is not None and self.fresh:
            name = hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()
            with FileLock(Path(tempfile.gettempdir()) / f"robustness-{name}.lock"):
                checks = dict(sorted({**_read(self.file, self.update), **self.fresh}.items()))
                put(self.file, json.dumps({"robustness_baseline": 1, "checks": checks}, indent=1) + "\n")


KEY = pytest.StashKey[Baseline]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("robustness")
    group.addoption("--robustness-baseline", metavar="FILE", help="fail where a check is significantly worse than here")
    group.addoption("--robustness-update", action="store_true", help="write this session's checks into the baseline")


def pytest_configure(config: pytest.Config) -> None:
    """Read the baseline once a process."""
    name, update = config.getoption("--robustness-baseline"), bool(config.getoption("--robustness-update"))
    if update and not name:
        raise pytest.UsageError("expected --robustness-baseline FILE with --robustness-update, got none; name the file")
    file = Path(config.invocation_params.dir, name) if name else None
    config.stash[KEY] = Baseline(file, update, _read(file, update))


def _read(file: Path | None, update: bool) -> dict[str, dict[str, Any]]:
    if file is None or (update and not file.exists()):
        return {}
    try:
        checks: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))["checks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise pytest.UsageError(
            f"expected a baseline at {str(file)!r}, got {type(error).__name__}: {error}; write one with "
            f"--robustness-update"
        ) from error
    return checks


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the baseline; a worker of xdist hands its checks to the controller instead."""
    baseline = session.config.stash[KEY]
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["robustness"] = baseline.fresh
    elif baseline.update:
        baseline.write()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of xdist measured."""
    node.config.stash[KEY].fresh.update(getattr(node, "workeroutput", {}).get("robustness", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was written."""
    baseline = config.stash[KEY]
    if baseline.update and baseline.fresh:
        terminalreporter.write_line(f"robustness: {len(baseline.fresh)} checks written to {baseline.file}")


@pytest.fixture
def robustness(request: pytest.FixtureRequest) -> Robustness:
    """`robustness.check(model, data, attack=..., budget=..., at_least=...)`."""
    return Robustness(request.node, request.config.stash[KEY])


class Robustness:
    """The checks of one test."""

    def __init__(self, node: pytest.Item, baseline: Baseline) -> None:
        self.node, self.baseline = node, baseline
        self.names: set[str] = set()

    def check(
        self, model: nn.Module, data: tuple[Tensor, Tensor] | Split | Dataset, *,
        attack: str | Mapping[str, Mapping[str, Any]] = "pgd", budget: Any = None, at_least: float | None = None,
        name: str = "", seed: int = 0,
    ) -> Evaluation:  # fmt: skip
        """Fail unless `model` stands: the interval's lower end at `at_least` or more, no significant loss, no flag.

        data: (x, y) with x (N, C, H, W) in [0, 1], a split, or a data set, of which `test` is taken. attack: a name, or
        {name: parameters} as in a sweep. budget: a ball; Linf(8/255) by default. name: tells two checks of one test
        apart. Raises UsageError for what does not fit; with neither `at_least` nor a baseline a check checks nothing.
        """
        from robustsuite.app.api import evaluate
        from robustsuite.app.given import ball
        from robustsuite.errors import BadValue
        from robustsuite.serve.data import Split

        if at_least is None and self.baseline.file is None:
            raise BadValue("expected at_least=... or --robustness-baseline FILE, got neither; nothing would be checked")
        if at_least is not None and not 0 <= at_least <= 1:
            raise BadValue(f"expected at_least in [0, 1], got {at_least!r}; write 0.4 for 40 %")
        x, y = pictures(data)
        plugin, parameters = _attack(attack)
        budget = ball(budget)
        what = f"{plugin}({', '.join(f'{k}={v}' for k, v in sorted(parameters.items()))})" if parameters else plugin
        key = " ".join(filter(None, (self.node.nodeid, name, what, str(budget))))
        if key in self.names:
            raise BadValue(f"expected each check of a test once, got {what} within {budget} again; give it name=...")
        self.names.add(key)
        found = evaluate(model, x, y, attack=plugin, budget=budget, seed=seed, **parameters)
        lo, hi = found.interval
        said = f"{100 * found.robust:.1f} % of {len(x)} images stand ({100 * lo:.1f}–{100 * hi:.1f} %)"
        self.node.user_properties.append((f"{what} within {budget}", said))
        about = f"{what} within {budget}: {said}"
        _judge(found, at_least, about)
        stands = found.columns["robust"].cpu().numpy()
        entry = {"stands": "".join("01"[int(v)] for v in stands), "data_sha256": Split.of(x, y).sha256}
        self._compare(key, entry, about)
        return found

    def _compare(self, key: str, entry: dict[str, Any], about: str) -> None:
        """Against the baseline, or into it."""
        import numpy as np

        from robustsuite.maths import stats

        self.baseline.fresh[key] = entry
        if self.baseline.file is None or self.baseline.update:
            return
        before = self.baseline.known.get(key)
        if before is None:
            pytest.fail(
                f"{about}; {self.baseline.file} holds no such check, write it with --robustness-update", pytrace=False
            )
        if before["data_sha256"] != entry["data_sha256"] or len(before["stands"]) != len(entry["stands"]):
            pytest.fail(f"{about}; these are {PICTURES}, so they cannot be paired; --robustness-update", pytrace=False)
        now, old = (np.array(list(row["stands"])) == "1" for row in (entry, before))
        test = stats.mcnemar_exact(now, old)
        level = LEVEL / len(self.baseline.known)
        if test.difference < 0 and test.pvalue < level:
            pytest.fail(
                f"{about}, {100 * old.mean():.1f} % stood in the baseline: {test.only_b} images lost, {test.only_a} "
                f"won, p = {test.pvalue:.2g} (exact McNemar; {level:.2g} asked)",
                pytrace=False,
            )


def pictures(data: tuple[Tensor, Tensor] | Split | Dataset) -> tuple[Tensor, Tensor]:
    """x (N, C, H, W) and y (N,) of a pair, a split, or a data set's test split; raises BadData for what is neither."""
    import torch

    from robustsuite.app.given import class_numbers, pixels
    from robustsuite.serve.data import Dataset, Split

    if isinstance(data, Dataset):
        data = data.split("test")
    if isinstance(data, Split):
        return data.images(torch.arange(len(data))), data.y
    x = pixels(data[0])
    return x, class_numbers(data[1], len(x))


def _attack(attack: str | Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    if isinstance(attack, str):
        return attack, {}
    from robustsuite.serve.data import parse_spec

    name, parameters = parse_spec(dict(attack), "attack")
    return name, dict(parameters)


def _judge(found: Evaluation, at_least: float | None, about: str) -> None:
    from robustsuite.integrity.checks import level_of

    failed = [flag for flag in found.flags if level_of(flag) == "fail"]
    if failed:
        flags = "; ".join(f"{flag.name}: {flag.detail}" for flag in failed)
        pytest.fail(f"{about}, but the number failed the suite's own checks and proves nothing: {flags}", pytrace=False)
    if at_least is not None and found.interval[0] < at_least:
        pytest.fail(f"{about}; the lower end is below the {100 * at_least:.1f} % asked for", pytrace=False)
