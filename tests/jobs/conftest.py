"""Fixtures of the tests that run jobs over a store."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio

from berlin_worker.jobs.leases import Leases
from tests.support.harness import FakeJobQueue, ScriptedProvider, Stream, Worker
from tests.support.lease_fakes import FakeLeaseStore
from tests.support.store_helpers import check_keys
from tests.support.waiting import stopped


@pytest.fixture
async def checked_redis(redis_client: redis.asyncio.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    """The client of the store; after the test :func:`check_keys` examines every key."""
    yield redis_client
    await check_keys(redis_client)


@pytest.fixture
def worker(checked_redis: redis.asyncio.Redis) -> Callable[..., Worker]:
    """A factory of workers over one Redis: ``worker(*scripts, **changes)``."""

    def make(*scripts: Stream, **changes: object) -> Worker:
        return Worker(checked_redis, ScriptedProvider(*scripts), **changes)

    return make


@pytest.fixture
def job_queue():
    return FakeJobQueue()


@pytest.fixture
def store():
    return FakeLeaseStore()


@pytest.fixture
def leases(store, job_queue):
    return Leases(
        store,
        lease_s=0.05,
        renew_interval_s=0.001,
        reap_interval_s=0.001,
        job_queue=job_queue,
        discard=store.discard,
    )


@pytest.fixture
async def renewing(leases):
    task = asyncio.create_task(leases.renew_forever())
    yield task
    assert not task.done()
    await stopped(task)


@pytest.fixture
async def reaping(leases):
    task = asyncio.create_task(leases.reap_forever())
    yield task
    assert not task.done()
    await stopped(task)
