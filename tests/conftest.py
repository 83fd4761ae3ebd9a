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
