r"""The report's tables as LaTeX to \input into a paper: booktabs, every name escaped, struck numbers struck."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .document import Document, Entry, Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--", "−": r"$-$", "≤": r"$\leq$", "×": r"$\times$",
    "±": r"$\pm$", "·": r"$\cdot$", "…": r"\ldots{}", "\u202f": r"\,",
}  # fmt: skip
_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))
_PREAMBLE = r"""% Needs \usepackage[T1]{fontenc}, \usepackage{booktabs} and \usepackage{graphicx}.
\providecommand{\struck}[1]{\setbox0=\hbox{#1}\rlap{\rule[.55ex]{\wd0}{.5pt}}\box0}"""


def render(document: Document) -> str:
    """The score tables as LaTeX text, one float each; costs stay out, so equal scores give equal bytes."""
    note = f" ({document.note})" if document.note else ""
    blocks = [f"% {_comment(document.title + note)}\n{_PREAMBLE}"]
    for section in document.sections:
        if not section.passing:
            for table in section.tables:
                blocks.append(
                    "\n".join(_table(table, f"{document.title}{note}. {section.title}. {table.title}"))
                )
    return "\n\n".join(blocks) + "\n"


@lru_cache(maxsize=1 << 16)
def escape(text: str) -> str:
    """Text that typesets as itself; hyphens kept apart so that two never become a dash."""
    return _PATTERN.sub(lambda found: _SPECIAL[found[0]], re.sub(r"\s+", " ", text)).replace("---", "-{}-{}-")


def _comment(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _table(table: Table, title: str) -> Iterator[str]:
    caption = escape(title + (f" ({table.caption})" if table.caption else "") + ".")
    yield r"\begin{table}[tbp]"
    yield r"  \centering"
    yield rf"  \caption{{{caption}}}"
    yield rf"  \label{{tab:robustness-{table.name}}}"
    yield r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"  \begin{{tabular}}{{{'l' * len(table.columns)}}}"
    yield r"    \toprule"
    yield f"    {' & '.join(escape(column) for column in table.columns)} \\\\"
    yield r"    \midrule"
    for row in table.rows:
        yield f"    {' & '.join(_entry(entry) for entry in row)} \\\\"
    yield r"    \bottomrule"
    yield r"  \end{tabular}}"
    yield r"\end{table}"


def _entry(entry: Entry) -> str:
    text = escape(entry.text)
    return rf"\struck{{{text}}}" if entry.struck else text
