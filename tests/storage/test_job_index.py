"""The index of unfinished jobs: one slot a call, one worker at a time, moved from the old key."""

import itertools

import pytest
import redis.asyncio
from redis.crc import key_slot

from berlin_schemas import names
from berlin_worker.storage import job_index, old_index
from berlin_worker.storage.script_connection import Call
from berlin_worker.storage.token_scripts import TokenKeys
from tests.support.store_helpers import (
    check_keys,
    due_at,
    expire_lease,
    indexed,
    make_due,
    make_store,
    open_log,
    record,
)

pytestmark = pytest.mark.contract

IDS = [f"job-{n}" for n in range(300)]


def slots(call: Call) -> set[int]:
    return {key_slot(key.encode()) for key in call.keys}


def test_partitions_have_slots_of_their_own_and_a_job_keeps_its_partition():
    assert len({key_slot(key.encode()) for key in names.DUE_KEYS}) == 64
    assert names.due_key("job-1") == names.due_key(b"job-1") == "worker:due:{63}"
    assert {names.due_key(job_id) for job_id in IDS} == set(names.DUE_KEYS)


def test_keys_of_each_other_script_share_a_slot():
    tokens = TokenKeys.of("berlin", "me", "fingerprint")
    for keys in (
        (names.DEAD_LETTERS, f"{names.DEAD_LETTER_DEDUP}x"),
        (names.FLEET, names.alive_key("one"), names.alive_key("two")),
        (tokens.token, tokens.lock, tokens.failure, tokens.refusals),
        (names.state_key("x"), names.log_key("x"), names.sharded_channel("x")),
    ):
        assert len({key_slot(key.encode()) for key in keys}) == 1


def test_changes_of_one_slot_a_call_have_one_key_each_and_no_entry_twice():
    entries = job_index.partition_of((None if n % 3 else n, each) for n, each in enumerate(IDS))
    one, many = (job_index.changes(entries, ttl_s=9, one_slot=each) for each in (True, False))
    assert all(len(slots(call)) == 1 for call in one)
    assert len(many) == 1
    for calls in (one, many):
        assert sum(int(call.args[3]) for call in calls) <= len(IDS)
        written = [each for call in calls for each in call.args if each in IDS]
        assert sorted(written) == sorted(IDS)


def test_large_changes_of_one_key_are_split():
    many = [(1, f"x-{n}") for n in range(2500)]
    calls = job_index.changes({names.JOBS: many}, ttl_s=9, one_slot=True)
    assert [call.args[3] for call in calls] == [1000, 1000, 500]


async def test_every_call_of_a_clustered_store_has_keys_of_one_slot(redis_client):
    store = make_store(redis_client, one_slot=True)
    calls: list[Call] = []
    for connection in (store._append, store._records):

        async def run(some, run=connection.run):
            calls.extend(some)
            return await run(some)

        connection.run = run
    logs = []
    for job_id in IDS[:20]:
        claim = await store.claim(job_id, b"{}", call="x", deadline_s=9)
        logs.append(open_log(claim))
    assert await store.append([log.take() for log in logs]) == [True] * 20
    assert await store.renew([(log.job_id, log.owner) for log in logs]) == ["renewed"] * 20
    await store.release(IDS[0], logs[0].owner)
    await store.clear_failure(IDS[1], logs[1].owner, failed_attempts=0, at_most=9)
    await store.revoke(IDS[2], running=True)
    await store.take_turn(1.0)
    await store.due(10)
    await store.reap(IDS[3], again_running_s=1, again_queued_s=1)
    await store.heal_index()
    await store.update_index()
    assert {len(slots(call)) for call in calls} == {1}
    assert {call.script for call in calls} >= set(job_index.SCRIPTS)


async def test_one_worker_at_a_time_scans_the_index(redis_client):
    first, second = make_store(redis_client), make_store(redis_client)
    assert await first.take_turn(30.0)
    assert not await second.take_turn(30.0)
    await redis_client.delete(names.DUE_TURN)
    assert await second.take_turn(30.0)


@pytest.mark.parametrize("ttl_s", [None, 3600])
async def test_turn_that_no_worker_took_is_removed(redis_client, ttl_s):
    await redis_client.rpush(names.DUE_TURN, "garbage")
    if ttl_s:
        await redis_client.expire(names.DUE_TURN, ttl_s)
    assert await make_store(redis_client).take_turn(30.0)


async def test_claim_and_submission_never_postpone_an_entry(redis_client):
    store = make_store(redis_client)
    await make_due(redis_client, "mine", 7)
    await store.claim("mine", b"{}", call="x", deadline_s=9)
    assert await due_at(redis_client, "mine") == 7
    for call in job_index.submissions(["mine"], 30_000, 100):
        await redis_client.eval(call.script, len(call.keys), *call.keys, *call.args)
    assert await due_at(redis_client, "mine") == 7
    await check_keys(redis_client)


