"""Hostile and clumsy input: every one is a sentence, in seconds, and nothing is written outside the run's folder."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustsuite.app import cli, flags
from robustsuite.app.api import Workers, run
from robustsuite.config import plugins, registry
from robustsuite.config.registry import AttackCard, carded
from robustsuite.config.text import read_yaml
from robustsuite.config.threats import Access
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import parse_sweep, read_sweep, sweep_of
from robustsuite.engine.work import Shard
from robustsuite.errors import BadValue, UnknownName, UsageError, cause, shown
from robustsuite.scenarios import evasion
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.models import load_model
from tests.corpus import BASE, SWEEPS, TEXT, THREAT, YAMLS, attack, changed, threat
from tests.stored import rows as rows_of

SPACE = InputSpace(1, 8, 8, 10)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))


def sentence(error: UsageError) -> str:
    """What the user reads, checked for what every sentence has."""
    said = str(error)
    assert len(said) < 2000
    assert "expected " in said, said
    assert " got " in said, said
    assert "Traceback" not in said
    return said


def refused(ask: Any) -> str:
    """The sentence in which the call ends, in seconds."""
    started = time.monotonic()
    with pytest.raises(UsageError) as found:
        ask()
    assert time.monotonic() - started < 10
    return sentence(found.value)


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_a_text_is_a_sentence(text: str) -> None:
    refused(lambda: parse_sweep(text, "s.yaml"))


@pytest.mark.parametrize("value", SWEEPS.values(), ids=SWEEPS)
def test_a_mapping_is_a_sentence(value: dict[str, Any]) -> None:
    refused(lambda: plan(sweep_of(value, "the test")))
    assert not list(Path.cwd().iterdir()), "nothing is written"


def test_the_corpus_is_large_enough() -> None:
    assert len(YAMLS) + len(SWEEPS) >= 150
    assert all(plan(parse_sweep(TEXT, "s.yaml")))


def test_a_key_written_twice_is_named_with_both_lines() -> None:
    assert "'name' in line 3 and again in line" in refused(lambda: parse_sweep("a: 1\n\nname: x\nname: y", "s.yaml"))
    assert read_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}", "s")[0] == {"a": {"x": 1}, "b": {"x": 2}}


def test_files_that_are_no_sweep_are_sentences() -> None:
    Path("big.yaml").write_bytes(b"a" * 5_000_000)
    Path("bytes.yaml").write_bytes(os.urandom(1000))
    for name in ("big.yaml", "bytes.yaml", ".", "absent.yaml", "x" * 5000, "a\0b"):
        refused(lambda name=name: read_sweep(Path(name)))


REFUSED = {
    "steps": attack("pgd", steps=0),
    "loss": attack("fgsm", loss="nope"),
    "dlr-t": attack("apgd", loss="nope"),
    "top": threat(goal={"ordered_topk": 10}, budget={"l2": 9}, attacks=[{"cw_k": {"iterations": 3}}]),
    "class": threat(goal={"target": 10}, attacks=["backdoor", "pgd"][1:]),
    "restarts": attack("pgd", restarts=-1),
    "dear": attack("pgd", steps=10**12),
    "square": attack("square", p=2.0),
    "eot": attack("pgd", eot=10**12),
    "draws": attack("noise", draws=0),
    "fog": changed(shifts=[{"imagenet_c": {"corruptions": ["fog"], "severities": [1]}}]),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_played_is_refused_and_the_others_are_not(value: dict[str, Any]) -> None:
    decisions = [decision for _, decision in plan(sweep_of(value, "the test"))]
    assert [d.status for d in decisions].count("refused") >= 1
    assert decisions[0].status == "run", "the clean pictures"
    assert all("expected " in d.sentence or "works towards" in d.sentence for d in decisions if d.status == "refused")


def test_dlr_on_two_classes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustsuite.scenarios.rehearsal import _said

    card, ball = registry.card_of("attack", "apgd"), evasion.BallSpec(**THREAT).threat("t")
    two = InputSpace(1, 8, 8, 2)
    assert ball.budget is not None
    said = _said(card, (("loss", "dlr"),), ball.budget, ball.goal, Access.WHITE_BOX, two)
    assert "at least 3 classes" in said
    assert _said(card, (), ball.budget, ball.goal, Access.WHITE_BOX, two) == ""


def test_every_attack_is_rehearsed_without_a_word_and_quickly() -> None:
    from robustsuite.scenarios.rehearsal import _said

    for norm in ("linf", "l2"):
        made = evasion.BallSpec(**{**THREAT, "budget": {norm: 0.1}}).threat("t")
        for name in registry.names("attack"):
            card, started = registry.card_of("attack", name), time.monotonic()
            if card.place == "evasion" and norm in (card.norms or (norm,)) and "untargeted" in card.goals:
                assert made.budget is not None
                given = (("surrogates", "theirs"),) if "surrogates" in card.parameters else ()  # nobody else can say
                space = InputSpace(3, 32, 32, 10)
                assert _said(card, given, made.budget, made.goal, Access.WHITE_BOX, space) == "", name
                assert time.monotonic() - started < 5, name


def test_an_error_of_the_user_inside_a_cell_fails_that_cell_alone(tmp_path: Path) -> None:
    @evasion.attack(needs=Access.LABELS, name="late")
    def late(model: Any, x: Any, y: Any, budget: Any, *, rng: Any, how: str = "") -> Any:
        if len(x) > 1:
            raise SystemExit(0) if how == "exit" else BadValue("expected better, got worse; mend it")
        return x

    registry.cards()["attack", "late"] = late.card  # type: ignore[attr-defined]
    try:
        run(threat(attacks=["late", {"late": {"how": "exit"}}, "fgsm"]), out=tmp_path / "run")
        run(threat(attacks=["fgsm"]), out=tmp_path / "run")
    finally:
        del registry.cards()["attack", "late"]
    rows = rows_of(tmp_path / "run")
    found = {row["attack"]: row for row in rows if row["attack"]}
    assert {row["status"] for row in rows if row["attack"] in (None, "", "fgsm")} == {"done"}
    assert found["late"]["status"] == found["late(how=exit)"]["status"] == "failed"
    assert "expected better, got worse" in found["late"]["sentence"]


FACTORIES = """
import sys
from torch import nn

