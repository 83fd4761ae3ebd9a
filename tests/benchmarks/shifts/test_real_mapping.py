"""Real ImageNet pictures as an ImageNetV2 tree: pictures in the wrong folders are caught."""

from pathlib import Path

import pytest

from robustsuite.benchmarks.datasets.listing import listed
from robustsuite.engine.execute import execute
from robustsuite.engine.plan import plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from tests.stored import rows as rows_of

N = 24


@pytest.mark.slow
@pytest.mark.parametrize("moved", [0, 1])
def test_pictures_in_the_wrong_folders_are_caught(shared: Path, tmp_path: Path, moved: int) -> None:
    imagenet = shared / "data" / "imagenet"
    lines = (imagenet / "imagenet_classes.txt").read_text().splitlines()
    index = {line.split("\t")[1]: int(line.split("\t")[0]) for line in lines}
    files = listed(imagenet / "imagenet_sample700.zip")
    wnids = [w for w in sorted(index) if files.get(f"val/{w}")][:N]
    for wnid in wnids:
        folder = tmp_path / "imagenetv2-top-images" / str((index[wnid] + moved) % 1000)
        folder.mkdir(parents=True)
        (folder / "a.jpeg").write_bytes(files[f"val/{wnid}"][0].read_bytes())
    net = shared / "models" / "imagenet_mobilenetv2_100_qat.safetensors"
    data = {"root": str(imagenet / "imagenet_sample700.zip"), "classes_file": str(imagenet / "imagenet_classes.txt")}
    sweep = sweep_of(
        {
            "name": "t", "models": [f"checkpoint:{net}?arch=timm:mobilenetv2_100&pad_type=same"],
            "data": [{"imagenet": {**data, "first": N}}],
            "shifts": [{"imagenetv2": {"root": str(tmp_path / "imagenetv2-top-images"), "partial": True}}],
        }, "t",
    )  # fmt: skip
    execute(plan(sweep), Store(tmp_path / "run"))
    rows = rows_of(tmp_path / "run")
    found = {row["corruption"] or row["shift"]: row for row in rows}
    flags = [flag["name"] for flag in found["top-images"]["flags"]]
    assert ("clean_at_chance" in flags) == bool(moved)
    assert "clean_at_chance" not in [flag["name"] for flag in found["clean"]["flags"]]
    assert found["top-images"]["sentence"].endswith(f"{N} of 10000 pictures, {N} of 1000 classes")
