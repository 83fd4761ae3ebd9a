"""Pictures in class folders, decoded when asked for: any `imagefolder`, and ImageNet's validation set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import torch
from torch import Tensor

from robustsuite.benchmarks.datasets.decode import INTERPOLATIONS, Preparation, read_pictures
from robustsuite.benchmarks.datasets.hashes import digests
from robustsuite.benchmarks.datasets.listing import File, Listing, Member, listed, listing
from robustsuite.errors import BadData, BadValue, UnknownName, quoted
from robustsuite.serve.data import Dataset, InputSpace, Split, source

Labelled = list[tuple[File, int]]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders that are splits, and which."""

SIDE = 8192
"""Pixels of a side at the most."""

LISTED = 1 << 26
"""Bytes of a list of classes at the most."""


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

    Splits are the folders train, val (or valid, validation) and test where there are such, else all is test. Without a
    val folder a tenth of train is held out. Classes are counted in the order of `in_order`, over all splits. The note
    says what was left aside. Raises BadData, naming a damaged picture when it is asked for.
    """
    path, prepare = _path(root, "imagefolder"), _preparation(size, resize, interpolation)
    there = listing(path)
    inside = _splits(there.folders, path)
    names = in_order({c for children in inside.values() for c in children})
    classes = _classes(classes_file) if classes_file else {name: (i, name) for i, name in enumerate(names)}
    found = {s: _labelled(children, classes, path) for s, children in inside.items()}
    note = _aside(there, sum(map(len, found.values())))
    if "train" in found and "val" not in found:
        order = torch.randperm(len(found["train"]), generator=torch.Generator().manual_seed(seed)).tolist()
        cut = len(order) // 10
        whole = found["train"]
        found["train"], found["val"] = [whole[i] for i in sorted(order[cut:])], [whole[i] for i in order[:cut]]
    splits = {s: lazy(files, prepare) for s, files in sorted(found.items()) if files}
    if not splits:
        more = f" ({note})" if note else ""
        raise BadData(f"expected pictures in class folders under {str(path)!r}, got none{more}; check root")
    labels = tuple(label for _, label in sorted(classes.values()))
    return Dataset(_name(path), InputSpace(3, size, size, len(labels)), labels, splits, note)


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
    path, prepare = _path(root, "imagenet"), _preparation(size, resize, interpolation)
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
    names = tuple(wnid if name == wnid else f"{wnid} {name}" for wnid, (_, name) in _by_index(classes))
    splits = {"test": lazy(files, prepare)}
    note = "" if size == 224 else f"pictures of {size} × {size} pixels"
    return Dataset("imagenet", InputSpace(3, size, size, len(names)), names, splits, note, _spoken(names))


def _spoken(names: Sequence[str]) -> tuple[str, ...]:
    """What torchvision calls the classes of these 1000 wnids in their order; nothing of other names."""
    if len(names) != 1000 or any(" " in name for name in names):
        return ()
    from torchvision.models import AlexNet_Weights  # half a second, for its list alone

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


def lazy(files: Sequence[tuple[File, int]], prepare: Preparation) -> Split:
    """A split that decodes what is asked; sha256 is over the files' bytes in order, labels and the preparation."""
    facts = [f"{digest} {label}" for digest, (_, label) in zip(digests([f for f, _ in files]), files, strict=True)]
    digest = hashlib.sha256("\n".join([str(tuple(prepare)), *facts]).encode()).hexdigest()
    y = torch.tensor([label for _, label in files], dtype=torch.int64)

    def images(positions: Tensor) -> Tensor:
        if not len(positions) and prepare.size is None and files:  # the size is known from the first picture alone
            return images(torch.zeros(1, dtype=torch.int64))[:0]
        return read_pictures([files[i][0] for i in positions.tolist()], prepare)

    names = tuple("/".join(PurePath(file.name if isinstance(file, Member) else file).parts[-2:]) for file, _ in files)
    return Split(y, images, torch.arange(len(y)), digest, files=names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class folders in the order of their indices: as numbers where all are whole numbers (2 before 10), else by name.

    torchvision's ImageFolder always sorts by name.
    """
    found = sorted(names)
    if all(name.isascii() and name.isdigit() for name in found):
        return tuple(sorted(found, key=lambda name: (len(bare := name.lstrip("0")), bare)))  # int() ends at 4300 digits
    return tuple(found)


def _splits(folders: dict[str, list[File]], path: Path) -> dict[str, dict[str, list[File]]]:
    """Class folders and their pictures by split; raises BadData for a split under two names."""
    named: dict[str, str] = {}
    for folder, split in SPLITS.items():
        if any(f == folder or f.startswith(folder + "/") for f in folders):
            if split in named:
                raise BadData(
                    f"expected one folder for {split} under {str(path)!r}, got {named[split]} and {folder}; keep one"
                )
            named[split] = folder
    return {s: _children(folders, f) for s, f in named.items()} if named else {"test": _children(folders, "")}


def _aside(there: Listing, used: int) -> str:
    """What lies under the root and is no part of the data set, in words; '' for nothing."""
    words = []
    if others := sum(there.aside.values()):
        kinds = ", ".join(ascii(kind)[1:-1][:60] for kind in sorted(there.aside)[:8])
        words.append(f"{others} file{'s' * (others > 1)} of other kinds left aside: {kinds}")
    if stray := sum(map(len, there.folders.values())) - used:
        where = "that lie in no class folder" if stray > 1 else "that lies in no class folder"
        words.append(f"{stray} picture{'s' * (stray > 1)} {where} left aside")
    return "; ".join(words)


def _name(path: Path) -> str:
    """What the data set is called: its folder, or its archive without the ending."""
    name = path.stem if path.is_file() else path.resolve().name
    return "".join(c if c.isprintable() else "?" for c in name) or "pictures"


def _preparation(size: int, resize: int | None, interpolation: str) -> Preparation:
    """Raises BadValue for sizes of no picture, UnknownName for an interpolation that is none."""
    for key, value in (("size", size), ("resize", resize)):
        if value is not None and not 1 <= value <= SIDE:
            raise BadValue(f"expected {key} from 1 to {SIDE} pixels, got {quoted(value)}; for example {key}: 224")
    if interpolation not in INTERPOLATIONS:
        raise UnknownName("interpolation", interpolation, INTERPOLATIONS)
    return Preparation(size, resize or round(size / 0.875), interpolation)


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
    return [(file, classes[name][0]) for name in in_order(children) for file in children[name]]


def _by_index(classes: dict[str, tuple[int, str]]) -> list[tuple[str, tuple[int, str]]]:
    return sorted(classes.items(), key=lambda item: item[1][0])


def _classes(file: str) -> dict[str, tuple[int, str]]:
    """folder name -> (index, name) from 'index TAB folder TAB name' lines."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadData(f"expected a file of classes, got {file!r}, which is not there; check classes_file")
    if path.stat().st_size > LISTED:
        raise BadData(f"expected at most {LISTED >> 20} MiB of classes in {path.name}, got more; check classes_file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"expected text in {path.name}, got no UTF-8 ({error.reason}); check classes_file") from error
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        index, _, rest = line.partition("\t")
        folder, _, name = rest.partition("\t")
        if not (index.isascii() and index.isdigit() and len(index) < 10) or not folder:
            raise BadData(
                f"expected 'index TAB folder TAB name' in line {number} of {path.name}, got {quoted(line)}; mend it"
            )
        found[folder] = (int(index), name.split(",")[0] or folder)
    if sorted(i for i, _ in found.values()) != list(range(len(found))):
        raise BadData(f"expected indices 0 ... {len(found) - 1} once each in {path.name}; mend it")
    return found