def raises():
    raise ValueError("boom")

def leaves():
    sys.exit(0)

def stops():
    class Odd(BaseException):
        pass
    raise Odd("odd")

def nothing():
    return 3

WORD = "word"
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "ValueError: boom (hostile_net.py line 6)"),
        ("leaves", "SystemExit: it ends the program with 0"),
        ("stops", "Odd: odd (hostile_net.py line 14)"),
        ("nothing", "got int"),
        ("WORD", "got str"),
        ("absent", "absent"),
    ],
)
def test_what_a_factory_does_is_a_sentence_with_its_line(name: str, says: str) -> None:
    Path("hostile_net.py").write_text(FACTORIES)
    try:
        assert says in refused(lambda: load_model(f"python:hostile_net:{name}", SPACE))
    finally:
        sys.modules.pop("hostile_net", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", "SyntaxError: invalid syntax (hostile_bad.py line 1)"),
        ("import sys\nsys.exit(0)", "SystemExit: it ends the program with 0 (hostile_bad.py line 2)"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (hostile_bad.py line 2)"),
        ("import nowhere_x", "nowhere_x"),
    ],
)
def test_what_a_module_does_is_a_sentence_with_its_line(text: str, says: str) -> None:
    Path("hostile_bad.py").write_text(text)
    assert says in refused(lambda: load_model("python:hostile_bad:f", SPACE))


@pytest.mark.parametrize(
    "name", ["sys:exit", "os:abort", "os._exit:x", "..:x", ":", "::", "a b:c", "a:b:c", "a..b:c", "ü", "a:"]
)
def test_names_that_are_no_factory_are_refused_before_they_are_imported(name: str) -> None:
    refused(lambda: load_model(f"python:{name}", SPACE))


