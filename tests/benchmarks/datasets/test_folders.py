"""Folders and archives of pictures as people have them, and what tells two of them apart."""

import io
import os
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from robustsuite.benchmarks.datasets import hashes, listing
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Dataset, load_data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


def picture(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, kind)
    return file.getvalue()


def put(root: Path, **files: int) -> Path:
    """Pictures of one grey value each: a__b for a/b.png."""
    for name, value in files.items():
        file = root / f"{name.replace('__', '/')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(value))
    return root


def load(root: Path, **given: object) -> Dataset:
    return load_data({"imagefolder": {"root": str(root), "size": 8, "resize": 8, **given}})[0]


def values(data: Dataset, split: str = "test") -> list[int]:
    part = data.split(split)
    return (part.images(torch.arange(len(part)))[:, 0, 0, 0] * 255).round().int().tolist()


def test_every_ending_is_a_picture(root):
    kinds = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "TIFF": "TIFF",
             "gif": "GIF", "ppm": "PPM", "pgm": "PPM", "PNM": "PPM"}  # fmt: skip
    (root / "a").mkdir(parents=True)
    for i, (ending, kind) in enumerate(sorted(kinds.items())):
        (root / "a" / f"{i:02d}.{ending}").write_bytes(picture(100, kind))
    (root / "a" / "11.jpg").write_bytes(picture(100, "PNG"))  # the ending is only a filter
    data = load(root)
    assert len(data.split("test")) == 12
    assert all(abs(value - 100) <= 2 for value in values(data))
    assert data.note == ""


def test_what_is_left_aside_is_counted_and_said(root):
    put(root, a__1=1, b__1=2, a__deep__1=3, stray=4)
    for name in ("a/x.txt", "b/y.mat", "b/z.mat", "README"):
        (root / name).write_text("")
    data = load(root)
    assert data.classes == ("a", "b")
    assert data.note == (
        "4 files of other kinds left aside: .mat, .txt, none; 2 pictures that lie in no class folder left aside"
    )
    (root / "c").mkdir()
    (root / "c" / "x.heic").write_text("")
    assert load(root).classes == ("a", "b", "c"), "a class without pictures keeps its index"
    put(root.parent / "none", a__1=1)
    (root.parent / "none" / "a" / "1.png").rename(root.parent / "none" / "a" / "1.heic")
    with pytest.raises(BadData, match=r"got none \(1 file of other kinds left aside: \.heic\)"):
        load(root.parent / "none")


def test_what_systems_leave_behind_is_no_class_and_no_picture(root):
    put(root, cat__1=1, dog__1=2, __MACOSX__cat__1=3)
    for name in (".git", ".ipynb_checkpoints", "__MACOSX"):
        (root / name).mkdir(exist_ok=True)
        (root / name / "1.png").write_bytes(picture(9))
    for name in ("cat/._1.jpg", "cat/.1.png", "cat/Thumbs.db", "dog/desktop.ini", ".DS_Store"):
        (root / name).write_bytes(b"x")
    data = load(root)
    assert (data.classes, values(data), data.note) == (("cat", "dog"), [1, 2], "")
    with zipfile.ZipFile(root.parent / "p.zip", "w") as archive:
        for name in ("cat/1.png", "dog/1.png", "__MACOSX/cat/._1.png", "cat/.hidden.png", ".git/a/1.png"):
            archive.writestr(name, picture(5))
        archive.writestr("cat/notes.txt", "")
    data = load(root.parent / "p.zip")
    assert (data.classes, values(data)) == (("cat", "dog"), [5, 5])
    assert data.note == "1 file of other kinds left aside: .txt"


def test_folders_that_are_numbers_are_counted_as_numbers(root):
    put(root, **{f"{i}__x": i for i in range(11)})
    data = load(root)
    assert data.classes == tuple(map(str, range(11)))
    assert data.split("test").y.tolist() == values(data) == list(range(11))
    put(root, eleven__x=11)
    assert load(root).classes == ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9", "eleven")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_names_of_splits_and_the_union_of_their_classes(root, name):
    put(root, train__a__1=1, train__b__1=2, **{f"{name}__b__1": 3}, test__a__1=4, test__c__1=5, other__d__1=6)
    data = load(root)
    assert {s: values(data, s) for s in data.splits} == {"train": [1, 2], "val": [3], "test": [4, 5]}
    assert data.classes == ("a", "b", "c")
    assert data.split("test").y.tolist() == [0, 2]
    assert data.note == "1 picture that lies in no class folder left aside"
    if name != "val":
        put(root, val__a__1=1)
        with pytest.raises(BadData, match="one folder for val"):
            load(root)


