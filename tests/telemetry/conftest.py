"""A recorder of spans."""

from collections.abc import Iterator

import pytest

from tests.support.traces import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.provider.shutdown()
