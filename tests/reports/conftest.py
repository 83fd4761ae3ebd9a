"""The synthetic run every report test reads, built once."""

from pathlib import Path

import pytest
from report_store import Store, build

from robustsuite.reports.read.runs import Results, read


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("runs") / "nightly")


@pytest.fixture(scope="session")
def run(store: Store) -> Results:
    return read([store.root])


@pytest.fixture(scope="session")
def written(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from robustsuite.reports import write_report

    out = tmp_path_factory.mktemp("report")
    write_report([store.root], out)
    return out
