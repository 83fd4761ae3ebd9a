"""Pictures in class folders, decoded when asked for: any `imagefolder`, and ImageNet's validation set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from robustsuite.benchmarks.datasets.decode import File, Preparation, listed, read_pictures, size_of
from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Dataset, InputSpace, Split, source

Labelled = list[tuple[File, int]]


@source()
def imagefolder(
    *,
    root: str = "",
    size: int = 224,
    resize: int | None = None,
    interpolation: str = "bilinear",
    classes_file: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Any folder or zip of [split/]class/picture: shorter side to `resize` (size / 0.875), centre crop of `size`.

    Splits are the folders train, val, test where there are such, else all is test. Without a val folder a tenth of
    train is held out. Raises BadData naming a damaged picture when it is asked for.
    """
    path = _path(root, "imagefolder")
    folders = listed(path)
    named = {s for s in ("train", "val", "test") if any(f == s or f.startswith(s + "/") for f in folders)}
    inside = {s: _children(folders, s) for s in named} if named else {"test": _children(folders, "")}
    names = tuple(sorted({c for children in inside.values() for c in children}))
    classes = _classes(classes_file) if classes_file else {name: (i, name) for i, name in enumerate(names)}
    prepare = Preparation(size, resize or round(size / 0.875), interpolation)
    found = {s: _labelled(children, classes, path) for s, children in inside.items()}
    if "train" in found and "val" not in found:
        order = torch.randperm(len(found["train"]), generator=torch.Generator().manual_seed(seed)).tolist()
        cut = len(order) // 10
        whole = found["train"]
        found["train"], found["val"] = [whole[i] for i in sorted(order[cut:])], [whole[i] for i in order[:cut]]
    splits = {s: lazy(files, prepare) for s, files in sorted(found.items()) if files}
    if not splits:
        raise BadData(f"expected pictures in class folders under {str(path)!r}, got none; check root")
    labels = tuple(label for _, label in sorted(classes.values()))
    return Dataset(path.stem, InputSpace(3, size, size, len(labels)), labels, splits)


@source(paper="Russakovsky et al., 2015, arXiv:1409.0575")
def imagenet(
    *,
    root: str = "",
    size: int = 224,
    resize: int | None = None,
    interpolation: str = "bilinear",
    classes_file: str | None = None,
    folder: str = "val",
) -> Dataset:
    """ImageNet's validation set as <root>/val/<wnid>/*.JPEG, a folder or a zip; class index in sorted wnid order.

    All 1000 wnid folders must be there (they may be empty), or classes_file gives 'index TAB wnid TAB name' lines.
    The test split is made of these pictures; there is no other. Raises BadData.
    """
    path = _path(root, "imagenet")
    folders = listed(path)
    children = _children(folders, folder) or (_children(folders, "") if folder == "val" else {})
    wnids = sorted(name for name in children if name[:1] == "n" and name[1:].isdigit())
    if not wnids:
        raise BadData(f"expected {folder}/<wnid> folders under {str(path)!r}, got none; check root")
    if classes_file is None and len(wnids) != 1000:
        raise BadData(
            f"expected 1000 wnid folders under {str(path)!r}, got {len(wnids)}, so class indices are unknown; "
            f"give classes_file with 'index TAB wnid TAB name' lines"
        )
    classes = _classes(classes_file) if classes_file else {wnid: (i, wnid) for i, wnid in enumerate(wnids)}
    files = _labelled({wnid: children[wnid] for wnid in wnids}, classes, path)
    if not files:
        raise BadData(f"expected pictures in the wnid folders under {str(path)!r}, got none; extract them first")
    prepare = Preparation(size, resize or round(size / 0.875), interpolation)
    names = tuple(wnid if name == wnid else f"{wnid} {name}" for wnid, (_, name) in _by_index(classes))
    return Dataset("imagenet", InputSpace(3, size, size, len(names)), names, {"test": lazy(files, prepare)})


def lazy(files: Sequence[tuple[File, int]], prepare: Preparation) -> Split:
    """A split that decodes what is asked; sha256 is over names, sizes, labels and the preparation."""
    facts = [f"{Path(f.name).name} {size_of(f)} {label}" for f, label in files]
    digest = hashlib.sha256("\n".join([str(tuple(prepare)), *facts]).encode()).hexdigest()
    y = torch.tensor([label for _, label in files])

    def images(positions: Tensor) -> Tensor:
        return read_pictures([files[i][0] for i in positions.tolist()], prepare)

    return Split(y, images, torch.arange(len(y)), digest)


def _path(root: str, name: str) -> Path:
    if not root:
        raise BadValue(f"expected the folder of {name}, got none; write {{{name}: {{root: FOLDER}}}}")
    return Path(root).expanduser()


def _children(folders: dict[str, list[File]], parent: str) -> dict[str, list[File]]:
    """Class folders directly below `parent` and their pictures."""
    prefix = parent + "/" if parent else ""
    below = {f.removeprefix(prefix): files for f, files in folders.items() if f.startswith(prefix) and f != parent}
    return {name: files for name, files in below.items() if name and "/" not in name}


def _labelled(children: dict[str, list[File]], classes: dict[str, tuple[int, str]], path: Path) -> Labelled:
    for name in children:
        if name not in classes:
            raise BadData(
                f"expected folders of known classes under {str(path)!r}, got {name!r}; add it to classes_file"
            )
    return [(file, classes[name][0]) for name in sorted(children) for file in children[name]]


def _by_index(classes: dict[str, tuple[int, str]]) -> list[tuple[str, tuple[int, str]]]:
    return sorted(classes.items(), key=lambda item: item[1][0])


def _classes(file: str) -> dict[str, tuple[int, str]]:
    """folder name -> (index, name) from 'index TAB folder TAB name' lines."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadData(f"expected a file of classes, got {file!r}, which is not there; check classes_file")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        index, _, rest = line.partition("\t")
        folder, _, name = rest.partition("\t")
        if not index.isdigit() or not folder:
            raise BadData(
                f"expected 'index TAB folder TAB name' in line {number} of {path.name}, got {line!r}; mend it"
            )
        found[folder] = (int(index), name.split(",")[0] or folder)
    if sorted(i for i, _ in found.values()) != list(range(len(found))):
        raise BadData(f"expected indices 0 ... {len(found) - 1} once each in {path.name}; mend it")
    return found