def test_any_loaders_exception_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*_: Any, **__: Any) -> Any:
        raise RecursionError("\x1b[31mdeep")

    for kind, load in (("model", lambda: load_model("bad:x", SPACE)), ("data", lambda: load_data("bad"))):
        monkeypatch.setitem(registry.cards(), (kind, "bad"), registry.Card(kind, "bad", bad))
        assert "RecursionError: \\x1b[31mdeep (test_hostile.py line" in refused(load)
    monkeypatch.setitem(registry.cards(), ("model", "bad"), registry.Card("model", "bad", lambda *_: 3))
    assert "got int" in refused(lambda: load_model("bad:x", SPACE))


@pytest.mark.parametrize(
    "facts",
    [
        {"needs": "scores"},
        {"needs": None},
        {"norms": "linf"},
        {"norms": ("l9",)},
        {"goals": "untargeted"},
        {"cost": 3},
        {"goals": ("nope",)},
        {"name": ""},
        {"name": 3},
        {"name": "a\nb"},
        {"paper": 3},
        {"requires": None},
        {"nope": 1},
    ],
)
def test_a_card_of_wrong_values_is_refused_at_registration(facts: dict[str, Any]) -> None:
    refused(lambda: carded("attack", "evasion", **facts)(lambda model, x, y, budget, *, rng: x))


def test_a_parameter_that_the_planner_uses_itself_is_refused_at_registration() -> None:
    def clash(model: Any, x: Any, y: Any, budget: Any, *, rng: Any, classes: int = 3) -> Any:
        return x

    assert "classes" in refused(lambda: carded("attack", "evasion")(clash))
    assert "place" in refused(lambda: carded("defense", "nowhere")(lambda net: net))
    assert "hides" in refused(lambda: carded("defense", "serve", hides=3)(lambda net: net))


BROKEN = {
    "import": "import absent_package_x",
    "syntax": "def f(:",
    "exit": "import sys; sys.exit(3)",
    "any": "1 / 0",
    "card": "from robustsuite.scenarios import evasion\n@evasion.attack(norms='linf')\ndef a(m, x, y, b, *, rng): pass",
}


