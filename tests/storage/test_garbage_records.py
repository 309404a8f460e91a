"""Records, logs and indexes that others have written to: every job runs and ends all the same."""

import asyncio
import json

import pytest

from berlin_schemas import names
from tests.support.harness import JOB_ID, ScriptedProvider, Worker, job_object, says
from tests.support.store_helpers import (
    check_log,
    due_at,
    expire_lease,
    indexed,
    make_due,
    open_log,
    read_log,
    record,
)
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.contract

STATE, LOG = names.state_key(JOB_ID), names.log_key(JOB_ID)
NUMBERS = ["x", "", "-1", "1.5", "1e400", "nan", "inf", "0x10", "9" * 30, "1e13", "\xff"]
FIELDS = [
    *("attempt", "seq", "chunks", "failed_attempts", "created_ms", "started_ms", "queued_ms"),
    *("lease_ms", "first_lease_ms", "lost_after_ms", "cleared", "requeuing"),
]


@pytest.fixture
async def worker(redis_client):
    async with Worker(redis_client, ScriptedProvider(says("a", "b"))) as made:
        yield made


async def other_type(client, key):
    """Put a value of a type there that no script of ours expects."""
    await client.delete(key)
    await client.rpush(key, "garbage")


@pytest.mark.parametrize("status", ["queued", "running", "x", ""])
@pytest.mark.parametrize("field", FIELDS)
async def test_invalid_number_does_not_keep_a_job_from_its_end(worker, redis_client, field, status):
    for number in NUMBERS:
        await redis_client.flushdb()
        await redis_client.hset(STATE, mapping={"status": status, "job": "{}", field: number})
        await worker.runner.run(JOB_ID, [job_object()], {})
        events = await read_log(redis_client, JOB_ID)
        assert events[-1].type in {"completed", "failed"}, number
        kept = await record(redis_client, JOB_ID)
        assert kept["status"] == events[-1].type, number
        await worker.store.update_index()
        assert await due_at(redis_client, JOB_ID) is None
        assert await redis_client.ttl(STATE) > 0
        assert await redis_client.ttl(LOG) > 0


@pytest.mark.parametrize("fingerprint", ["", "x", "0" * 31, "0" * 33, "\xff"])
async def test_invalid_fingerprint_does_not_keep_a_job_from_its_end(
    worker, redis_client, fingerprint
):
    fields = {"status": "queued", "job": "{}", "fingerprint": fingerprint}
    await redis_client.hset(STATE, mapping=fields)
    await worker.runner.run(JOB_ID, [job_object()], {})
    assert (await read_log(redis_client, JOB_ID))[-1].type == "completed"
    assert len((await record(redis_client, JOB_ID))["fingerprint"]) == 32


@pytest.mark.parametrize("field", FIELDS)
async def test_numbers_of_a_second_attempt_may_be_garbage(worker, redis_client, field):
    for number in NUMBERS:
        await redis_client.flushdb()
        claim = await worker.store.claim(JOB_ID, b"{}", call="earlier", deadline_s=9)
        assert claim.status == "claimed"
        await redis_client.hset(STATE, field, number)
        await expire_lease(redis_client, JOB_ID)
        await worker.runner.run(JOB_ID, [job_object()], {})
        events = await read_log(redis_client, JOB_ID)
        check_log(events, JOB_ID)
        assert events[-1].type in {"completed", "failed"}, number


@pytest.mark.parametrize("key", [STATE, LOG, names.due_key(JOB_ID)])
@pytest.mark.parametrize("begun", [False, True])
async def test_key_of_another_type_keeps_no_job_from_its_end(worker, redis_client, key, begun):
    if begun:
        await worker.store.claim(JOB_ID, b"{}", call="earlier", deadline_s=9)
        await expire_lease(redis_client, JOB_ID)
    await other_type(redis_client, key)
    await worker.runner.run(JOB_ID, [job_object()], {})
    events = await read_log(redis_client, JOB_ID)
    assert [each.type for each in events] == ["started", "chunk", "chunk", "completed"]


@pytest.mark.parametrize("entries", [1, 5])
async def test_log_that_others_have_written_to_begins_anew(worker, redis_client, entries):
    await worker.store.claim(JOB_ID, b"{}", call="earlier", deadline_s=9)
    await redis_client.hset(STATE, mapping={"seq": 2, "chunks": 1})
    await expire_lease(redis_client, JOB_ID)
    for n in range(entries):
        await redis_client.xadd(LOG, {"garbage": n}, id=f"{n + 7}-0")
    await worker.runner.run(JOB_ID, [job_object()], {})
    assert [each.type for each in await read_log(redis_client, JOB_ID)][-1] == "completed"


@pytest.mark.parametrize("wrong", ["state", "log", "log_ahead", "seq"])
async def test_garbage_of_one_job_fails_no_batch_of_many(worker, redis_client, wrong):
    """The job at fault is fenced; the events of its neighbours are taken by the same call."""
    logs = {}
    for job_id in ("before", JOB_ID, "after"):
        claim = await worker.store.claim(job_id, b"{}", call=job_id, deadline_s=9)
        logs[job_id] = open_log(claim)
    if wrong == "seq":
        await redis_client.hset(STATE, "seq", 12)
        await redis_client.hset(STATE, "owner", "x")
    elif wrong == "log_ahead":
        await redis_client.xadd(LOG, {"garbage": 1}, id="18446744073709551615-18446744073709551615")
    else:
        await other_type(redis_client, STATE if wrong == "state" else LOG)
    batches = [log.take() for log in logs.values()]
    assert await worker.store.append(batches) == [True, False, True]
    held = [(job_id, log.owner) for job_id, log in logs.items()]
    lost = wrong in {"state", "seq"}
    assert await worker.store.renew(held) == ["renewed", "lost" if lost else "renewed", "renewed"]
    for job_id in ("before", "after"):
        assert await redis_client.xlen(names.log_key(job_id)) == 1
    owner = logs[JOB_ID].owner
    await worker.store.release(JOB_ID, owner)
    await worker.store.clear_failure(JOB_ID, owner, failed_attempts=0, at_most=9)


