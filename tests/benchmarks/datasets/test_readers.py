"""Readers against files built here in their authors' layouts, and against files that lie."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustsuite.benchmarks.datasets.decode import INTERPOLATIONS
from robustsuite.errors import BadData, BadValue, UsageError
from robustsuite.serve.data import load_data

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6 * 20, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 6 * 20)
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
TEST = torch.from_numpy(IMAGES[100:]).permute(0, 3, 1, 2).float() / 255


def batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    rows = IMAGES.transpose(0, 3, 1, 2).reshape(-1, 3072)
    return {n: (rows[20 * i : 20 * i + 20], LABELS[20 * i : 20 * i + 20].tolist()) for i, n in enumerate(BATCHES)}


def python_version(folder: Path) -> Path:
    folder.mkdir()
    for name, (rows, labels) in batches().items():
        (folder / name).write_bytes(pickle.dumps({b"data": rows, b"labels": labels, b"batch_label": b"x"}, protocol=2))
    return folder


def checked(spec: dict) -> None:
    data, test = load_data({"cifar10": spec})
    assert torch.equal(test.images(torch.arange(20)), TEST)
    assert test.y.tolist() == LABELS[100:].tolist()
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 90, "val": 10, "test": 20}
    ids = torch.cat([data.split("train").ids, data.split("val").ids])
    assert sorted(ids.tolist()) == list(range(100))
    assert torch.equal(data.split("val").y, torch.from_numpy(LABELS)[data.split("val").ids])


def test_the_python_version_extracted_and_as_an_archive(tmp_path):
    folder = python_version(tmp_path / "cifar-10-batches-py")
    checked({"root": str(folder)})
    checked({"root": str(tmp_path)})
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    checked({"root": str(tmp_path / "cifar-10-python.tar.gz")})


def test_the_binary_version(tmp_path):
    for name, (rows, labels) in batches().items():
        records = np.concatenate([np.array(labels, np.uint8)[:, None], rows], 1)
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    checked({"root": str(tmp_path)})
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(BadData, match="records of 3073"):
        load_data({"cifar10": {"root": str(tmp_path)}})


def test_packs_of_pixels_and_of_png_blobs(tmp_path):
    np.savez(tmp_path / "c_train.npz", images=IMAGES[:100], labels=LABELS[:100])
    np.savez(tmp_path / "c_test.npz", images=IMAGES[100:], labels=LABELS[100:])
    checked({"root": str(tmp_path)})
    blobs = [png(image) for image in IMAGES[100:]]
    np.savez(
        tmp_path / "c_test.npz", jpeg=np.frombuffer(b"".join(blobs), np.uint8), labels=LABELS[100:],
        offsets=np.cumsum([0, *map(len, blobs)]),
    )  # fmt: skip
    checked({"root": str(tmp_path)})
    (tmp_path / "c_train.npz").unlink()
    assert set(load_data({"cifar10": {"root": str(tmp_path)}})[0].splits) == {"test"}
    with pytest.raises(BadData, match="'lossless' in its name"):
        load_data({"cifar10": {"root": str(tmp_path), "pack": "lossless"}})


def test_of_several_test_packs_the_one_that_is_read_is_named(tmp_path):
    def note(**spec: str) -> str:
        return load_data({"cifar10": {"root": str(tmp_path), **spec}})[0].note

    for name in ("c_test_jpeg", "c_test_lossless"):
        np.savez(tmp_path / f"{name}.npz", images=IMAGES[100:], labels=LABELS[100:])
    assert note() == "test pictures of c_test_jpeg.npz, not of c_test_lossless.npz"
    assert note(pack="lossless") == "test pictures of c_test_lossless.npz, not of c_test_jpeg.npz"
    python_version(tmp_path / "cifar-10-batches-py")
    assert note() == "", "none of the packs is read beside the published files"


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_a_zip_of_class_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for i, name in enumerate(("airplane", "cat")):
            archive.writestr(f"{name}/{i}.png", png(IMAGES[i]))
    _, test = load_data({"cifar10": {"root": str(tmp_path / "c.zip")}})
    assert test.y.tolist() == [0, 3]
    assert torch.equal(test.images(torch.tensor([1]))[0], torch.from_numpy(IMAGES[1]).permute(2, 0, 1) / 255)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_batch_with_code_in_it_is_refused_and_not_run(tmp_path):
    folder = python_version(tmp_path / "cifar-10-batches-py")
    target = tmp_path / "exploded"
    bomb = pickle.dumps({b"data": Bomb(target), b"labels": []}, protocol=2)
    (folder / "test_batch").write_bytes(bomb)
    with pytest.raises(BadData, match="nothing was run"):
        load_data({"cifar10": {"root": str(folder)}})
    assert not target.exists()
    pickle.loads(bomb)  # noqa: S301 - the bomb is a real one
    assert target.exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": IMAGES[:2].astype(np.float32), "labels": LABELS[:2]}, "uint8"),
        ({"images": IMAGES[:2, :16], "labels": LABELS[:2]}, "32, 32"),
        ({"images": IMAGES[:2], "labels": LABELS[:3]}, "3 labels"),
        ({"images": IMAGES[:2], "labels": np.array([1, 10])}, "labels 0"),
        ({"pixels": IMAGES[:2]}, "images and labels"),
        ({"images": np.array([Path("x")]), "labels": LABELS[:1]}, "images and labels"),
    ],
)
def test_packs_that_do_not_fit_are_sentences(tmp_path, arrays, words):
    np.savez(tmp_path / "c_test.npz", **arrays)
    with pytest.raises(BadData, match=words):
        load_data({"cifar10": {"root": str(tmp_path)}})


def test_missing_batches_folders_and_archives_are_sentences(tmp_path):
    (python_version(tmp_path / "cifar-10-batches-py") / "data_batch_3").unlink()
    (tmp_path / "bad.tar.gz").write_bytes(b"no archive")
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    (tmp_path / "empty").mkdir()
    wrong = {
        "cifar-10-batches-py": "data_batch_3", "bad.tar.gz": "archive", "bad.zip": "archive", "empty": "none of them",
        "absent": "not there",
    }  # fmt: skip
    for name, words in wrong.items():
        with pytest.raises(BadData, match=words):
            load_data({"cifar10": {"root": str(tmp_path / name)}})
    for name in ("cifar10", "imagefolder", "imagenet"):
        with pytest.raises(BadValue, match="root: FOLDER"):
            load_data(name)
        with pytest.raises(BadData, match="not there"):
            load_data({name: {"root": str(tmp_path / "absent")}})


def tall(value: int) -> bytes:
    """A picture of 40 x 80 with three flat bands of 20, 40 and 20 rows."""
    image = np.full((80, 40, 3), 10, np.uint8)
    image[20:60] = value
    return png(image)


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_folder_is_resized_by_its_shorter_side_and_cropped_in_the_middle(tmp_path, packed):
    for name, value in (("apple", 100), ("pear", 200)):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "a.png").write_bytes(tall(value))
    root = tmp_path / "d"
    if packed:
        root = tmp_path / "d.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for file in sorted((tmp_path / "d").rglob("*.png")):
                archive.write(file, file.relative_to(tmp_path / "d"))
    data, test = load_data({"imagefolder": {"root": str(root), "size": 20, "resize": 20}})
    assert data.classes == ("apple", "pear")
    assert data.space.shape == (3, 20, 20)
    x = test.images(torch.arange(2))
    assert torch.equal(x[:, :, 2:-2], (torch.tensor([100.0, 200.0]) / 255).view(2, 1, 1, 1).expand(2, 3, 16, 20))


def test_train_and_val_folders_become_splits(tmp_path):
    for split, n in (("train", 20), ("test", 3)):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(n):
            (tmp_path / split / "a" / f"{i}.png").write_bytes(png(IMAGES[i]))
    data, _ = load_data({"imagefolder": {"root": str(tmp_path), "size": 32}})
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 18, "val": 2, "test": 3}


def test_a_truncated_picture_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "whole.png").write_bytes(png(IMAGES[0]))
    (tmp_path / "a" / "cut.png").write_bytes(png(IMAGES[1])[:500])
    (tmp_path / "a" / "text.jpg").write_text("hello")
    _, test = load_data({"imagefolder": {"root": str(tmp_path), "size": 32}})
    assert test.images(torch.tensor([2])).shape == (1, 3, 32, 32)
    for position, name in ((0, "cut.png"), (1, "text.jpg")):
        with pytest.raises(BadData, match=name):
            test.images(torch.tensor([position]))


def test_imagenet_takes_its_indices_from_a_thousand_folders_or_a_file(tmp_path):
    wnids = [f"n{i:08d}" for i in range(1000)]
    for wnid in wnids:
        (tmp_path / "val" / wnid).mkdir(parents=True)
    for i in (7, 995):
        (tmp_path / "val" / wnids[i] / "ILSVRC2012_val_1.JPEG").write_bytes(png(IMAGES[i % 100]))
    data, test = load_data({"imagenet": {"root": str(tmp_path), "size": 28}})
    assert test.y.tolist() == [7, 995]
    assert data.space.classes == 1000
    (tmp_path / "val" / wnids[3]).rmdir()
    with pytest.raises(BadData, match="got 999"):
        load_data({"imagenet": {"root": str(tmp_path)}})
    (tmp_path / "c.txt").write_text("".join(f"{i}\t{w}\tname {i}, other\n" for i, w in enumerate(wnids)))
    data, test = load_data({"imagenet": {"root": str(tmp_path), "classes_file": str(tmp_path / "c.txt")}})
    assert test.y.tolist() == [7, 995]
    assert data.classes[7] == "n00000007 name 7"
    (tmp_path / "c.txt").write_text("zero\tn0\tx\n")
    with pytest.raises(BadData, match="line 1"):
        load_data({"imagenet": {"root": str(tmp_path), "classes_file": str(tmp_path / "c.txt")}})


def test_lazy_splits_are_named_by_their_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png(IMAGES[0]))
    hashes = [load_data({"imagefolder": {"root": str(tmp_path), "size": s}})[1].sha256 for s in (16, 16, 32)]
    (tmp_path / "a" / "2.png").write_bytes(png(IMAGES[1]))
    hashes.append(load_data({"imagefolder": {"root": str(tmp_path), "size": 16}})[1].sha256)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_digits_partition_the_1797_pictures():
    data, test = load_data("digits")
    assert torch.cat([s.ids for s in data.splits.values()]).sort().values.tolist() == list(range(1797))
    assert test.images(torch.arange(3)).shape == (3, 1, 8, 8)
    assert len(test) == 500


def test_the_published_packs(shared):
    _, test = load_data({"cifar10": {"root": str(shared / "data" / "cifar10"), "pack": "lossless"}})
    assert len(test) == 667
    _, some = load_data(
        {"imagenet": {"root": str(shared / "data" / "imagenet" / "imagenet_sample700.zip"), "first": 3}}
    )
    assert some.images(torch.arange(3)).shape == (3, 3, 224, 224)
    assert some.y.tolist() == some.y.sort().values.tolist()


def test_bad_data_is_a_usage_error():
    assert issubclass(BadData, UsageError)


def test_the_interpolations_are_torchvisions() -> None:
    from torchvision.transforms import InterpolationMode

    assert {mode.value for mode in InterpolationMode} == set(INTERPOLATIONS)
