"""Appending events: the log, the channel, and what a stale or repeated batch changes."""

import pytest

from berlin_schemas import Cancelled, Chunk, Reset, decode, names
from berlin_worker.jobs.store import Progress
from tests.support.job_store_calls import ID, append, claim, ended, submit
from tests.support.store_helpers import (
    LOG_TTL_S,
    due_at,
    event,
    expire_lease,
    make_store,
    open_log,
    raw_log,
    read_log,
    record,
    subscribed,
)

pytestmark = pytest.mark.contract

STATE, LOG = names.state_key(ID), names.log_key(ID)


async def test_same_bytes_are_published_and_logged_under_their_seq(store, redis_client):
    async with subscribed(redis_client, ID) as channel:
        log = open_log(await claim(store))
        log.chunk(["Hello", ' \u2028\x00"world"', "\U0001f600"])
        batch = log.take()
        assert await store.append([batch]) == [True]
        assert await channel.read(4) == batch.events == await raw_log(redis_client, ID)
    kept = await record(redis_client, ID)
    assert (kept["seq"], kept["chunks"]) == ("4", "3")


async def test_batch_whose_reply_was_lost_is_accepted_once(lossy, redis_client):
    store = make_store(lossy)
    log = open_log(await claim(store))
    log.chunk(["a", "b"])
    batch = log.take()
    async with subscribed(redis_client, ID) as channel:
        lossy.lose = 2
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await store.append([batch])
        assert await store.append([batch]) == [True]
        log.chunk(["c"])
        await append(store, log)
        assert await channel.read(4) == await raw_log(redis_client, ID)
    assert [each.type for each in await read_log(redis_client, ID)] == ["started"] + 3 * ["chunk"]


async def test_last_batch_whose_reply_was_lost_is_accepted_once(lossy, redis_client):
    store = make_store(lossy)
    batch = ended(open_log(await claim(store))).take()
    lossy.lose = 1
    with pytest.raises(ConnectionError):
        await store.append([batch])
    assert await store.append([batch]) == [True]
    assert len(await read_log(redis_client, ID)) == 2


async def test_rest_of_a_partly_accepted_batch_is_accepted(store, redis_client):
    log = open_log(await claim(store))
    part = log.take()
    assert await store.append([part]) == [True]
    log.chunk(["a", "b"])
    whole = log.take()
    whole.first_seq = 1
    whole.events[:0] = part.events
    assert await store.append([whole]) == [True]
    assert await raw_log(redis_client, ID) == whole.events


async def test_events_of_an_older_attempt_are_refused(store, redis_client):
    stale = open_log(await claim(store))
    await append(store, stale)
    await expire_lease(redis_client, ID)
    fresh = open_log(await claim(store))
    stale.chunk(["stale"])
    ended(stale)
    assert not await append(store, stale)
    assert await append(store, ended(fresh))
    assert [each.attempt for each in await read_log(redis_client, ID)] == [1, 2, 2]


