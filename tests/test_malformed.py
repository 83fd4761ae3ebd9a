"""Files that lie: each kind that once took gigabytes, minutes or a traceback, and a sample of the whole corpus."""

import logging
import os
import struct
import sys
import tarfile
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from robustsuite.app import cli
from robustsuite.benchmarks.datasets import decode as decoding
from robustsuite.benchmarks.datasets.cifar10 import from_npz
from robustsuite.benchmarks.datasets.cifar_files import unpickled
from robustsuite.benchmarks.datasets.decode import ALONE, decode
from robustsuite.benchmarks.datasets.folders import in_order
from robustsuite.benchmarks.models.endpoint import read_endpoint
from robustsuite.errors import BadData, BadModel, BadValue, UsageError, cause
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.models import load_model
from tests.malformed import archives, data, models, pictures, texts
from tests.malformed.made import NETS, Case

SPACE = InputSpace(1, 8, 8, 10)
CASES = [*islice(chain(models.cases(), data.cases()), 5, None, 16)]
SLOW = ("9,000", "MB", "MiB", "GiB", "scans", "60,000", "20,000")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    (here / "nets.py").write_text(NETS)


@pytest.mark.parametrize("case", [c for c in CASES if not any(word in c.name for word in SLOW)], ids=lambda c: c.name)
def test_a_sample_ends_in_a_sentence_or_is_still_valid(
    case: Case, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case.make(Path.cwd())
    monkeypatch.setattr(sys, "argv", ["robustsuite", *case.words])
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        for name in ("nets", "own"):
            sys.modules.pop(name, None)
    out, err = capfd.readouterr()
    assert end.value.code in (None, 0, 2, 3), err
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    assert not Path("../RAN").exists()
    if end.value.code == 2:
        assert "Usage:" in err or (err.startswith("error: ") and err.count("\n") == 1), err
    if end.value.code == 3:
        assert "failed: " in out


def test_the_corpus_is_large_enough_and_the_same_every_time() -> None:
    first, again = ([(c.kind, c.name) for c in chain(models.cases(), data.cases())] for _ in range(2))
    assert first == again
    assert not [name for name, n in Counter(first).items() if n > 1]
    assert len(first) >= 350


def test_aliases_in_an_endpoints_yaml_are_counted_before_they_are_shown() -> None:
    Path("e.yaml").write_text(f"{texts.BOMB}\nname: e\nurl: *a19")
    started = time.monotonic()
    with pytest.raises(BadData, match=r"values in e.yaml"):
        read_endpoint(Path("e.yaml"))
    assert time.monotonic() - started < 5


def test_a_date_without_quotes_is_read_in_an_endpoints_yaml() -> None:
    until = "authorisation: {by: a, until: 2999-01-01, scope: x}"
    Path("e.yaml").write_text(f"name: e\nurl: http://example.org/\n{until}")
    found = read_endpoint(Path("e.yaml")).authorisation
    assert found is not None
    assert str(found.until) == "2999-01-01"


def test_a_file_beyond_what_its_kind_may_have_is_not_read() -> None:
    for name in ("n.onnx", "e.yaml", "c", "test_batch"):
        Path(name).touch()
        os.truncate(name, 3 << 30)
    pytest.importorskip("onnxruntime")
    for ask in (
        lambda: load_model("onnxruntime:n.onnx", SPACE),
        lambda: load_model("http:e.yaml", SPACE),
        lambda: load_data({"cifar10": {"root": "."}}),
    ):
        with pytest.raises(UsageError, match=r"more than"):
            ask()
    pictures.folders(Path.cwd(), {})
    with pytest.raises(BadData, match=r"64 MiB of classes"):
        load_data({"imagefolder": {"root": "pics", "classes_file": "c"}})


def test_long_names_of_tensors_are_cut() -> None:
    torch.save({"a" * 100_000: torch.zeros(1)}, "w.pt")
    with pytest.raises(BadModel) as found:
        load_model("checkpoint:w.pt?arch=python:nets:digit", SPACE)
    sys.modules.pop("nets", None)
    assert len(str(found.value)) < 1500


def test_what_torch_logs_of_a_damaged_program_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    content = models.program()
    shape = models.repacked(content, lambda n, c: (n, c.replace(b'"as_int": 64', b'"as_int": 1000000000000000')))
    Path("n.pt2").write_bytes(shape)
    with caplog.at_level(logging.DEBUG), pytest.raises(BadModel) as found:
        load_model("export:n.pt2", SPACE)
    assert not caplog.records
    assert "warnings above" not in str(found.value)
    assert logging.root.manager.disable == logging.NOTSET


def test_an_error_whose_words_raise_is_told() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert cause(Mute()).startswith("Mute: a message that cannot be read")


def test_a_memo_of_billions_takes_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(BadData, match=r"nothing was run"):
        unpickled(b"\x80\x02}r\xff\xff\xff\x01.", "test_batch")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


LABELS = {
    "halves": np.full(10, 0.5),
    "columns": np.zeros((10, 1), int),
    "one": np.array(3),
    "booleans": np.ones(10, bool),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_are_a_list_of_whole_numbers(labels: Any) -> None:
    Path("p_test.npz").write_bytes(archives.pack(images=pictures.PIXELS, labels=labels))
    with pytest.raises(BadData, match=r"labels in p_test.npz as a list of whole numbers"):
        from_npz(Path("p_test.npz"))
    with pytest.raises(BadData, match=r"whole numbers|uint8 rows"):
        unpickled(archives.batch(labels=labels), "test_batch")


def test_offsets_rise_within_the_pack_and_pictures_have_its_size() -> None:
    blob = [pictures.picture("jpg", one) for one in pictures.PIXELS]
    cuts = np.cumsum([0, *map(len, blob)])
    joined, labels = np.frombuffer(b"".join(blob), np.uint8), np.arange(10)
    for offsets in (-cuts, cuts[::-1], cuts + 1, cuts[:5], cuts / 2):
        Path("p.npz").write_bytes(archives.pack(jpeg=joined, offsets=offsets, labels=labels))
        with pytest.raises(BadData, match=r"offsets"):
            from_npz(Path("p.npz"))
    wide = np.frombuffer(pictures.picture("png", pictures.PIXELS[0][:5]), np.uint8)
    Path("p.npz").write_bytes(archives.pack(jpeg=wide, offsets=np.array([0, len(wide)]), labels=labels[:1]))
    with pytest.raises(BadData, match=r"32 x 32 pixels in p.npz, picture 0"):
        from_npz(Path("p.npz"))


def test_an_archive_is_not_unpacked_beyond_half_a_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustsuite.benchmarks.datasets.cifar10.BYTES", 10_000)
    monkeypatch.setattr("robustsuite.benchmarks.datasets.cifar_files.BYTES", 10_000)
    Path("p_test.npz").write_bytes(archives.pack(images=pictures.PIXELS, labels=np.arange(10)))
    Path("c.tar.gz").write_bytes(archives.tarred({"readme": bytes(20_000), "test_batch": archives.batch()}))
    for name in ("p_test.npz", "c.tar.gz"):
        with pytest.raises(BadData, match=r"more than 10,000"):
            load_data({"cifar10": {"root": name}})


def test_many_scans_and_deep_pictures_of_many_pixels_are_refused_at_once() -> None:
    started = time.monotonic()
    small = pictures.picture("jpg", np.zeros((64, 64, 3), np.uint8), progressive=True)
    with pytest.raises(BadData, match=r"scans, more than 500"):
        decode(pictures.scans(small, 600), "x")
    for deep in (pictures.png(5000, 5000, 16, rows=1), pictures.png(5000, 5000, 16, 0, rows=1), b"P6 5000 5000 254\n"):
        with pytest.raises(BadData, match=r"other than 8 bits, more than"):
            decode(deep, "x")
    assert decode(pictures.picture("jpg", progressive=True), "x").size == (32, 32)
    assert time.monotonic() - started < 5


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, whole = Counter[str](), [0], decoding.decode
    lock = threading.Lock()

    def watched(*args: Any) -> Any:
        with lock:
            inside["n"] += 1
            most.append(inside["n"])
        time.sleep(0.02)
        with lock:
            inside["n"] -= 1
        return whole(*args)

    monkeypatch.setattr(decoding, "decode", watched)
    pictures.folders(Path.cwd(), {})
    files = sorted(Path("pics").rglob("*.png"))
    decoding.read_pictures(files)
    assert max(most) > 1
    for name in ("LARGE", "HEAVY"):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, name, 10)
            most.clear()
            decoding.read_pictures(files)
        assert max(most) == 1
    assert ALONE.acquire(blocking=False)
    ALONE.release()


def test_a_ribbon_is_refused_before_it_is_enlarged() -> None:
    pictures.folders(Path.cwd(), {"0.png": pictures.png(8_000_000, 1, 1, 0)})
    (read, _) = load_data({"imagefolder": {"root": "pics", "size": 224}})
    with pytest.raises(BadData, match=r"once its shorter side is 256 in 'pics/a/0.png', got 8000000 x 1"):
        read.split("test").images(torch.arange(1))


@pytest.mark.parametrize("given", [{"size": 0}, {"size": -1}, {"size": 10**6}, {"resize": 0}, {"resize": 10**6}])
def test_sizes_of_no_picture_are_refused(given: dict[str, int]) -> None:
    pictures.folders(Path.cwd(), {})
    with pytest.raises(BadValue, match=r"from 1 to 8192 pixels"):
        load_data({"imagefolder": {"root": "pics", **given}})


def test_members_that_overlap_or_burst_are_refused() -> None:
    Path("z.zip").write_bytes(archives.fields(archives.good_zip(), 42, bytes(4)) + b"")
    large = archives.fields(archives.good_zip(), 20, struct.pack("<I", 1 << 20))
    Path("o.zip").write_bytes(large)
    Path("t.zip").write_bytes(archives.twice(pictures.picture("png")))
    with pytest.raises(BadData, match=r"got 'a/p.png' twice"):
        load_data({"imagefolder": {"root": "t.zip"}})
    with pytest.raises(BadData, match=r"overlap"):
        load_data({"imagefolder": {"root": "o.zip"}})
    Path("b.zip").write_bytes(archives.zipped({"a/p.png": bytes(70 << 20), "b/p.png": b"x"}))
    with pytest.raises(BadData, match=r"that unpack to 73,400,320"):
        load_data({"imagefolder": {"root": "b.zip"}})


def test_classes_that_are_no_text_or_no_number_are_told_with_their_line() -> None:
    pictures.folders(Path.cwd(), {})
    for content, said in ((b"\xff\xfe", "UTF-8"), ("²\ta".encode(), "line 1"), (b"1" * 5000 + b"\ta", "line 1")):
        Path("c").write_bytes(content)
        with pytest.raises(BadData, match=said) as found:
            load_data({"imagefolder": {"root": "pics", "classes_file": "c"}})
        assert len(str(found.value)) < 500
    assert in_order(["10", "2", "9" * 5000, "0"]) == ("0", "2", "10", "9" * 5000)


def test_a_batch_that_fits_no_memory_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    for batch in (10**12, 0):
        Path("n.onnx").write_bytes(models.graph((batch, 1, 8, 8)))
        with pytest.raises(BadModel, match="a batch that fits into memory"):
            load_model("onnxruntime:n.onnx", SPACE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url: 'http://['", "http or https url"),
        ("url: http://localhost:99999/", "http or https url"),
        ('url: http://localhost/\nheaders: {a: "b\\nc: d"}', "headers of plain letters"),
        ("url: http://localhost/\nheaders: {é: d}", "headers of plain letters"),
    ],
)
def test_addresses_and_headers_that_are_none_are_refused(text: str, says: str) -> None:
    Path("e.yaml").write_text(f"name: e\n{text}\n", "utf-8")
    with pytest.raises(UsageError, match=says):
        read_endpoint(Path("e.yaml"))


