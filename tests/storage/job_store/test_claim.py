"""Claiming a job, and the first record of it, over a fake and three real servers."""

import asyncio

import pytest

from berlin_schemas import names
from tests.support.job_store_calls import ID, append, claim, ended, submit
from tests.support.store_helpers import (
    JOB,
    QUEUE_TTL_S,
    due_at,
    expire_lease,
    make_store,
    open_log,
    read_log,
    record,
)

pytestmark = pytest.mark.contract


async def test_claim_whose_reply_was_lost_is_found_by_the_same_call_alone(lossy):
    store = make_store(lossy)
    with lossy.cut(), pytest.raises(ConnectionError):
        await claim(store, call="mine")
    again = await claim(store, call="mine")
    assert (again.status, again.attempt, again.failed_attempts) == ("claimed", 1, 0)
    assert (await claim(store, call="another")).status == "leased"
    assert (await claim(make_store(lossy, owner="worker-2"), call="mine")).status == "leased"


async def test_next_attempt_whose_reply_was_lost_is_found_by_the_same_call(lossy):
    store = make_store(lossy)
    held = (await claim(store)).owner
    with lossy.cut(), pytest.raises(ConnectionError):
        await claim(store, b"", call="mine", held=held)
    again = await claim(store, b"", call="mine", held=held)
    assert (again.status, again.attempt, again.failed_attempts) == ("claimed", 2, 1)


async def test_claim_returns_how_long_the_last_lost_attempt_had_run(store, redis_client):
    assert (await claim(store)).lost_after_ms == 0
    await expire_lease(redis_client, ID, ran_ms=5000)
    second = await claim(store)
    assert second.lost_after_ms == 5000  # its message came back before the reaper
    assert (await claim(store, held=second.owner)).lost_after_ms == 5000
    await expire_lease(redis_client, ID)
    await store.reap(ID, again_running_s=6, again_queued_s=30)
    fourth = await claim(store)
    assert fourth.lost_after_ms == 0
    await store.renew([(ID, fourth.owner)])
    await expire_lease(redis_client, ID, ran_ms=7000)
    await store.reap(ID, again_running_s=6, again_queued_s=30)
    fifth = await claim(store, call="mine")
    assert fifth.lost_after_ms == 7000
    assert (await claim(store, call="mine")).lost_after_ms == 7000
    await store.release(ID, fifth.owner)
    assert (await claim(store)).lost_after_ms == 7000


async def test_renewals_show_how_long_a_lost_attempt_had_run(redis_client):
    store = make_store(redis_client, lease_s=0.001)
    first = await claim(store)

    async def renewed_later():
        await store.renew([(ID, first.owner)])
        kept = await record(redis_client, ID)
        return kept["lease_ms"] > kept["first_lease_ms"]

    while not await renewed_later():
        pass
    while (lost := await claim(store, call="other")).status != "claimed":
        pass
    assert 0 < lost.lost_after_ms < lost.now_ms - first.now_ms


async def test_fresh_job_is_claimed_and_recorded(store, redis_client):
    got = await claim(store)
    assert (got.status, got.attempt, got.seq, got.chunks, got.failed_attempts) == (
        "claimed",
        1,
        0,
        0,
        0,
    )
    assert got.cancel_reason == ""
    assert got.created_ms == got.started_ms == got.now_ms > 0
    kept = await record(redis_client, ID)
    assert kept["status"] == "running"
    assert kept["job"] == JOB.decode()
    assert kept["lease_ms"] == str(got.now_ms + 60_000)
    assert await due_at(redis_client, ID) == pytest.approx(got.now_ms + 60_000, abs=1000)
    # It may go back to the queue after all of its deadline, and wait there once more.
    assert 0 < await redis_client.ttl(names.state_key(ID)) <= 50 + QUEUE_TTL_S


async def test_submitted_job_is_counted_from_its_submission(store, redis_client):
    assert await submit(redis_client) == 1
    created = int((await record(redis_client, ID))["created_ms"])
    await asyncio.sleep(0.005)
    got = await claim(store)
    assert got.status == "claimed"
    assert got.created_ms == created < got.started_ms


async def test_repeated_submission_marks_the_job_co_submitted_and_returns_whether_it_has_begun(
    store, redis_client
):
    await submit(redis_client)
    first = await record(redis_client, ID)
    assert await submit(redis_client) == 2
    assert await record(redis_client, ID) == first | {"co_submitted": "1"}
    await claim(store)
    assert await submit(redis_client) == 0


async def test_job_under_a_live_lease_is_not_claimed_again(store):
    await claim(store)
    got = await claim(store)
    assert (got.status, got.attempt) == ("leased", 1)


