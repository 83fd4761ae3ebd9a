"""ImageNet-E: the same object before another background, at another size, place and direction.

"ImageNet-E: Benchmarking neural network robustness via attribute editing" (Li et al., 2023,
https://arxiv.org/abs/2303.17096). Scored by the dropped accuracy, acc(ori) - acc(edit), of each edit, and by its mean
over the edits of an attribute.
"""

from __future__ import annotations

from pathlib import Path

from robustsuite.benchmarks.datasets.folders import lazy
from robustsuite.benchmarks.datasets.listing import File, listed
from robustsuite.benchmarks.shifts import counterparts
from robustsuite.benchmarks.shifts.layouts import counted, named, preparation, wnids, words
from robustsuite.errors import BadData
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant, shift


@shift(
    paper="Li et al., 2023, arXiv:2303.17096",
    differs=(
        "over scenes: the test pictures with background, size, position or direction redrawn through their masks",
    ),
)
def imagenet_e(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, partial: bool = False,
    resize: int | None = None, interpolation: str = "bilinear",
) -> ShiftSet:  # fmt: skip
    """ImageNet-E as <root>/labels.txt, ori/, full/ and a folder an edit; paired with ori/ by the files' stems.

    labels.txt: lines 'NAME.JPEG TAB class index'. partial: judge on the pictures that ori/ and every edit have. Raises
    BadData for what is missing.
    """
    if root is None and clean.redrawn is not None:
        return counterparts.edits(clean)
    path = Path(named(root, "imagenet_e")).expanduser()
    wnids(data)
    labels = _labels(path / "labels.txt", data.space.classes)
    folders = {name: {Path(f.name).stem: f for f in files} for name, files in listed(path).items() if "/" not in name}
    folders.pop("", None)
    if "ori" not in folders or len(folders) < 2:
        raise BadData(f"expected ori/ and folders of edits under {root!r}, got {sorted(folders)}; unpack it again")
    missing = [f"no {name}/{stem}" for name, files in sorted(folders.items()) for stem in labels if stem not in files]
    shared = [stem for stem in labels if all(stem in files for files in folders.values())]
    note = counted(path, "imagenet_e", len(shared), len({labels[s] for s in shared}), missing, partial=partial)
    prepare = preparation(data, resize, interpolation)

    def read(files: dict[str, File]) -> Split:
        return lazy([(files[stem], labels[stem]) for stem in shared], prepare)

    parts = {Variant(name): read(files) for name, files in sorted(folders.items()) if name != "ori"}
    return ShiftSet("imagenet_e", parts, True, read(folders["ori"]), Reading(transform=words(prepare), note=note))


def _labels(file: Path, classes: int) -> dict[str, int]:
    """Stem -> class index."""
    if not file.is_file():
        raise BadData(f"expected {file}, which is missing; unpack ImageNet-E again")
    found = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, _, index = line.strip().rpartition("\t")
        if not name or not index.isdigit() or int(index) >= classes:
            raise BadData(
                f"expected 'NAME.JPEG TAB class index' in line {number} of {file.name}, got {line!r}; mend it"
            )
        found[Path(name).stem] = int(index)
    return found