def test_links_are_followed_and_loops_are_not(root, tmp_path):
    elsewhere = put(tmp_path / "elsewhere", test__a__1=1, more__1=2, file=3)
    (root / "train" / "c").mkdir(parents=True)
    (root / "test").symlink_to(elsewhere / "test")
    (root / "train" / "b").symlink_to(elsewhere / "more")
    (root / "train" / "c" / "l.png").symlink_to(elsewhere / "file.png")
    (root / "train" / "c" / "loop").symlink_to(root)
    (root / "train" / "loop").symlink_to(root)
    (root / "train" / "c" / "self.png").symlink_to(root / "train" / "c" / "self.png")
    (root / "train" / "c" / "gone.png").symlink_to(root / "gone.png")
    data = load(root)
    assert (data.classes, values(data, "train"), values(data)) == (("a", "b", "c"), [2, 3], [1])
    assert "3 files of other kinds left aside: links not followed, FIFOs and devices" in data.note


def test_folders_that_link_to_one_another_end(root):
    names = [str(i) for i in range(9)]
    put(root, **{f"{name}__x": int(name) for name in names})
    for name in names:
        for other in names:
            (root / name / f"to{other}").symlink_to(root / other)
    assert values(load(root)) == list(range(9))


def test_folders_in_folders_without_end(root):
    made = [put(root, a__1=1) / "a"]
    while len(str(made[-1])) < 4000:
        made.append(made[-1] / "d")
        made[-1].mkdir()
    try:
        assert values(load(root)) == [1]
    finally:
        for folder in reversed(made[1:]):  # deeper than pytest can remove
            folder.rmdir()


def test_a_fifo_and_a_device_are_never_opened(root):
    put(root, a__1=1)
    os.mkfifo(root / "a" / "0.png")
    (root / "a" / "2.png").symlink_to("/dev/zero")
    (root / "b.png").symlink_to("/dev/zero")
    data = load(root)
    assert values(data) == [1]
    assert "3 files of other kinds" in data.note
    with pytest.raises(BadData, match="not there"):
        load(root / "a" / "0.png")


def test_a_folder_or_a_file_that_may_not_be_read_is_a_sentence(root, monkeypatch):
    put(root, a__1=1)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        opens = listing.Path.open
        patch.setattr(listing.Path, "open", lambda p, *a, **k: refused() if p.suffix == ".png" else opens(p, *a, **k))
        with pytest.raises(BadData, match=r"1\.png', got Permission denied"):
            load(root)
    monkeypatch.setattr(listing.os, "scandir", refused)
    with pytest.raises(BadData, match="got Permission denied"):
        load(root)


