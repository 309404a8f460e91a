"""Fixtures for tests with real workers."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from worker.embedded.upstream import upstream_in_thread


@pytest.fixture
def fleet(real_redis_url: str) -> Iterator[Fleet]:
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        yield Fleet(real_redis_url, upstream)
