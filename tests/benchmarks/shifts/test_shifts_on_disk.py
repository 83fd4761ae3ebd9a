"""The published layouts, read from miniature copies; each missing piece is named."""

import numpy as np
import pytest

from robustsuite.benchmarks.shifts.on_disk import cifar10_c, imagenet_c
from robustsuite.errors import BadData, BadValue, UnknownName


def test_imagenet_c(tmp_path):
    for wnid, name in (("n02", "b.JPEG"), ("n01", "z.JPEG"), ("n02", "a.JPEG")):
        folder = tmp_path / "fog" / "3" / wnid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    paths, wnids = imagenet_c(tmp_path, "fog", 3)
    assert [p.name for p in paths] == ["z.JPEG", "a.JPEG", "b.JPEG"]
    assert wnids == ["n01", "n02", "n02"]
    with pytest.raises(BadData, match="fog/4"):
        imagenet_c(tmp_path, "fog", 4)
    (tmp_path / "snow" / "1").mkdir(parents=True)
    with pytest.raises(BadData, match="no such file"):
        imagenet_c(tmp_path, "snow", 1)
    with pytest.raises(UnknownName, match="'frost'"):
        imagenet_c(tmp_path, "frosty", 1)
    with pytest.raises(BadValue, match="severity"):
        imagenet_c(tmp_path, "fog", 0)


def test_cifar10_c(tmp_path):
    images = np.arange(5 * 2 * 32 * 32 * 3, dtype=np.uint64).astype(np.uint8).reshape(10, 32, 32, 3)
    np.save(tmp_path / "fog.npy", images)
    with pytest.raises(BadData, match=r"labels\.npy"):
        cifar10_c(tmp_path, "fog", 1)
    np.save(tmp_path / "labels.npy", np.arange(10, dtype=np.uint8))
    x, y = cifar10_c(tmp_path, "fog", 4)
    np.testing.assert_array_equal(x, images[6:8])
    assert y.tolist() == [6, 7]
    assert y.dtype == np.int64
    with pytest.raises(BadData, match=r"snow\.npy"):
        cifar10_c(tmp_path, "snow", 1)
    np.save(tmp_path / "labels.npy", np.arange(9, dtype=np.uint8))
    with pytest.raises(BadData, match="as many labels"):
        cifar10_c(tmp_path, "fog", 1)
