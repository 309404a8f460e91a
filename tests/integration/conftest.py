"""Fixtures for tests with real workers."""

from collections.abc import Iterator

import pytest

from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.fleet import Fleet


@pytest.fixture
def fleet(real_redis_url: str) -> Iterator[Fleet]:
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        yield Fleet(real_redis_url, upstream)