async def test_reaped_job_refuses_its_stale_worker_before_the_next_claim(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    await expire_lease(redis_client, ID)
    assert await store.reap(ID, again_running_s=6, again_queued_s=30)
    log.chunk(["stale"])
    assert not await append(store, log)
    assert len(await read_log(redis_client, ID)) == 1


async def test_events_after_the_end_are_refused(store, redis_client):
    log = ended(open_log(await claim(store)))
    await append(store, log)
    late = open_log(await _same_attempt(store, redis_client, seq=2, chunks=1), opened=False)
    late.chunk(["late"])
    assert not await append(store, late)
    late.event(event(late, Cancelled, reason="late"))
    assert not await append(store, late)
    assert len(await read_log(redis_client, ID)) == 2


async def _same_attempt(store, redis_client, *, seq, chunks):
    kept = await record(redis_client, ID)
    got = await claim(store)
    return type(got)(
        **{name: getattr(got, name) for name in got.__slots__}
        | {"attempt": int(kept["attempt"]), "seq": seq, "chunks": chunks}
    )


async def test_attempt_that_a_failover_forgot_is_fenced_from_the_next_one_of_its_number(
    store, redis_client
):
    forgotten = open_log(await claim(store))
    await append(store, forgotten)
    await redis_client.delete(STATE, LOG)
    log = open_log(await claim(store))
    assert log.attempt == forgotten.attempt
    await append(store, log)
    forgotten.chunk(["seq 2 of the forgotten attempt"])
    assert not await append(store, forgotten)
    log.chunk(["a"])
    assert await append(store, log)
    forgotten.chunk(["seq 3"])
    assert not await append(store, forgotten)
    held = [(ID, forgotten.owner), (ID, log.owner)]
    assert await store.renew(held) == ["lost", "renewed"]
    await store.release(ID, forgotten.owner)
    await store.save_progress(ID, forgotten.owner, Progress({"total_tokens": 1}, fallback=1))
    assert "progress" not in await record(redis_client, ID)
    assert not await store.clear_failure(ID, forgotten.owner, failed_attempts=0, at_most=9)
    assert (await claim(store, b"", held=forgotten.owner)).status == "leased"
    log.chunk(["b"])
    assert await append(store, ended(log))
    forgotten.chunk(["seq 4, which the log has"])
    assert not await append(store, forgotten)
    assert [each.type for each in await read_log(redis_client, ID)] == [
        *("started", "chunk", "chunk", "completed")
    ]


async def test_emptied_server_refuses_events(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    await redis_client.flushall()
    log.chunk(["into the void"])
    assert not await append(store, log)
    assert await redis_client.dbsize() == 0


async def test_server_restored_to_an_older_state_refuses_a_gap(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    log.chunk(["lost with the server"])
    log.take()
    log.chunk(["after it"])
    assert not await append(store, log)
    assert len(await read_log(redis_client, ID)) == 1


async def test_end_sets_status_and_ttl_and_removes_index_entry_and_prompt(store, redis_client):
    await submit(redis_client)
    await append(store, ended(open_log(await claim(store))))
    kept = await record(redis_client, ID)
    assert kept["status"] == "completed"
    assert not {"job", "owner", "lease_ms"} & kept.keys()
    await store.update_index()
    assert await due_at(redis_client, ID) is None
    assert await redis_client.ttl(names.state_key(ID)) <= LOG_TTL_S
    assert await redis_client.ttl(names.log_key(ID)) <= LOG_TTL_S


async def test_reset_is_counted_in_the_record(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["a", "b"])
    await append(store, log)
    await expire_lease(redis_client, ID)
    log = open_log(await claim(store), opened=False)
    log.event(event(log, Reset, reason="interrupted"))
    await append(store, log)
    assert (await record(redis_client, ID))["chunks"] == "0"
    log.chunk(["c"])
    await append(store, log)
    assert (await record(redis_client, ID))["chunks"] == "1"


async def test_one_call_answers_for_each_of_many_jobs(store, redis_client):
    logs = [open_log(await claim(store, job_id=f"job-{n}")) for n in range(30)]
    for n in range(0, 30, 3):
        await expire_lease(redis_client, f"job-{n}")
        await claim(store, job_id=f"job-{n}")
    taken = await store.append([log.take() for log in logs])
    assert taken == [n % 3 != 0 for n in range(30)]
    for n, fine in enumerate(taken):
        assert len(await read_log(redis_client, f"job-{n}")) == fine


async def test_log_that_was_evicted_gets_a_ttl_again(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    await redis_client.delete(names.log_key(ID))
    log.chunk(["a"])
    assert await append(store, log)
    assert await redis_client.ttl(names.log_key(ID)) > 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "case",  # the change, whether the events are taken, the entries that stay in the log
    [
        (["EXPIRE", LOG, "1000"], True, 1),
        (["HSET", STATE, "seq", "1.0"], True, 1),
        (["DEL", LOG], True, 0),
        (["SET", LOG, "text"], False, None),
        (["XADD", LOG, "9999-1", "a", "b"], False, None),
        (["HSET", STATE, "seq", "one"], False, 1),
        (["HDEL", STATE, "seq"], False, 1),
        (["HSET", STATE, "status", "queued"], False, 1),
        (["HSET", STATE, "owner", "another"], False, 1),
        (["DEL", STATE], False, 1),
    ],
)
async def test_next_events_of_a_job_whose_keys_another_client_has_changed(
    store, redis_client, case, count
):
    harm, taken, entries = case
    log = open_log(await claim(store))
    await append(store, log)
    if harm[0] == "SET":
        await redis_client.delete(harm[1])
    await redis_client.execute_command(*harm)
    log.chunk(["a"] * count)
    batch = log.take()
    assert await store.append([batch]) == [taken]
    if entries is None:
        assert not await redis_client.exists(LOG)
    else:
        logged = [fields[b"event"] for _, fields in await redis_client.xrange(LOG)]
        assert logged[entries:] == (batch.events if taken else [])
        assert len(logged) == entries + taken * count
        assert await redis_client.ttl(LOG) > 0
    if taken:
        kept = await record(redis_client, ID)
        assert (kept["seq"], kept["chunks"]) == (str(1 + count), str(count))


async def test_read_of_very_many_chunks_is_one_call(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["x"] * 3000)
    assert await append(store, log)
    assert await redis_client.xlen(names.log_key(ID)) == 3001
    [(last, fields)] = await redis_client.xrevrange(names.log_key(ID), count=1)
    assert isinstance(decode(fields[b"event"]), Chunk)
    assert last == b"3001-0"