async def test_finished_job_stays_finished(store):
    log = ended(open_log(await claim(store)))
    assert await append(store, log)
    assert (await claim(store)).status == "finished"
    assert (await claim(store, held=log.owner)).status == "finished"
    assert (await claim(store, only_queued=True)).status == "finished"


async def test_expired_lease_counts_a_failed_attempt_and_the_log_continues(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["a", "b"])
    await append(store, log)
    await expire_lease(redis_client, ID)
    got = await claim(store)
    assert (got.status, got.attempt, got.failed_attempts) == ("claimed", 2, 1)
    assert (got.seq, got.chunks) == (3, 2)


async def test_requeued_job_is_claimed_at_once_without_a_failed_attempt(store):
    first = await claim(store)
    await store.release(ID, first.owner)
    got = await claim(store)
    assert (got.status, got.attempt, got.failed_attempts) == ("claimed", 2, 0)
    assert got.started_ms == first.started_ms


async def test_next_attempt_replaces_its_predecessor_and_counts_a_failed_attempt(store):
    held = (await claim(store)).owner
    got = await claim(store, b"", held=held)
    assert (got.status, got.attempt, got.failed_attempts) == ("claimed", 2, 1)
    assert (await claim(store, b"", held=held)).status == "leased"


async def test_attempt_that_lost_its_job_cannot_claim_the_next_attempt(store, redis_client):
    held = (await claim(store)).owner
    await expire_lease(redis_client, ID)
    await store.reap(ID, again_running_s=6, again_queued_s=30)
    got = await claim(store, b"", held=held)
    assert got.status == "leased"


@pytest.mark.parametrize("state", ["unknown", "flagged", "running", "queued"])
async def test_only_queued_claims_queued_records_alone(store, redis_client, state):
    match state:
        case "flagged":
            await redis_client.hset(names.state_key(ID), "cancel", 1)
            await store.keep_cancel_flag(ID)
        case "running":
            await claim(store)
        case "queued":
            await submit(redis_client)
    before = await record(redis_client, ID)
    got = await claim(store, b"", only_queued=True)
    if state == "queued":
        assert got.status == "claimed"
    else:
        assert got.status == "not_queued"
        assert await record(redis_client, ID) == before


async def test_flag_set_before_the_record_is_seen_by_the_claim(store, redis_client):
    await redis_client.hset(names.state_key(ID), "cancel", 1)
    assert (await claim(store)).cancel_reason == "requested"


async def test_flag_keeps_the_ttl_that_its_record_has(store, redis_client):
    await redis_client.hset(names.state_key(ID), "cancel", 1)
    await redis_client.expire(names.state_key(ID), 50)
    await store.keep_cancel_flag(ID)
    assert await redis_client.ttl(names.state_key(ID)) <= 50
    await store.keep_cancel_flag("another")
    assert not await redis_client.exists(names.state_key("another"))


async def test_log_without_its_record_does_not_block_a_claim(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["of the first life"] * 5)
    await append(store, log)
    await redis_client.delete(names.state_key(ID))
    log = ended(open_log(await claim(store)))
    assert await append(store, log)
    assert [each.type for each in await read_log(redis_client, ID)] == ["started", "completed"]


async def test_one_of_many_concurrent_claims_gets_the_job(store, redis_client):
    got = await asyncio.gather(*(claim(store) for _ in range(20)))
    assert sorted(each.status for each in got) == ["claimed"] + ["leased"] * 19


@pytest.mark.parametrize(
    "job_id", ["", "a b", "job:{x}:state", "x" * 129, "é", "a\n", "*"], ids=repr
)
async def test_invalid_job_id_never_reaches_a_key(store, redis_client, job_id):
    for call in (
        lambda: claim(store, job_id=job_id),
        lambda: store.renew([(job_id, "owner")]),
        lambda: store.release(job_id, "owner"),
        lambda: store.reap(job_id, again_running_s=1, again_queued_s=1),
        lambda: store.keep_cancel_flag(job_id),
    ):
        with pytest.raises(ValueError, match="job ID"):
            await call()
    assert await redis_client.dbsize() == 0


async def test_server_that_cannot_be_reached_is_the_builtin_connection_error(lossy):
    store = make_store(lossy)
    log = open_log(await claim(store))
    calls = (
        lambda: claim(store),
        lambda: store.append([log.take()]),
        lambda: store.renew([(ID, log.owner)]),
        lambda: store.release(ID, log.owner),
        lambda: store.due(1),
        lambda: store.reap(ID, again_running_s=1, again_queued_s=1),
        lambda: store.keep_cancel_flag(ID),
        lambda: store.dead_letter(ID, "reason", call="x", job=b""),
    )
    for call in calls:
        with lossy.cut(), pytest.raises(ConnectionError):
            await call()
