"""One stack for the tests of commands as processes."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.cli import Stack, cli_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield one Redis, upstream and worker; each test finds its jobs by ID and prompt."""
    with cli_stack() as stack:
        yield stack


@pytest.fixture
def job_id() -> str:
    return f"cli-{uuid.uuid4().hex}"
