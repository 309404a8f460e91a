"""Heartbeats in Redis: a worker appears with its first one and expires without the next."""

import asyncio
import dataclasses

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker.storage.heartbeat import Identity, Load, WorkerHeartbeat, WorkerStatus
from berlin_worker.telemetry.stats import Stats
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.contract


def worker_heartbeat(client, worker, *, ttl_s=60.0, interval_s=0.01):
    return WorkerHeartbeat(
        client,
        Identity(worker, "host", 1, "1.2.3", 1000.0),
        snapshot=Stats().snapshot,
        load=lambda: Load(in_flight=0, capacity=None, draining=False),
        interval_s=interval_s,
        ttl_s=ttl_s,
    )


async def fleet(client) -> set[str]:
    return {worker.decode() for worker in await client.zrange(names.FLEET, 0, -1)}


async def until_gone(client, key):
    async with asyncio.timeout(30):
        while await client.exists(key):  # noqa: ASYNC110  # it is in Redis
            await asyncio.sleep(0.01)


async def test_worker_is_found_and_read_after_its_first_heartbeat(redis_client):
    await worker_heartbeat(redis_client, "one").heartbeat()
    await worker_heartbeat(redis_client, "two").heartbeat()
    assert await fleet(redis_client) == {"one", "two"}
    said = WorkerStatus.model_validate_json(await redis_client.get(names.alive_key("one")))
    assert said.worker == "one"


async def test_every_key_has_a_ttl(redis_client):
    await worker_heartbeat(redis_client, "one", ttl_s=5.5).heartbeat()
    keys = [key async for key in redis_client.scan_iter()]
    assert sorted(keys) == [b"worker:alive:{worker:fleet}:one", b"worker:fleet"]
    for key in keys:
        assert 0 < await redis_client.pttl(key) <= 6000


async def test_short_lived_worker_does_not_cut_the_fleet_short(redis_client):
    await worker_heartbeat(redis_client, "one", ttl_s=100).heartbeat()
    await worker_heartbeat(redis_client, "two", ttl_s=1).heartbeat()
    assert await redis_client.ttl(names.FLEET) > 50


async def test_silent_worker_expires_and_the_next_heartbeat_removes_it(redis_client):
    await worker_heartbeat(redis_client, "dead", ttl_s=0.05).heartbeat()
    await until_gone(redis_client, names.alive_key("dead"))
    await worker_heartbeat(redis_client, "alive").heartbeat()
    assert await fleet(redis_client) == {"alive"}


async def test_deregistered_worker_disappears_at_once(redis_client):
    one = worker_heartbeat(redis_client, "one")
    await one.heartbeat()
    await worker_heartbeat(redis_client, "two").heartbeat()
    await one.deregister()
    assert await fleet(redis_client) == {"two"}
    assert not await redis_client.exists(names.alive_key("one"))


async def test_heartbeat_continues_after_an_outage_of_redis_and_stops_at_once(redis_client):
    calls = 0

    class Flaky(redis.asyncio.Redis):
        async def execute_command(self, *args, **options):
            nonlocal calls
            calls += 1
            if calls == 1:
                raise redis.exceptions.ConnectionError("away")
            return await super().execute_command(*args, **options)

    async with Flaky(connection_pool=redis_client.connection_pool) as client:
        task = asyncio.create_task(worker_heartbeat(client, "one").beat_forever())
        async with asyncio.timeout(30):
            while not await redis_client.exists(names.alive_key("one")):  # noqa: ASYNC110  # in Redis
                await asyncio.sleep(0.01)
        await stopped(task)
    async with redis.asyncio.Redis(port=1) as nowhere:
        await worker_heartbeat(nowhere, "one").deregister()


@pytest.mark.parametrize("host", ["half \ud800", None], ids=["not UTF-8", "refused"])
async def test_heartbeat_goes_on_after_a_status_that_cannot_be_written(redis_client, caplog, host):
    one = worker_heartbeat(redis_client, "one")
    sound, one._identity = one._identity, dataclasses.replace(one._identity, host=host)
    task = asyncio.create_task(one.beat_forever())
    await until(lambda: "cannot be written" in caplog.text)
    one._identity = sound
    async with asyncio.timeout(30):
        while not await redis_client.exists(names.alive_key("one")):  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.01)
    await stopped(task)
