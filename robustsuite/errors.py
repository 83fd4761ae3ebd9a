"""What can go wrong, in sentences: what was expected, what came, what to do next.

RobustsuiteError
├── UsageError            the user's input; the CLI prints the sentence and exits with 2
│   ├── UnknownName       a name that is not registered, with the nearest that is
│   ├── BadValue          a parameter, budget or yaml value out of its range
│   ├── BadData           a missing folder, a truncated image, labels that do not fit
│   ├── BadModel          weights, architecture, class count or outputs that do not fit
│   ├── MissingPackage    an optional package, with the line that installs it
│   ├── BadOutput         a folder that cannot be written, a full disk
│   ├── Lost              workers that died, or ended and left cells
│   └── Stopped           a service that must not, or cannot, be asked any further
├── AccessRefused         an attack asked the oracle for more than its threat grants
├── QueriesSpent          an attack asked for more queries than its threat grants
└── Unsupported           a plugin cannot work on this network; the cell becomes `refused`
"""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class RobustsuiteError(Exception):
    """Anything this library raises on purpose."""


class UsageError(RobustsuiteError):
    """The user's input does not fit; one sentence, exit code 2."""


class BadValue(UsageError):
    """A parameter, budget or yaml value out of its range."""


class BadData(UsageError):
    """A missing folder, a truncated image, labels that do not fit."""


class BadModel(UsageError):
    """Weights, architecture, class count or outputs that do not fit."""


class BadOutput(UsageError):
    """A folder that cannot be written, a full disk."""


class Lost(UsageError):
    """Workers died one after the other, or ended and left cells uncomputed."""


class Stopped(UsageError):
    """A service that must not be asked any further, or does not answer: the run ends, what was answered is kept."""


OF_THE_RUN = (BadOutput, Lost, Stopped)
"""What no cell can be blamed for: it ends the run."""


ALONE = {"torchattacks": "torchattacks==3.5.1", "auto-LiRPA": "auto-LiRPA==0.3"}
"""Packages whose metadata asks for others that are older than their code works with; pip finds no way to have both."""


def install(package: str) -> str:
    """The command that installs an optional package."""
    return f"pip install --no-deps {ALONE[package]}" if package in ALONE else f"pip install {package}"


class MissingPackage(UsageError):
    """An optional package that is not installed. extra: ours that brings it."""

    def __init__(self, package: str, purpose: str, extra: str | None = None) -> None:
        super().__init__(
            f"{brief(purpose)} needs the package {package}, which is not installed; {install(extra or package)}"
        )


class UnknownName(UsageError):
    """A name that is not registered."""

    def __init__(self, kind: str, name: str, options: Iterable[str], besides: str = "") -> None:
        said = f"expected a known {kind}, got {quoted(name)}; {nearest(name, options)}"
        super().__init__(f"{said}; {besides}" if besides else said)


class AccessRefused(RobustsuiteError):
    """An attack asked the oracle for more than its threat grants."""


class QueriesSpent(RobustsuiteError):
    """An attack asked for more queries an image than its threat grants."""


class Unsupported(RobustsuiteError):
    """A plugin cannot work on this network or system; the cell becomes `refused` with this sentence."""


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint: the nearest of the options, or all of them where none is near."""
    options = sorted(options)
    close = get_close_matches(str(name)[:LONGEST], options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(options[:20]) or 'none'}{' ...' if len(options) > 20 else ''}"


ENDS = (130, 143)
"""Exit codes of a program that Ctrl-C or SIGTERM ends: no plugin's own SystemExit."""

LONGEST = 120
"""Characters of a value that a sentence quotes."""


def brief(value: object) -> str:
    """A value as a sentence quotes it: its repr, cut in the middle where it is long; words as they are."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:  # anybody's object
        text = f"a {type(value).__name__} without a repr ({type(error).__name__})"
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 40]} ... {text[-30:]}"


def quoted(value: object) -> str:
    """The same of any value, words in quotes."""
    return repr(brief(value)) if isinstance(value, str) else brief(value)


def shown(text: str) -> str:
    """The text as a terminal may be handed it: what it would act on, or nobody could see, stands escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


HERE = Path(__file__).parent
OURS = (HERE, *(HERE.parent / name for name in ("attacks", "defenses", "benchmarks", "reports")))
"""Where a frame of a traceback is no user's: this library, and in a checkout the plugins beside it."""

PYTHON = Path(traceback.__file__).parent


@contextmanager
def loading(what: str, kind: type[UsageError] = UsageError) -> Iterator[None]:
    """Turn whatever anybody's code raises while `what` is made of it into one sentence with its cause.

    Ctrl-C and a scheduler's SIGTERM pass.
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code in ENDS:
            raise
        raise kind(f"expected {what} to load, got {cause(error)}; mend it or leave it out") from error


def cause(error: BaseException) -> str:
    """What somebody's code raised, in one line: the kind, its first line, and where: the last line that is theirs.

    Theirs is what stands outside this library, torch and python, rather than in an installed package.
    """
    try:
        said = (str(error).strip().splitlines() or ["no message"])[0][:200]
    except Exception:  # anybody's __str__
        said = "a message that cannot be read"
    if isinstance(error, SystemExit):
        said = f"it ends the program with {error.code!r}"
    if isinstance(error, SyntaxError) and error.filename:
        said, spot = str(error.msg), f" ({Path(error.filename).name} line {error.lineno})"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not _library(f.filename)]
        theirs = [f for f in frames if "site-packages" not in f.filename] or frames
        spot = f" ({Path(theirs[-1].filename).name} line {theirs[-1].lineno})" if theirs else ""
    return shown(f"{type(error).__name__}: {said}{spot}")


def _library(file: str) -> bool:
    parents, parts = Path(file).parents, Path(file).parts
    python = PYTHON in parents and "site-packages" not in parts
    return file.startswith("<frozen") or "torch" in parts or python or any(folder in parents for folder in OURS)


def likely(file: object) -> str:
    """The model spec that somebody who names a bare file most likely means, to be told in a sentence."""
    endings = {".safetensors": "checkpoint", ".pth": "checkpoint", ".pt": "checkpoint", ".ckpt": "checkpoint",
               ".pt2": "export", ".onnx": "onnx", ".yaml": "http"}  # fmt: skip
    found = (scheme for ending, scheme in endings.items() if str(file).endswith(ending))
    return next((f"{scheme}:{brief(file)}" for scheme in found), "torchvision:resnet50")