def test_a_file_that_does_not_decode_is_let_go() -> None:
    pictures.folders(Path.cwd(), {"0.png": bytes(20 << 20)})
    tracemalloc.start()
    with pytest.raises(BadData, match="got none of JPEG") as found:
        decoding.read_pictures([Path("pics/a/0.png")])
    assert tracemalloc.get_traced_memory()[0] < 10 << 20
    assert found
    tracemalloc.stop()


def test_noughts_are_no_archive_and_packed_ones_are_read() -> None:
    Path("c.tar.gz").touch()
    os.truncate("c.tar.gz", 1 << 30)
    started = time.monotonic()
    with pytest.raises(BadData, match="CIFAR-10"):
        load_data({"cifar10": {"root": "c.tar.gz"}})
    assert time.monotonic() - started < 5
    for way in ("gz", "bz2", "xz"):
        with tarfile.open("c.tar", f"w:{way}") as archive:
            Path("test_batch").write_bytes(archives.batch())
            archive.add("test_batch")
        assert len(load_data({"cifar10": {"root": "c.tar"}})[1]) == 10


@pytest.mark.skipif(os.name != "posix", reason="a script on PATH")
def test_postscript_named_as_a_picture_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "gs"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$1" = --version ] || : > ran\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    content = pictures.shell(pictures.OTHERS["EPS"])
    pictures.folders(Path.cwd(), {"0.jpg": content})
    with pytest.raises(BadData, match="got none of JPEG"):
        decoding.read_pictures([Path("pics/a/0.jpg")])
    assert not Path("ran").exists()
    with suppress(OSError), Image.open("pics/a/0.jpg") as picture:  # PIL left alone would
        picture.load()
    assert Path("ran").exists()
