"""Fixtures for pytest: ``pytest_plugins = ["berlin_worker.testing.plugin"]``."""

from collections.abc import Iterator

import pytest

from berlin_worker.client import Client
from berlin_worker.config import celery_variables
from berlin_worker.testing.fakes import FakeAsyncClient, FakeClient
from berlin_worker.testing.in_process import InProcessWorker


@pytest.fixture
def fake_berlin() -> Iterator[FakeClient]:
    """A client whose answers the test scripts."""
    with FakeClient() as client:
        yield client


@pytest.fixture
def fake_async_berlin() -> FakeAsyncClient:
    """An asynchronous client whose answers the test scripts."""
    return FakeAsyncClient()


@pytest.fixture
def berlin_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessWorker]:
    """A worker that repeats prompts; ``REDIS_URL`` leads to it while the test runs."""
    with InProcessWorker() as worker:
        monkeypatch.setenv("REDIS_URL", worker.redis_url)
        for variable in ("CELERY_BROKER_URL", *celery_variables.BROKERS, "WORKER_EVENT_SHARDS"):
            monkeypatch.delenv(variable, raising=False)
        yield worker


@pytest.fixture
def berlin_client(berlin_worker: InProcessWorker) -> Iterator[Client]:
    """A real client of :func:`berlin_worker`."""
    with berlin_worker.client() as client:
        yield client