async def test_search_finds_records_of_no_known_status_and_gives_others_a_ttl(worker, redis_client):
    """No record that another client writes without an index entry stays for ever."""
    records = {
        "strange": {"status": "x"},
        "empty": {"status": ""},
        "over": {"status": "completed"},
        "no-status": {"cancel": 1},
    }
    for job_id, fields in records.items():
        await redis_client.hset(names.state_key(job_id), mapping=fields)
    await other_type(redis_client, STATE)
    for _ in range(2):  # fewer keys than one call looks at
        await worker.store.heal_index()
    assert {each.decode() for each in await indexed(redis_client)} == {"strange", "empty"}
    for job_id in ("over", "no-status", JOB_ID):
        assert await redis_client.ttl(names.state_key(job_id)) > 0


async def test_due_job_that_cannot_run_ends_for_its_reader(worker, redis_client):
    """Every kind of record that is due: the reaper ends it, and goes on to the next."""
    records = {
        "no-job": {"status": "queued"},
        "ran-without": {"status": "running", "attempt": "1"},
        "no-json": {"status": "queued", "job": "{"},
        "no-object": {"status": "running", "attempt": "x", "job": "[]"},
        "no-utf8": {"status": "queued", "job": b"\xff", "created_ms": "x"},
        "odd-status": {"status": "\xff", "job": "7"},
        "odd-failed_attempts": {"status": "running", "job": "", "failed_attempts": "-7.5"},
    }
    for job_id, fields in records.items():
        await redis_client.hset(names.state_key(job_id), mapping=fields)
        await make_due(redis_client, job_id)
    await redis_client.set(names.state_key("no-hash"), "garbage")
    await make_due(redis_client, "no-hash", "-inf")
    await make_due(redis_client, "far-ahead", 1e300)
    await redis_client.zadd(names.DUE_KEYS[0], {"": 2, "a b": 3})
    await redis_client.zadd(names.DUE_KEYS[1], {b"\xff": "-inf", "../x": 5, "x" * 129: 6})
    fine = {"status": "queued", "job": json.dumps(job_object()), "trace": b"\xff{"}
    await redis_client.hset(names.state_key("far-ahead"), mapping=fine)
    worker.store._has_info = False  # the server of the test has just started
    task = asyncio.create_task(worker.leases.reap_forever())
    try:
        await until(lambda: "far-ahead" in worker.job_queue.requeued)
        for job_id in (*records, "no-hash"):
            (event,) = await worker.logged(1, job_id)
            assert (event.type, event.error.code) == ("failed", "invalid_job"), job_id
            assert (await record(redis_client, job_id))["status"] == "failed"
        async with asyncio.timeout(60):
            while await indexed(redis_client) != {b"far-ahead"}:  # noqa: ASYNC110  # a key of Redis
                await asyncio.sleep(0.001)
    finally:
        await stopped(task)
    assert set(worker.job_queue.requeued) == {"far-ahead"}
    entries = await redis_client.xrange(names.DEAD_LETTERS)
    assert {fields[b"job_id"].decode() for _, fields in entries} <= {
        *records,
        "no-hash",
    }


@pytest.mark.parametrize("redis_url", ["real"], indirect=True)  # fakeredis closes at an error
async def test_index_of_another_type_is_removed_and_rebuilt(worker, redis_client):
    await other_type(redis_client, names.due_key(JOB_ID))
    assert await worker.store.due(10) == []
    claim = await worker.store.claim(JOB_ID, b"{}", call="earlier", deadline_s=9)
    await other_type(redis_client, names.due_key(JOB_ID))
    assert await worker.store.renew([(JOB_ID, claim.owner)]) == ["renewed"]
    assert await due_at(redis_client, JOB_ID)


@pytest.mark.parametrize("full", [False, True])
async def test_dead_letters_of_another_type_take_the_next_one(worker, redis_client, full):
    if full:
        last = "18446744073709551615-18446744073709551615"
        await redis_client.xadd(names.DEAD_LETTERS, {"garbage": 1}, id=last)
    else:
        await other_type(redis_client, names.DEAD_LETTERS)
    await worker.store.dead_letter(JOB_ID, "reason", call="earlier", message=b"x")
    (fields,) = [each for _, each in await redis_client.xrange(names.DEAD_LETTERS)]
    assert fields[b"reason"] == b"reason"


async def test_seq_that_is_ahead_of_the_log_swallows_no_event(worker, redis_client):
    claim = await worker.store.claim(JOB_ID, b"{}", call="earlier", deadline_s=9)
    log = open_log(claim)
    assert await worker.store.append([log.take()]) == [True]
    await redis_client.hset(STATE, "seq", 7)
    log.chunk(["a"])
    assert await worker.store.append([log.take()]) == [False]
    await expire_lease(redis_client, JOB_ID)
    await worker.runner.run(JOB_ID, [job_object()], {})
    assert (await read_log(redis_client, JOB_ID))[-1].type == "completed"


async def test_record_without_a_ttl_leaves_no_log_without_events(worker, redis_client):
    claim = await worker.store.claim(JOB_ID, b"{}", call="earlier", deadline_s=9)
    await redis_client.persist(STATE)
    assert await worker.store.append([open_log(claim).take()]) == [True]
    assert await redis_client.ttl(LOG) > 0
    await worker.store.renew([(JOB_ID, claim.owner)])
    assert await redis_client.ttl(STATE) > 0
