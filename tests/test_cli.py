"""The whole command: what a user does wrong ends in one sentence and exit code 2, and no finished cell is lost."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from robustsuite.app import cli, commands_run, display
from tests import nets
from tests.stored import rows as rows_of

SWEEP = {
    "name": "tiny",
    "models": ["python:tests.nets:linear"],
    "data": [{"digits": None}],
    "threats": {
        "linf": {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": ["fgsm", {"pgd": {"steps": 3}}]},
    },
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    for module in (cli, commands_run):
        monkeypatch.setattr(module.screen, "width", 160)


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `robustsuite ...`."""
    before, sys.argv = sys.argv, ["robustsuite", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    return code, out, err


def sweep(**changed: object) -> str:
    """The tiny sweep as a file, with these keys replaced."""
    Path("sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **changed}))
    return "sweep.yaml"


def one_sentence(code: int, out: str, err: str) -> str:
    """The sentence on stderr, checked for what every one of them says."""
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("error: "), err
    assert "Traceback" not in out + err
    assert "expected " in err, err
    assert " got " in err, err
    assert any(word in err for word in ("; ", "for example", " as a ", "(")), f"no word on what to do: {err}"
    return err


def cells(folder: str = "runs/tiny") -> dict[str, str]:
    """Status by run id of what is stored."""
    rows = [json.loads(f.read_text()) for f in Path(folder).glob("cells/[!.]*/run.json")]
    return {row["run_id"]: row["status"] for row in rows}


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def _checkpoint(kind: str) -> str:
    file = f"{kind}.pt" if kind == "bomb" else f"{kind}.safetensors"
    if kind == "bomb":
        Path(file).write_bytes(pickle.dumps({"weight": Bomb()}))
    elif kind == "nan":
        weights = nets.linear().state_dict()
        weights["1.weight"][3, 60] = float("nan")
        save_file(weights, file)
    else:
        save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Linear(20, 10)).state_dict(), file)
    return f"checkpoint:{file}?arch=python:tests.nets:linear"


THREAT = SWEEP["threats"]["linf"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"threats": {"t": {**THREAT, "attacks": ["pgdd"]}}}, "'pgdd'; did you mean 'pgd'"),
        ({"threats": {"t": {**THREAT, "attacks": [{"pgd": {"step": 3}}]}}}, "'step'; did you mean 'steps'"),
        ({"threats": {"t": {**THREAT, "budget": {"linf": "8/0"}}}}, "'8/0'"),
        ({"threats": {"t": {**THREAT, "budget": {"linf": -1}}}}, "-1"),
        ({"attack": ["pgd"]}, "'attack'"),
        ({"data": [{"imagefolder": {"root": "nowhere"}}]}, "'nowhere'"),
        ({"data": [{"digits": {"first": 0}}]}, "first=0"),
        ({"data": [{"digits": {"split": "tset"}}]}, "'tset'"),
        ({"models": ["python:tests.nets:nine"]}, "9"),
        ({"models": ["python:tests.nets:not_a_number"]}, "NaN"),
        ({"models": ["python:tests.nets:absent"]}, "absent"),
        ({"models": ["linear"]}, "'linear'"),
        ({"models": ["checkpoint:absent.safetensors?arch=lenet5"]}, "absent.safetensors"),
        ({"threats": {"t": {**THREAT, "attacks": []}}}, "one entry or more for threats.t.attacks"),
        ({"threats": {"t": {**THREAT, "attacks": [{"pgd": {"eot": 0}}]}}}, "eot >= 1 for pgd, got 0"),
        ({"threats": {"t": {**THREAT, "attacks": [{"pgd": {"first": "x"}}]}}}, "first >= 1 for pgd, got 'x'"),
        ({"defenses": []}, "one entry or more for defenses"),
        ({"seeds": ["a"]}, "seeds.0, got 'a'"),
        ({"defenses": ["smothing"]}, "'smothing'"),
        ({"defenses": [{"adversarial_finetuning": {"eps": "8/0"}}]}, "8/0"),
    ],
)
def test_a_wrong_sweep(capsys: pytest.CaptureFixture[str], changed: dict[str, object], says: str) -> None:
    assert says in one_sentence(*command(capsys, "run", sweep(**changed)))


