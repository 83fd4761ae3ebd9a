"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# Pictures of 8 x 8 gain nothing from threads, and threads that wait for each other on a busy machine cost tenfold.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pictures and weights, for development; tests that need it skip where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("ROBUSTSUITE_SHARED", default))
    if not (folder / "models").is_dir():
        pytest.skip(f"no real data at {folder}; set ROBUSTSUITE_SHARED")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what is made once a file, or once for all, go to one worker: two would make it twice."""
    for item in items:
        made = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
        shared_ = sorted(n for n, defs in made.items() if defs[-1].scope in ("module", "session") and n not in THEIRS)
        if shared_:
            item.add_marker(pytest.mark.xdist_group(f"{shared_[0]} of {made[shared_[0]][-1].baseid}"))


THEIRS = {"shared", "tmp_path_factory", "worker_id", "testrun_uid", "pytestconfig", "record_testsuite_property"}
"""Fixtures of a wider scope that cost nothing."""
