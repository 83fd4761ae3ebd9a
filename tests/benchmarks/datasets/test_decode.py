"""The rules of decoding, each by exact values, and files that lie about what they are."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustsuite.benchmarks.datasets.decode import PIXELS, decode, read_pictures
from robustsuite.errors import BadData

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (5, 7, 4)).astype(np.uint16)
GREY = np.array([[0, 50], [100, 255]], np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(decode(data, "'x'", mode))


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits with 1 to 4 channels, which PIL cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    (h, w, c), rows = values.shape, values.astype(">u2")
    head = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff16(values: np.ndarray, planes: int = 1) -> bytes:
    """A TIFF of 16 bits with 3 channels, which PIL cannot write."""
    h, w, c = values.shape
    data = values.astype("<u2").tobytes()
    entries = [(256, w), (257, h), (258, None), (259, 1), (262, 2), (273, 8), (277, c), (278, h), (279, len(data)),
               (284, planes)]  # fmt: skip
    bits = 8 + len(data) + 2 + 12 * len(entries) + 4
    table = b"".join(struct.pack("<HHII", tag, *((3, c, bits) if v is None else (4, 1, v))) for tag, v in entries)
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(entries)) + table + bytes(4) + struct.pack("<3H", *[16] * 3)


def test_16_bits_are_scaled_and_rounded_not_clipped_or_cut():
    scaled = np.rint(DEEP / 65535 * 255).astype(np.uint8)
    grey = np.repeat(scaled[..., :1], 3, 2)
    assert (pixels(png16(DEEP[..., :1])) == grey).all()
    assert (pixels(png16(DEEP[..., :2])) == grey).all()
    for channels in (3, 4):
        assert (pixels(png16(DEEP[..., :channels])) == scaled[..., :3]).all()
    assert (pixels(tiff16(DEEP[..., :3])) == scaled[..., :3]).all()
    one = Image.fromarray(DEEP[..., 0])
    for kind, options in (("PNG", {}), ("PPM", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        assert (pixels(saved(one, kind, **options)) == grey).all()
    colours = b"P6 7 5 65535\n" + DEEP[..., :3].astype(">u2").tobytes()
    assert (pixels(colours) == scaled[..., :3]).all()
    with pytest.raises(BadData, match="plane"):
        pixels(tiff16(DEEP[..., :3], planes=2))


def test_a_16_bit_ramp_is_the_8_bit_one_within_half_a_level():
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    found = pixels(saved(Image.fromarray(ramp), "PNG"), "L").astype(float)
    assert np.abs(found - ramp / 65535 * 255).max() <= 0.5
    assert (found[0, 0], found[-1, -1]) == (0, 255)
    dark = b"P5 2 2 4095\n" + np.array([0, 1000, 2000, 4095], ">u2").tobytes()
    assert pixels(dark, "L").ravel().tolist() == [0, 62, 125, 255]
    assert pixels(b"P6 1 2 100\n" + bytes([0, 50, 100, 10, 20, 200])).tolist() == [[[0, 128, 255]], [[26, 51, 255]]]
    assert pixels(b"P2 2 1 1000\n0 500", "L").ravel().tolist()[0] == 0
    with pytest.raises(BadData, match="18 bytes where 20 are declared"):
        pixels(dark[:-4] + b"ab")


def test_a_white_that_is_zero_is_turned_round():
    data = saved(Image.fromarray(DEEP[..., 0]), "TIFF", tiffinfo={262: 0})
    assert (pixels(data, "L") == np.rint((65535 - DEEP[..., 0].astype(int)) / 65535 * 255)).all()


def test_floats_are_taken_in_the_unit_interval_alone():
    image = Image.fromarray(np.array([[0, 0.5], [0.25, 1]], np.float32))
    assert pixels(saved(image, "TIFF"), "L").ravel().tolist() == [0, 128, 64, 255]
    for bad, words in ((1.5, "0 to 1.5"), (-1.0, "-1 to 1"), (np.nan, "nan")):
        wrong = np.array([[0, bad], [0.25, 1]], np.float32)
        with pytest.raises(BadData, match=words):
            pixels(saved(Image.fromarray(wrong), "TIFF"))
    with pytest.raises(BadData, match="say no range"):
        pixels(saved(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(kind, orientation):
    turned = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a),
    }  # fmt: skip
    picture = np.kron(np.array([[0, 80, 160], [255, 40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    found = pixels(saved(Image.fromarray(picture).convert("RGB"), kind, exif=exif, **options), "L").astype(int)
    expected = turned[orientation](picture)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (2 if kind == "JPEG" else 0)


def test_cmyk_becomes_rgb():
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert pixels(saved(inks, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    found = pixels(saved(inks, "JPEG", quality=100))[4, 4].astype(int)
    assert np.abs(found - [255, 0, 0]).max() <= 2
    dark = Image.new("CMYK", (8, 8), (0, 51, 0, 102))
    assert pixels(saved(dark, "TIFF"))[0, 0].tolist() == [153, 122, 153]


@pytest.mark.filterwarnings("error")
def test_alpha_is_dropped_and_the_stored_colour_counts():
    clear = np.array([[[10, 200, 30, 0], [90, 80, 70, 255]]], np.uint8)
    assert (pixels(saved(Image.fromarray(clear), "PNG")) == clear[..., :3]).all()
    both = np.array([[[10, 0], [90, 128]]], np.uint8)
    assert pixels(saved(Image.fromarray(both, "LA"), "PNG"))[0, :, 0].tolist() == [10, 90]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([1, 2, 3, 200, 100, 50])
    for transparency in (1, b"\x80\x00"):
        found = pixels(saved(palette, "PNG", transparency=transparency))
        assert found.tolist() == [[[1, 2, 3], [200, 100, 50]]]
    assert pixels(saved(palette, "GIF", transparency=1)).tolist() == [[[1, 2, 3], [200, 100, 50]]]
    grey = saved(Image.fromarray(GREY), "PNG", transparency=50)
    assert (pixels(grey, "L") == GREY).all()


def test_the_first_frame_and_the_first_page():
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    for kind in ("GIF", "TIFF", "PNG"):
        assert (pixels(saved(frames[0], kind, save_all=True, append_images=frames[1:]), "L") == 10).all()


def test_few_bits_and_bitmaps():
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    for kind in ("PNG", "PPM", "TIFF", "BMP"):
        assert pixels(saved(bits, kind), "L").ravel().tolist() == [0, 255, 255, 0]
    head = struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    assert pixels(head + struct.pack("<HH", 31 << 10, 0)).tolist() == [[[255, 0, 0]]], "5 bits a colour"


def test_postscript_under_a_pictures_name_runs_nothing(tmp_path: Path, monkeypatch):
    file = tmp_path / "x.jpg"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    ran: list[object] = []
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *a, **k: ran.append(a))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: ran.append(a))
    with pytest.raises(BadData, match=r"x\.jpg.*none of JPEG, PNG"):
        read_pictures([file])
    assert not ran


def test_other_formats_are_a_sentence():
    for kind in ("ICO", "TGA", "PCX", "SGI", "PDF"):
        with pytest.raises(BadData, match="of another kind"):
            pixels(saved(Image.new("RGB", (16, 16)), kind))


def test_bombs_and_cut_files_are_sentences_that_name_the_file(tmp_path: Path):
    side = int(PIXELS**0.5) + 1
    for data in (
        f"P6 {side} {side} 255\n".encode(), f"P6 {30 * side} {side} 255\n".encode(),
        saved(Image.new("1", (side, side)), "TIFF", compression="group4"),
    ):  # fmt: skip
        with pytest.raises(BadData, match=r"pixels.*mend the file or leave it out"):
            pixels(data)
    noise = Image.fromarray(DEEP[..., :3].astype(np.uint8)).resize((40, 40))
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        whole = saved(noise, kind)
        (tmp_path / "a\x1b[31m.x").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadData, match=r"a\\x1b\[31m\.x") as found:
            read_pictures([tmp_path / "a\x1b[31m.x"])
        assert str(found.value).isprintable()


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_end_in_a_picture_or_a_sentence():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "PPM"):
        whole = saved(Image.fromarray(DEEP[..., :3].astype(np.uint8)), kind)
        for seed in range(25):
            rng = np.random.default_rng(seed)
            damaged = np.frombuffer(whole, np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
            with suppress(BadData):
                assert pixels(damaged.tobytes()).ndim == 3