async def test_entries_of_the_old_index_move_unless_an_old_worker_holds_the_job(redis_client):
    store = make_store(redis_client, lease_s=6.0)
    now_ms = (await redis_client.time())[0] * 1000
    claim = await store.claim("new-worker", b"{}", call="x", deadline_s=9)
    assert claim.attempt == 1
    for job_id, status in (("waits", "queued"), ("old-worker", "running"), ("left", "running")):
        await redis_client.hset(names.state_key(job_id), "status", status)
        await redis_client.expire(names.state_key(job_id), 100)
    entries = {
        "new-worker": now_ms - 1,
        "waits": now_ms + 20_000,
        "old-worker": now_ms - 2000,
        "left": now_ms - 9000,
        "no job": now_ms,
        "gone": 5,
    }
    await redis_client.zadd(old_index.KEY, entries)
    await redis_client.expire(old_index.KEY, 100)
    await store.heal_index()
    assert {*await redis_client.zrange(old_index.KEY, 0, -1)} == {b"old-worker", b"no job"}
    assert await indexed(redis_client) == {b"new-worker", b"waits", b"left", b"gone"}
    overdue = await store.reap("left", again_running_s=6, again_queued_s=30)
    assert overdue is not None
    assert overdue.was == "running"


async def test_jobs_of_an_old_worker_beyond_those_of_one_call_stay_its_own(redis_client):
    """Without a lease in their records they would be due at once."""
    now_ms = (await redis_client.time())[0] * 1000
    jobs = {f"job-{n}": now_ms + 6000 + n for n in range(520)}
    async with redis_client.pipeline() as pipeline:
        for job_id in jobs:
            pipeline.hset(names.state_key(job_id), "status", "running")
            pipeline.expire(names.state_key(job_id), 100)
        pipeline.zadd(old_index.KEY, jobs)
        pipeline.expire(old_index.KEY, 100)
        await pipeline.execute()
    store = make_store(redis_client)
    await store.heal_index()
    while store._index._cursor:
        await store.heal_index()
    assert await indexed(redis_client) == set()
    await redis_client.zrem(old_index.KEY, "job-519")  # neither index has it: it is lost
    await store.heal_index()
    while store._index._cursor:
        await store.heal_index()
    assert await indexed(redis_client) == {b"job-519"}


@pytest.mark.parametrize("redis_url", ["real"], indirect=True)  # fakeredis closes at an error
async def test_old_index_of_another_type_is_left_alone(redis_client):
    await redis_client.set(old_index.KEY, "garbage", ex=100)
    await make_store(redis_client).heal_index()
    assert await redis_client.exists(old_index.KEY)


async def test_search_restores_every_lost_entry_of_many_records(redis_client):
    store = make_store(redis_client)
    for job_id in IDS:
        await store.claim(job_id, b"{}", call="x", deadline_s=9)
    for job_id in IDS[::3]:
        await redis_client.hset(names.state_key(job_id), "status", "completed")
    await redis_client.delete(*names.DUE_KEYS)
    for _ in range(len(IDS)):
        await store.heal_index()
        if not store._index._cursor:
            break
    assert {each.decode() for each in await indexed(redis_client)} == set(IDS) - set(IDS[::3])


async def test_user_without_the_right_to_scan_does_without_the_search(redis_client, caplog):
    store = make_store(redis_client)

    async def refused(*_, **__):
        raise redis.exceptions.NoPermissionError("no SCAN")

    store._index._redis.scan = refused
    for _ in range(3):
        await store.heal_index()
    assert caplog.text.count("cannot be restored") == 1


async def test_reaper_leaves_a_leased_job_and_moves_its_entry(redis_client):
    store = make_store(redis_client)
    await store.claim("mine", b"{}", call="x", deadline_s=9)
    await make_due(redis_client, "mine")
    assert await store.due(9) == ["mine"]
    assert await store.reap("mine", again_running_s=6, again_queued_s=30) is None
    assert await store.due(9) == []
    assert await due_at(redis_client, "mine") == pytest.approx(
        float((await record(redis_client, "mine"))["lease_ms"]), abs=1000
    )
    await expire_lease(redis_client, "mine")
    assert await store.reap("mine", again_running_s=6, again_queued_s=30)


async def test_changes_that_could_not_be_written_are_written_later(redis_client):
    store = make_store(redis_client)
    claim = await store.claim("mine", b"{}", call="x", deadline_s=9)
    run, failures = store._records.run, itertools.repeat(None, 1)

    async def fails_once(calls):
        for _ in failures:
            raise redis.exceptions.ConnectionError("away")
        return await run(calls)

    store._index.look_again(claim.job_id, None)
    store._records.run = fails_once
    with pytest.raises(ConnectionError):
        await store.update_index()
    await store.update_index()
    assert await due_at(redis_client, "mine") is None
    assert await redis_client.zrange(names.JOBS, 0, -1) == [b"mine"]
