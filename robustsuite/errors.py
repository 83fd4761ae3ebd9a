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

from collections.abc import Iterable
from difflib import get_close_matches


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


class MissingPackage(UsageError):
    """An optional package that is not installed."""

    def __init__(self, package: str, purpose: str, install: str | None = None) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; pip install {install or package}"
        )


class UnknownName(UsageError):
    """A name that is not registered."""

    def __init__(self, kind: str, name: str, options: Iterable[str]) -> None:
        super().__init__(f"expected a known {kind}, got {name!r}; {nearest(name, options)}")


class AccessRefused(RobustsuiteError):
    """An attack asked the oracle for more than its threat grants."""


class QueriesSpent(RobustsuiteError):
    """An attack asked for more queries an image than its threat grants."""


class Unsupported(RobustsuiteError):
    """A plugin cannot work on this network or system; the cell becomes `refused` with this sentence."""


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint: the nearest of the options, or all of them where none is near."""
    options = sorted(options)
    close = get_close_matches(str(name), options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(options[:20]) or 'none'}{' ...' if len(options) > 20 else ''}"
