"""The files of a batch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from berlin_worker.cli.batch.files import BatchFiles
from tests.support.batch import BatchRun


@pytest.fixture
def files(tmp_path: Path) -> Iterator[BatchFiles]:
    with BatchFiles(tmp_path / "out.jsonl") as opened:
        yield opened


@pytest.fixture
def batch(tmp_path: Path) -> BatchRun:
    return BatchRun(tmp_path)