def zipped(path: Path, name: str = "a/1.png", data: bytes | None = None, pack: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", pack) as archive:
        archive.writestr(name, picture(7) if data is None else data)
    return path


def test_archives_that_lie_end_in_sentences(tmp_path):
    for i, name in enumerate(("/etc/1.png", "../a/1.png", "a/../../1.png", "C:/a/1.png")):
        with pytest.raises(BadData, match="nothing was extracted"):
            load(zipped(tmp_path / f"{i}.zip", name))
    whole = zipped(tmp_path / "whole.zip", pack=zipfile.ZIP_STORED).read_bytes()
    (tmp_path / "crc.zip").write_bytes(whole.replace(b"IDAT", b"IDAX", 1))
    with pytest.raises(BadData, match=r"'a/1\.png' of .*CRC"):
        load(tmp_path / "crc.zip")
    at = whole.index(b"PK\x01\x02")
    secret = bytearray(whole)
    secret[6] |= 1
    secret[at + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    with pytest.raises(BadData, match="encrypted"):
        load(tmp_path / "secret.zip")
    with pytest.raises(BadData, match="stored or deflated"):
        load(zipped(tmp_path / "lzma.zip", pack=zipfile.ZIP_LZMA))
    (tmp_path / "cut.zip").write_bytes(whole[:100])
    with pytest.raises(BadData, match="zip archive"):
        load(tmp_path / "cut.zip")


def test_bombs_in_archives_and_long_files_are_not_unpacked(tmp_path, monkeypatch, root):
    monkeypatch.setattr(listing, "BYTES", 1 << 20)
    bomb = zipped(tmp_path / "bomb.zip", data=bytes(3 << 20))
    with pytest.raises(BadData, match=r"at most 1 MiB in 'a/1\.png' of .*got 3 MiB"):
        load(bomb)
    lying = bytearray(bomb.read_bytes())
    at = lying.index(b"PK\x01\x02")
    lying[at + 24 : at + 28] = lying[22:26] = struct.pack("<I", 100)
    (tmp_path / "lying.zip").write_bytes(lying)
    with pytest.raises(BadData, match="CRC"):
        load(tmp_path / "lying.zip")
    put(root, a__1=1)
    with (root / "a" / "1.png").open("r+b") as file:
        file.truncate(1 << 33)  # sparse
    with pytest.raises(BadData, match="8192 MiB"):
        load(root)


def test_a_split_is_its_pictures_bytes_not_their_names_and_sizes(tmp_path):
    for name, value in (("x", 1), ("y", 2), ("z", 1)):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / ("0.bmp" if name != "z" else "other.bmp")).write_bytes(picture(value, "BMP"))
    found = {name: load(tmp_path / name).split("test").sha256 for name in "xyz"}
    assert found["x"] == found["z"] != found["y"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x" / "a" / "0.bmp", "a/0.bmp")
    assert load(tmp_path / "x.zip").split("test").sha256 == found["x"]


def test_hashes_are_kept_while_a_file_stays_as_it_is(root, cache, monkeypatch):
    put(root, a__1=1, a__2=2)
    read: list[object] = []
    monkeypatch.setattr(hashes, "stream", lambda file: read.append(file) or listing.stream(file))
    monkeypatch.setattr(hashes, "SETTLED", -time.time_ns())
    before = load(root).split("test").sha256
    assert len(read) == 2
    assert load(root).split("test").sha256 == before
    assert len(read) == 2
    told = (root / "a" / "1.png").stat()
    (root / "a" / "1.png").write_bytes(picture(3))
    os.utime(root / "a" / "1.png", ns=(told.st_atime_ns, told.st_mtime_ns))
    assert load(root).split("test").sha256 != before, "the same size, the time put back"
    assert len(read) == 3
    (kept,) = (cache / "hashes").glob("*.json")
    kept.write_text('{"x": "no"}')
    load(root)
    assert len(read) == 5
    monkeypatch.setattr(hashes, "SETTLED", 10**18)
    put(root, a__1=5)
    load(root)
    load(root)
    assert len(read) == 7, "a file that may still change is read each time"


def test_a_cache_that_cannot_be_written_costs_time_alone(root, tmp_path, monkeypatch):
    put(root, a__1=1)
    before = load(root).split("test").sha256
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "file"))
    assert load(root).split("test").sha256 == before


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    roots = [put(tmp_path / name / "pictures", a__1=i, b__1=i + 9) for i, name in enumerate(("one", "two"))]
    given: list[object] = [{"imagefolder": {"root": str(root), "size": 8}} for root in roots]
    for data in (given, [given[0], f"imagefolder:{roots[1]}"]):
        sweep = sweep_of({"name": "s", "models": ["python:tests.nets:colours"], "data": data}, "here")
        cells = [cell for cell, _ in plan(sweep)]
        names = list(dict.fromkeys(cell.lifecycle.data.name for cell in cells))
        assert len(names) == 2
        assert all(f"root={root}" in name for root, name in zip(roots, names, strict=True))
        assert len({cell.run_id for cell in cells}) == len(cells)


def test_a_data_set_is_called_by_its_folder(tmp_path, monkeypatch):
    put(tmp_path / "v1.5", a__1=1)
    assert load(tmp_path / "v1.5").name == "v1.5"
    assert load(zipped(tmp_path / "p.zip")).name == "p"
    put(tmp_path / "x\x1b[31m", a__1=1)
    assert load(tmp_path / "x\x1b[31m").name == "x?[31m"
    monkeypatch.chdir(tmp_path / "v1.5")
    assert load(Path()).name == "v1.5"


def test_a_root_in_a_word(root):
    put(root, a__1=1)
    data, test = load_data(f"imagefolder:{root}")
    assert (data.name, data.space.height, len(test)) == ("pictures", 224, 1)
    with pytest.raises(BadData, match="not there"):
        load_data("imagefolder:nowhere")
    with pytest.raises(BadValue, match="no folder"):
        load_data("scenes:nowhere")
    with pytest.raises(BadValue, match="root: FOLDER"):
        load_data("imagefolder:")


def test_imagenets_thousand_classes_have_words_and_files_have_names(tmp_path: Path) -> None:
    wnids = [f"n{i:08d}" for i in range(1000)]
    for wnid in wnids:
        (tmp_path / "val" / wnid).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / wnids[3] / "a.png")
    data, split = load_data({"imagenet": {"root": str(tmp_path), "size": 8}})
    assert data.classes == tuple(wnids), "the codes, by which orders are compared"
    assert (data.spoken[0], data.spoken[3], len(data.spoken)) == ("tench", "tiger shark", 1000)
    assert split.files == (f"{wnids[3]}/a.png",)
    assert data.note == "pictures of 8 × 8 pixels"
    assert split.at(torch.tensor([0])).mapped(lambda x, _: x, "same").files == split.files
