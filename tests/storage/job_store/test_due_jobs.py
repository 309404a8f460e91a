"""Jobs that are due: which are reaped, which wait, and in which order."""

import asyncio
import math

import pytest
import redis.asyncio

from berlin_schemas import names
from tests.support.job_store_calls import ID, claim, submit
from tests.support.store_helpers import JOB, expire_lease, indexed, make_due, make_store, record

pytestmark = pytest.mark.contract


async def test_lost_job_is_reaped_by_one_of_many_and_is_due_again_later(store, redis_client):
    await claim(store)
    assert await store.due(10) == []
    await expire_lease(redis_client, ID)
    assert await store.due(10) == [ID]
    got = await asyncio.gather(
        *(store.reap(ID, again_running_s=6, again_queued_s=30) for _ in range(10))
    )
    [overdue] = [each for each in got if each]
    assert (overdue.job_id, overdue.was, overdue.job) == (ID, "running", JOB)
    assert await store.due(10) == []
    kept = await record(redis_client, ID)
    assert (kept["status"], kept["failed_attempts"]) == ("queued", "1")
    await expire_lease(redis_client, ID)
    again = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert again is not None
    assert again.was == "queued"
    assert (await record(redis_client, ID))["failed_attempts"] == "1"
    assert (await claim(store)).failed_attempts == 1


async def test_uptime_of_the_server_defaults_to_long_enough(request, redis_url):
    # fakeredis has no INFO, as some services. It closes the connection at INFO: one call is enough.
    knows = "fake" not in request.node.callspec.id
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        store = make_store(client)
        for _ in range(3):
            assert (await store.up_s() < math.inf) is knows


async def test_queued_job_becomes_due_and_keeps_waiting(store, redis_client):
    await submit(redis_client, again_ms=0)
    assert await store.due(10) == [ID]
    overdue = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert overdue is not None
    assert (overdue.was, overdue.job) == ("queued", JOB)
    assert await store.due(10) == []


async def test_queued_job_is_reaped_once_the_watermark_has_passed_it(store, redis_client):
    await submit(redis_client, again_ms=0)
    created_ms = int((await record(redis_client, ID))["created_ms"])
    times = {"again_running_s": 6, "again_queued_s": 0}
    assert await store.reap(ID, **times, watermark_ms=created_ms) is None
    # All times are whole milliseconds: within one millisecond the job would not be behind.
    while (now := await redis_client.time())[0] * 1000 + now[1] // 1000 <= created_ms:
        pass
    overdue = await store.reap(ID, **times, watermark_ms=created_ms + 1)
    assert overdue is not None
    await store.requeued(ID)
    # It is on the queue again, behind all that was consumed until now.
    assert await store.reap(ID, **times, watermark_ms=created_ms + 1) is None


async def test_lost_job_is_reaped_at_any_watermark(store, redis_client):
    await claim(store)
    await expire_lease(redis_client, ID)
    assert await store.reap(ID, again_running_s=6, again_queued_s=30, watermark_ms=0)


async def test_job_whose_reaper_has_not_enqueued_it_is_reaped_again_at_any_watermark(
    store, redis_client
):
    """The reply was lost, or the reaper died; no job with a record follows on the queue."""

    async def reaped():
        await expire_lease(redis_client, ID)
        got = await store.reap(ID, again_running_s=6, again_queued_s=30, watermark_ms=1)
        return got and got.was

    await claim(store)
    assert [await reaped(), await reaped(), await reaped()] == ["running", "queued", "queued"]
    await store.requeued(ID)
    assert await reaped() is None
    await claim(store)
    assert await reaped() == "running"
    owner = (await claim(store)).owner  # its message was consumed before the note came
    await store.release(ID, owner)
    assert await reaped() is None
    assert (await claim(store)).failed_attempts == 2


async def test_finished_jobs_are_removed_from_the_index(store, redis_client):
    await claim(store, job_id="over")
    await redis_client.hset(names.state_key("over"), "status", "completed")
    await claim(store, job_id="expired")
    await redis_client.delete(names.state_key("expired"))
    for name in ("over", "expired"):
        await expire_lease(redis_client, name)
        assert await store.reap(name, again_running_s=6, again_queued_s=30) is None
    assert await store.due(10) == []
    assert await indexed(redis_client) == set()


async def test_lost_job_is_reported_with_the_trace_of_its_first_claim(store, redis_client):
    await claim(store, trace="the trace")
    await expire_lease(redis_client, ID)
    overdue = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert overdue.trace == b"the trace"
    await claim(store)
    await expire_lease(redis_client, ID)
    overdue = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert overdue.trace == b"the trace"


async def test_renewal_between_due_and_reap_saves_the_job(store, redis_client):
    owner = (await claim(store)).owner
    await expire_lease(redis_client, ID)
    assert await store.due(10) == [ID]
    await store.renew([(ID, owner)])
    assert await store.reap(ID, again_running_s=6, again_queued_s=30) is None
    assert (await record(redis_client, ID))["status"] == "running"


async def test_due_is_bounded_and_a_partition_begins_with_the_oldest(store, redis_client):
    ids = [f"job-{n}" for n in range(2000)]
    one = [job_id for job_id in ids if names.due_key(job_id) == names.DUE_KEYS[7]][:5]
    for n, job_id in enumerate(one):
        await make_due(redis_client, job_id, 10 - n)
    assert await store.due(2) == [one[4], one[3]]
    other = next(job_id for job_id in ids if names.due_key(job_id) == names.DUE_KEYS[9])
    await make_due(redis_client, other, 1)
    assert len(await store.due(2)) == 2
    assert set(await store.due(10)) == {*one, other}