@pytest.mark.parametrize(("kind", "says"), [("other", "left over"), ("nan", "NaN"), ("bomb", "nothing in it was run")])
def test_a_wrong_checkpoint(capsys: pytest.CaptureFixture[str], kind: str, says: str) -> None:
    assert says in one_sentence(*command(capsys, "run", sweep(models=[_checkpoint(kind)])))
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "absent.yaml"), "absent.yaml"),
        (("run", "--attack", "pdg"), "'pdg'"),
        (("run", "--attack", "5"), "5"),
        (("run", "--attack", "{pgd: {steps"), "yaml"),
        (("run", "--attack", "pgd", "--budget", "[8/255]"), "8/255"),
        (("run", "--attack", "pgd", "--budget", "eight"), "'eight'"),
        (("run", "--attack", "pgd", "--access", "everything"), "'everything'"),
        (("run", "--data", "digits", "--first", "0"), "got 0"),
        (("run", "--device", "tpu"), "'tpu'"),
        (("run", "--device", "cuda:99"), "'cuda:99'"),
        (("show", "pgdd"), "did you mean 'pgd'"),
        (("list", "atacks"), "did you mean 'attacks'"),
        (("report", "nowhere"), "'nowhere'"),
        (("compare", "nowhere", "elsewhere"), "'nowhere'"),
        (("leaderboard", "nowhere"), "'nowhere'"),
    ],
)
def test_a_wrong_flag(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    assert says in one_sentence(*command(capsys, *arguments))


def test_a_damaged_picture_is_named_and_finished_cells_stay(capsys: pytest.CaptureFixture[str]) -> None:
    for split, n in (("good", 2), ("late", 4)):
        for i in range(n):
            for kind in ("cat", "dog"):
                file = Path(split, "test", kind, f"{i}.jpeg")
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((40, 40), 60).convert("RGB").save(file)
    whole = Path("late/test/dog/3.jpeg").read_bytes()
    Path("late/test/dog/3.jpeg").write_bytes(whole[: len(whole) // 2])
    folders = [{"imagefolder": {"root": root, "size": 32}} for root in ("good", "late")]
    file = sweep(data=folders, models=["python:tests.nets:colours"])
    code, out, _ = command(capsys, "run", file)
    assert code == 3
    assert re.search(r"failed: .*3\.jpeg", out)
    assert sorted(cells().values()) == ["done"] * 3 + ["failed"] * 3, "the cells of the first data set are stored"
    Path("late/test/dog/3.jpeg").write_bytes(whole)
    assert command(capsys, "run", file)[0] == 0
    assert sorted(cells().values()) == ["done"] * 6 + ["failed"] * 3, "the mended picture makes other cells"


def test_a_recipe_without_training_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("cat", "dog"):
        Path("only", "test", kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"only/test/{kind}/0.png")
    data = [{"imagefolder": {"root": "only", "size": 8}}]
    assert "'train'" in one_sentence(*command(capsys, "run", sweep(data=data, models=["recipe:cnn_2c2f"])))


def test_an_output_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    for out in ("file/runs", "/proc/robustsuite"):
        assert out in one_sentence(*command(capsys, "run", sweep(), "--out", out))


FULL = """
mount -t tmpfs -o size={size}k tmpfs {folder} || exit 77
{python} -m robustsuite.app.cli run sweep.yaml --out {folder}/run; code=$?
cp -r {folder}/run kept
exit $code
"""


def test_a_full_disk_loses_no_finished_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(seeds=list(range(6)))
    Path("disk").mkdir()
    script = FULL.format(size=100, folder=tmp_path / "disk", python=sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120, env=environment
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode in (1, 77) and "expected" not in done.stderr:
        pytest.skip(f"no disk of our own may be mounted here: {done.stderr.strip()}")
    assert "room on the disk" in one_sentence(done.returncode, done.stdout, done.stderr)
    before = cells("kept")
    assert 0 < len(before) < 18
    code, out, _ = command(capsys, "run", "sweep.yaml", "--out", "kept")
    assert code == 0
    assert f"18 cells ({18 - len(before)} computed now)" in out


def test_run_twice_then_report(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "run", sweep(), "--first", "40")
    assert code == 0, err
    assert "3 cells (3 computed now)" in out
    scores = Path("runs/tiny/report/scores.csv").read_bytes()
    code, out, err = command(capsys, "run", "sweep.yaml", "--first", "40", "--batch-size", "7")
    assert (code, err) == (0, "")
    assert "3 cells (0 computed now)" in out
    assert Path("runs/tiny/report/scores.csv").read_bytes() == scores
    code, out, _ = command(capsys, "report", "runs/tiny", "--out", "elsewhere", "--format", "csv")
    assert code == 0
    assert Path("elsewhere/scores.csv").read_bytes() == scores
    assert not Path("elsewhere/report.html").exists()


def test_flags_replace_axes(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--attack", "{square: {steps: 5}}", "--access", "scores", "--budget", "linf: 4/255", "--first", "20")
    code, _, err = command(capsys, "run", sweep(), *flags, "--seed", "3", "--out", "flags")
    assert code == 0, err
    rows = rows_of("flags")
    assert {row["seed"] for row in rows} == {3}
    assert {row["attack"] for row in rows} == {None, "square(steps=5)"}
    assert {row["budget"] for row in rows} == {None, "linf(eps=4/255)"}


def test_flags_without_a_sweep_are_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the embedded sweep beside them, in a folder that no other flags have."""
    asked = ("run", "-m", "python:tests.nets:linear", "-D", "{digits: {first: 20}}", "-a", "fgsm")
    code, _, err = command(capsys, *asked)
    assert code == 0, err
    (folder,) = Path("runs").iterdir()
    assert {(row["attack"], row["defense"], row["shift"]) for row in rows_of(folder)} == {
        (None, "none", "clean"), ("fgsm", "none", None),
    }  # fmt: skip
    assert command(capsys, *asked, "-b", "4/255")[0] == 0
    assert command(capsys, *asked)[0] == 0
    assert len(list(Path("runs").iterdir())) == 2


def test_flags_beside_a_sweep_leave_its_folder_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "run", sweep(), "--first", "10")[0] == 0
    before = Path("runs/tiny/report/scores.csv").read_bytes()
    assert command(capsys, "run", "sweep.yaml", "-a", "fgsm", "--first", "10")[0] == 0
    assert Path("runs/tiny/report/scores.csv").read_bytes() == before
    assert len(list(Path("runs").glob("tiny-*"))) == 1


def test_cells_that_leave_a_report_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "run", sweep(), "--first", "10")[0] == 0
    _, said, _ = command(capsys, "run", "sweep.yaml", "--first", "8")
    assert "3 cells of the sweep before leave the report of runs/tiny" in " ".join(said.split())
    _, said, _ = command(capsys, "run", "sweep.yaml", "--first", "8")
    assert "leave the report" not in said


def test_a_dry_run_says_what_it_costs_and_computes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tuned = {"adversarial_finetuning": {"epochs": 1, "steps": 1}}
    file = sweep(models=["recipe:cnn_2c2f?epochs=1"], defenses=["none", tuned])
    code, out, err = command(capsys, "run", file, "--dry-run", "--first", "100")
    assert code == 0, err
    assert "6 cells, 6 to compute: at most " in out
    assert "and 2 trainings: about " in " ".join(out.split())
    assert "one hour of one CPU core buys about 6 of the 6 cells" in out
    (row,) = [line.split() for line in out.splitlines() if "pgd" in line and "none" in line]
    assert row[:3] == ["linf", "pgd", "none"]
    assert int(row[3]) == 1
    assert int(row[4]) >= 300
    assert int(row[5]) >= 300
    assert not Path("runs").exists()
    assert not Path("cache").exists()


def test_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in cli.KINDS:
        code, out, _ = command(capsys, "list", kind, "--json")
        listed = json.loads(out)
        assert code == 0
        names = [entry["name"] for entry in listed]
        assert names == sorted(names)
        assert all(entry["kind"] == cli.KINDS[kind] and entry["summary"] for entry in listed)
        assert all(name[:20] in command(capsys, "list", kind)[1] for name in names[:3])
    code, out, _ = command(capsys, "show", "pgd")
    assert code == 0
    assert "arXiv" in out
    assert "steps = " in out
    shown = command(capsys, "show", "anp")[1]
    assert "lr, steps: of the masks." in shown, "a line ends where the screen does, not where the source does"
    out = command(capsys, "show", "shortcut_augmentation")[1]
    assert "shortcut_augmentation:shortcut_augmentation" in "".join(out.split())
    code, out, _ = command(capsys, "doctor")
    assert code == 0
    assert torch.__version__ in out


def test_a_docstring_is_broken_where_the_terminal_ends_and_not_twice() -> None:
    assert cli._flowing("One line.\n\nlr: the peak\nof one cycle.\n\na\n  b") == (
        "One line.\n\nlr: the peak of one cycle.\n\na\n  b")  # fmt: skip


@pytest.mark.parametrize(("label", "width", "shown"), [
    ("linf: pgd on rift", 40, "linf: pgd on rift"),
    ("linf: apgd(steps=20) on gaussian_augmentation(epochs=3, sigma=0.1)+randomized_smoothing(n=32)", 39,
     "linf: apgd on gaussian_aug…ed_smoothing"),
    ("linf: a_very_long_attack_indeed(steps=20) on rift", 30, "linf: a_ver…ack_indeed on rift"),
    ("imagenet_c: a very long corruption by any name", 12, "imagen… name"),
])  # fmt: skip
def test_a_line_of_eighty_columns_keeps_the_defense(label: str, width: int, shown: str) -> None:
    assert display.shortened(label, width) == shown
    assert len(shown) <= width


def test_a_resumed_run_counts_each_cell_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
    _, first, _ = command(capsys, "run", sweep(), "--first", "10")
    said = re.findall(r"^(\d+)/(\d+) ", first, re.MULTILINE)
    total = len(said)
    assert said == [(str(i + 1), str(total)) for i in range(total)]
    shutil.rmtree(next(Path("runs/tiny/cells").iterdir()))
    _, again, _ = command(capsys, "run", sweep(), "--first", "10")
    assert re.findall(r"^(\d+)/(\d+) ", again, re.MULTILINE) == [(str(total), str(total))]


def test_a_plan_of_one_system_has_no_column_of_defenses(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("python:tests.nets:linear", "digits", "--first", "4", "--dry-run")
    code, out, _ = command(capsys, "vet", *asked)
    assert code == 0
    assert re.search(r"^threat +attack or shift +cells", out, re.MULTILINE)
    assert "none" not in out


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from robustsuite.scenarios import evasion

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evasion, "attacked", stop)
    code, _, err = command(capsys, "run", sweep(), "--first", "10")
    assert (code, err) == (130, "stopped; the same command goes on where this one ended\n")
    assert list(cells().values()) == ["done"], "the cell before is kept"
    monkeypatch.undo()