def _installed(site: Path, text: str) -> dict[str, str]:
    package, facts = site / "broken_pkg", site / "broken_pkg-1.0.dist-info"
    for folder in (package, facts):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text(text)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-pkg\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{registry.GROUP}]\nbroken = broken_pkg\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(Path(cli.__file__).parents[2])])}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_left_out_with_its_cause(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _installed(tmp_path / "site", text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(plugins, "_broken", {})
    monkeypatch.setattr(sys, "argv", ["robustsuite", "list", "attacks"])
    registry.cards.cache_clear()
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    out, err = capsys.readouterr()
    try:
        assert "pgd" in out
        assert err.count("\n") == 1
        assert err.startswith("warning: left out broken_pkg.part of the plugin package broken, got ")
        with pytest.raises(UnknownName, match=r"left out broken_pkg\.part"):
            registry.card_of("attack", "theirs")
    finally:
        for name in ("broken_pkg", "broken_pkg.part"):
            sys.modules.pop(name, None)
        registry.cards.cache_clear()


FLAGS: list[Any] = [
    lambda: flags.device("tpu"),
    lambda: flags.device("cuda:x"),
    lambda: flags.device("cuda:²"),
    lambda: flags.device(""),
    lambda: flags.device("cuda:" + "9" * 5000),
    lambda: flags.device("cpu:"),
    lambda: flags.entry("["),
    lambda: flags.entry("[" * 100_000),
    lambda: flags.entry("a\0"),
    lambda: flags.budget("[8/255"),
    lambda: flags.entry("2020-01-01"),
    lambda: flags.entry("!!int x"),
    lambda: Shard.of("²/3"),
    lambda: Shard.of("1/0"),
    lambda: Shard.of("1/" + "9" * 5000),
    lambda: Shard.of(""),
    lambda: Shard.of("-1/3"),
    lambda: Shard.of("1/2/3"),
    lambda: plan(sweep_of(BASE, "x"), "cpu", 0),
    lambda: plan(sweep_of(BASE, "x"), "cpu", -3),
    lambda: run(BASE, device="rubbish"),
    lambda: run(BASE, by=Workers(10**9)),
    lambda: run(BASE, by=Workers(0)),
    lambda: run(BASE, width=0),
    lambda: run(BASE, width=10**30),
    lambda: run(BASE, out="x" * 5000),
    lambda: run(BASE, shard="rubbish"),
    lambda: run(BASE, by=Workers(1, "rubbish")),
    lambda: run(BASE, out="/dev/null/x"),
    lambda: run(BASE, out=__file__),
]


@pytest.mark.parametrize("ask", FLAGS)
def test_a_flag_is_a_sentence(ask: Any) -> None:
    refused(ask)


def test_a_budget_alone_is_linfs() -> None:
    assert flags.budget("4/255") == {"linf": "4/255"}
    assert flags.budget("0.5") == {"linf": 0.5}
    assert flags.budget("l2: 0.5") == {"l2": 0.5}


def test_what_a_terminal_acts_on_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("a\x1b[31m\0\x7f\u202e\ud800\nä") == "a\\x1b[31m\\x00\\x7f\\u202e\\ud800\nä"
    cli.screen.print("\x1b[2J", markup=False)
    cli.errors.print("\x1b]0;x\x07", markup=False)
    assert "\x1b" not in "".join(capsys.readouterr())
    assert "\x1b" not in cause(ValueError("\x1b[31m"))


@pytest.mark.slow
def test_a_terminal_of_ascii_ends_in_no_traceback(tmp_path: Path) -> None:
    Path("s.yaml").write_text(yaml.safe_dump({**BASE, "title": "Größe → ∞"}, allow_unicode=True), "utf-8")
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "LANG": "C",
        "PYTHONPATH": str(Path(cli.__file__).parents[2]),
    }
    words = [sys.executable, "-m", "robustsuite.app.cli", "run", "s.yaml", "--device", "cpu", "--workers", "1"]
    done = subprocess.run(words, capture_output=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


WORDS = st.one_of(
    st.text(max_size=12), st.sampled_from([*BASE, "pgd", "fgsm", "digits", "none", "steps", "evasion", "8/255", "linf"])
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.binary(max_size=3), st.dates())
VALUES = st.recursive(
    LEAVES,
    lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.one_of(WORDS, LEAVES), v, max_size=3)),
    max_leaves=8,
)


def tried(ask: Any) -> None:
    """Whatever comes, no exception but a sentence."""
    try:
        ask()
    except UsageError as error:
        sentence(error)


LIGHT = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@LIGHT
@given(VALUES)
def test_any_yaml_is_a_sweep_or_a_sentence(value: Any) -> None:
    tried(lambda: parse_sweep(yaml.safe_dump(value, allow_unicode=True), "s.yaml"))


@LIGHT
@given(st.text(alphabet=st.sampled_from(list("[]{}:,-&*!|>'\"#%@?\n ab1.~<\0\x1b")), max_size=60))
def test_any_text_is_a_sweep_or_a_sentence(text: str) -> None:
    tried(lambda: parse_sweep(text, "s.yaml"))
    tried(lambda: parse_sweep(TEXT + text, "s.yaml"))


@LIGHT
@given(st.sampled_from([*BASE, "seeds", "defenses", "stream"]), VALUES)
def test_any_value_of_a_key_is_planned_or_a_sentence(key: str, value: Any) -> None:
    tried(lambda: plan(sweep_of(changed(**{key: value}), "the test")))


@LIGHT
@given(st.sampled_from(["access", "budget", "goal", "attacks", "scenario"]), VALUES)
def test_any_value_of_a_threats_key_is_planned_or_a_sentence(key: str, value: Any) -> None:
    tried(lambda: plan(sweep_of(threat(**{key: value}), "the test")))


@LIGHT
@given(st.sampled_from(["pgd", "apgd", "square", "noise", "fgsm"]), st.data())
def test_any_parameter_is_planned_or_a_sentence(name: str, data: Any) -> None:
    card = registry.card_of("attack", name)
    assert isinstance(card, AttackCard)
    key = data.draw(st.sampled_from(sorted(card.parameters) or ["none"]))
    tried(lambda: plan(sweep_of(attack(name, **{key: data.draw(VALUES)}), "the test")))
