"""Claim, append, renew, release, reap: the Lua scripts over a fake and a real server."""

import asyncio
import itertools
import math

import pytest
import redis.asyncio

from berlin_schemas import Cancelled, Chunk, Completed, Reset, Timings, decode, names
from berlin_worker.storage.job_index import submissions
from berlin_worker.storage.scripts import source
from tests.support.store_helpers import (
    JOB,
    LOG_TTL_S,
    QUEUE_TTL_S,
    check_keys,
    due_at,
    event,
    expire_lease,
    indexed,
    load_scripts,
    loses_replies,
    make_due,
    make_store,
    open_log,
    raw_log,
    read_log,
    record,
    subscribed,
)

pytestmark = pytest.mark.contract

ID = "job-1"
_call = itertools.count()
TIMINGS = Timings(queue_ms=0, login_ms=0, first_chunk_ms=None, stream_ms=0, total_ms=0)


@pytest.fixture(params=["fake", "real", "second", "cluster"])
def redis_url(request):
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


@pytest.fixture(autouse=True)
async def keys(redis_client):
    await load_scripts(redis_client)
    yield
    await check_keys(redis_client)


@pytest.fixture
def store(redis_client):
    return make_store(redis_client)


@pytest.fixture
async def lossy(redis_url):
    async with loses_replies(redis_url) as client:
        await client.ping()
        yield client


async def claim(store, job=JOB, *, job_id=ID, call=None, **how):
    call = call or f"call-{next(_call)}"
    return await store.claim(job_id, job, call=call, deadline_s=50.0, **how)


async def submit(client, job_id=ID, *, again_ms=30_000):
    script = client.register_script(source("submit"))
    for part in submissions([job_id], again_ms, 1000):
        await client.eval(part.script, len(part.keys), *part.keys, *part.args)
    return await script([names.state_key(job_id)], [JOB, 1000, again_ms])


async def append(store, log):
    [taken] = await store.append([log.take()])
    return taken


def completed(log):
    return event(log, Completed, finish_reason="stop", timings=TIMINGS)


def ended(log):
    """``log`` with a terminal event added (nobody waits for it)."""
    log.event(completed(log))
    return log


# Claim


async def test_a_claim_whose_reply_was_lost_is_found_by_the_same_call_and_by_no_other(lossy):
    store = make_store(lossy)
    lossy.lose = 1
    with pytest.raises(ConnectionError):
        await claim(store, call="mine")
    again = await claim(store, call="mine")
    assert (again.status, again.attempt, again.failed_attempts) == ("claimed", 1, 0)
    assert (await claim(store, call="another")).status == "leased"
    assert (await claim(make_store(lossy, owner="worker-2"), call="mine")).status == "leased"


async def test_the_next_attempt_whose_reply_was_lost_is_found_by_the_same_call(lossy):
    store = make_store(lossy)
    await claim(store)
    lossy.lose = 1
    with pytest.raises(ConnectionError):
        await claim(store, b"", call="mine", held_attempt=1)
    again = await claim(store, b"", call="mine", held_attempt=1)
    assert (again.status, again.attempt, again.failed_attempts) == ("claimed", 2, 1)


async def test_a_fresh_job_is_claimed_and_recorded(store, redis_client):
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


async def test_a_submitted_job_is_counted_from_its_submission(store, redis_client):
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


async def test_a_job_under_a_live_lease_is_leased_to_nobody_else(store):
    await claim(store)
    got = await claim(store)
    assert (got.status, got.attempt) == ("leased", 1)


async def test_a_job_that_is_over_stays_over(store):
    log = ended(open_log(await claim(store)))
    assert await append(store, log)
    assert (await claim(store)).status == "finished"
    assert (await claim(store, held_attempt=1)).status == "finished"
    assert (await claim(store, only_queued=True)).status == "finished"


async def test_an_expired_lease_is_a_strike_and_the_log_goes_on(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["a", "b"])
    await append(store, log)
    await expire_lease(redis_client, ID)
    got = await claim(store)
    assert (got.status, got.attempt, got.failed_attempts) == ("claimed", 2, 1)
    assert (got.seq, got.chunks) == (3, 2)


async def test_a_job_handed_back_is_claimed_at_once_without_a_strike(store):
    first = await claim(store)
    await store.release(ID, 1)
    got = await claim(store)
    assert (got.status, got.attempt, got.failed_attempts) == ("claimed", 2, 0)
    assert got.started_ms == first.started_ms


async def test_an_attempt_gives_way_to_its_next_with_a_strike(store):
    await claim(store)
    got = await claim(store, b"", held_attempt=1)
    assert (got.status, got.attempt, got.failed_attempts) == ("claimed", 2, 1)
    assert (await claim(store, b"", held_attempt=1)).status == "leased"


async def test_an_attempt_whose_job_was_taken_away_cannot_give_way(store, redis_client):
    await claim(store)
    await expire_lease(redis_client, ID)
    await store.reap(ID, again_running_s=6, again_queued_s=30)
    got = await claim(store, b"", held_attempt=1)
    assert got.status == "leased"


@pytest.mark.parametrize("state", ["unknown", "flagged", "running", "queued"])
async def test_only_queued_claims_what_waits_with_a_record_and_nothing_else(
    store, redis_client, state
):
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


async def test_a_flag_set_before_the_record_is_seen_by_the_claim(store, redis_client):
    await redis_client.hset(names.state_key(ID), "cancel", 1)
    assert (await claim(store)).cancel_reason == "requested"


async def test_a_flag_keeps_the_ttl_that_its_record_has(store, redis_client):
    await redis_client.hset(names.state_key(ID), "cancel", 1)
    await redis_client.expire(names.state_key(ID), 50)
    await store.keep_cancel_flag(ID)
    assert await redis_client.ttl(names.state_key(ID)) <= 50
    await store.keep_cancel_flag("another")
    assert not await redis_client.exists(names.state_key("another"))


async def test_a_log_whose_record_was_lost_does_not_stand_in_the_way(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["of the first life"] * 5)
    await append(store, log)
    await redis_client.delete(names.state_key(ID))
    log = ended(open_log(await claim(store)))
    assert await append(store, log)
    assert [each.type for each in await read_log(redis_client, ID)] == ["started", "completed"]


async def test_of_many_claims_at_once_one_gets_the_job(store, redis_client):
    got = await asyncio.gather(*(claim(store) for _ in range(20)))
    assert sorted(each.status for each in got) == ["claimed"] + ["leased"] * 19


@pytest.mark.parametrize(
    "job_id", ["", "a b", "job:{x}:state", "x" * 129, "é", "a\n", "*"], ids=repr
)
async def test_what_is_no_job_id_never_reaches_a_key(store, redis_client, job_id):
    for call in (
        lambda: claim(store, job_id=job_id),
        lambda: store.renew([(job_id, 1)]),
        lambda: store.release(job_id, 1),
        lambda: store.reap(job_id, again_running_s=1, again_queued_s=1),
        lambda: store.keep_cancel_flag(job_id),
    ):
        with pytest.raises(ValueError, match="job ID"):
            await call()
    assert await redis_client.dbsize() == 0


# Append


async def test_the_same_bytes_are_published_and_logged_under_their_seq(store, redis_client):
    async with subscribed(redis_client, ID) as channel:
        log = open_log(await claim(store))
        log.chunk(["Hello", ' \u2028\x00"world"', "\U0001f600"])
        batch = log.take()
        assert await store.append([batch]) == [True]
        assert await channel.read(4) == batch.events == await raw_log(redis_client, ID)
    kept = await record(redis_client, ID)
    assert (kept["seq"], kept["chunks"]) == ("4", "3")


async def test_a_batch_whose_reply_was_lost_is_taken_once(lossy, redis_client):
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


async def test_a_last_batch_whose_reply_was_lost_is_taken_once(lossy, redis_client):
    store = make_store(lossy)
    batch = ended(open_log(await claim(store))).take()
    lossy.lose = 1
    with pytest.raises(ConnectionError):
        await store.append([batch])
    assert await store.append([batch]) == [True]
    assert len(await read_log(redis_client, ID)) == 2


async def test_of_a_batch_that_was_taken_in_part_the_rest_is_taken(store, redis_client):
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


async def test_a_job_that_was_reaped_refuses_its_stale_worker_before_anyone_claims_it(
    store, redis_client
):
    log = open_log(await claim(store))
    await append(store, log)
    await expire_lease(redis_client, ID)
    assert await store.reap(ID, again_running_s=6, again_queued_s=30)
    log.chunk(["stale"])
    assert not await append(store, log)
    assert len(await read_log(redis_client, ID)) == 1


async def test_after_the_end_everything_is_refused(store, redis_client):
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


async def test_a_server_that_was_emptied_refuses_what_comes(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    await redis_client.flushall()
    log.chunk(["into the void"])
    assert not await append(store, log)
    assert await redis_client.dbsize() == 0


async def test_a_server_that_came_back_older_refuses_what_would_leave_a_gap(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    log.chunk(["lost with the server"])
    log.take()
    log.chunk(["after it"])
    assert not await append(store, log)
    assert len(await read_log(redis_client, ID)) == 1


async def test_the_end_sets_status_and_ttl_and_removes_watch_and_prompt(store, redis_client):
    await submit(redis_client)
    await append(store, ended(open_log(await claim(store))))
    kept = await record(redis_client, ID)
    assert kept["status"] == "completed"
    assert not {"job", "owner", "lease_ms"} & kept.keys()
    await store.update_index()
    assert await due_at(redis_client, ID) is None
    assert await redis_client.ttl(names.state_key(ID)) <= LOG_TTL_S
    assert await redis_client.ttl(names.log_key(ID)) <= LOG_TTL_S


async def test_a_reset_is_counted_in_the_record(store, redis_client):
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


async def test_a_log_that_was_evicted_gets_a_ttl_again(store, redis_client):
    log = open_log(await claim(store))
    await append(store, log)
    await redis_client.delete(names.log_key(ID))
    log.chunk(["a"])
    assert await append(store, log)
    assert await redis_client.ttl(names.log_key(ID)) > 0


async def test_a_read_of_very_many_chunks_is_one_call(store, redis_client):
    log = open_log(await claim(store))
    log.chunk(["x"] * 3000)
    assert await append(store, log)
    assert await redis_client.xlen(names.log_key(ID)) == 3001
    [(last, fields)] = await redis_client.xrevrange(names.log_key(ID), count=1)
    assert isinstance(decode(fields[b"event"]), Chunk)
    assert last == b"3001-0"


# Renew, release, reap


async def test_renewing_tells_for_each_job_how_it_stands(store, redis_client):
    for name in ("fine", "flagged", "revoked", "taken", "over", "reaped", "released"):
        await claim(store, job_id=name)
    await redis_client.hset(names.state_key("flagged"), "cancel", 1)
    assert not await store.revoke("revoked", running=False)
    assert not await store.revoke("revoked", running=True)
    await expire_lease(redis_client, "taken")
    await claim(store, job_id="taken")
    await append(store, ended(open_log(await _reclaimed(store, "over"))))
    await expire_lease(redis_client, "reaped")
    await store.reap("reaped", again_running_s=6, again_queued_s=30)
    await store.release("released", 1)
    for name in ("fine", "flagged", "revoked"):
        await expire_lease(redis_client, name)
    lost = ("taken", "over", "reaped", "released", "gone")
    held = [(name, 1) for name in ("fine", "flagged", "revoked", *lost)]
    assert await store.renew(held) == ["renewed", "requested", "revoked", *["lost"] * 5]
    for name in ("fine", "flagged", "revoked"):
        assert await due_at(redis_client, name) > 1e12
        assert float((await record(redis_client, name))["lease_ms"]) > 1e12
    assert "lease_ms" not in await record(redis_client, "over")
    assert await record(redis_client, "gone") == {}


async def _reclaimed(store, job_id):
    return await claim(store, b"", job_id=job_id, held_attempt=1)


async def test_a_lease_that_ran_out_unnoticed_is_renewed(store, redis_client):
    await claim(store)
    await expire_lease(redis_client, ID)
    assert await store.renew([(ID, 1)]) == ["renewed"]
    assert (await claim(store)).status == "leased"


async def test_a_watch_that_was_evicted_comes_back_with_a_ttl(store, redis_client):
    await claim(store)
    await redis_client.delete(names.due_key(ID))
    assert await store.renew([(ID, 1)]) == ["renewed"]
    await check_keys(redis_client)
    await redis_client.delete(names.due_key(ID))
    await store.release(ID, 1)
    await store.update_index()
    await check_keys(redis_client)
    assert await due_at(redis_client, ID) is not None


async def test_renewing_nothing_is_no_error(store):
    assert await store.renew([]) == []


async def test_a_release_by_an_older_attempt_changes_nothing(store, redis_client):
    await claim(store)
    await claim(store, b"", held_attempt=1)
    await store.release(ID, 1)
    assert (await record(redis_client, ID))["status"] == "running"


async def test_a_release_after_the_end_changes_nothing(store, redis_client):
    await append(store, ended(open_log(await claim(store))))
    await store.release(ID, 1)
    assert (await record(redis_client, ID))["status"] == "completed"
    await store.update_index()
    assert await due_at(redis_client, ID) is None


async def test_a_lost_job_is_reaped_by_one_of_many_and_is_due_again_later(store, redis_client):
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


async def test_how_long_the_server_is_up_is_known_or_taken_for_long_enough(request, redis_url):
    # fakeredis has no INFO, as some services; it hangs up on who asks, so it is asked once.
    knows = "fake" not in request.node.callspec.id
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        store = make_store(client)
        for _ in range(3):
            assert (await store.up_s() < math.inf) is knows


async def test_a_queued_job_comes_due_and_keeps_waiting(store, redis_client):
    await submit(redis_client, again_ms=0)
    assert await store.due(10) == [ID]
    overdue = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert overdue is not None
    assert (overdue.was, overdue.job) == ("queued", JOB)
    assert await store.due(10) == []


async def test_a_queued_job_is_taken_once_the_queue_has_passed_it_by(store, redis_client):
    await submit(redis_client, again_ms=0)
    created_ms = int((await record(redis_client, ID))["created_ms"])
    times = {"again_running_s": 6, "again_queued_s": 0}
    assert await store.reap(ID, **times, watermark_ms=created_ms) is None
    # All times are whole milliseconds: in the same one it would not stand behind.
    while (now := await redis_client.time())[0] * 1000 + now[1] // 1000 <= created_ms:
        pass
    overdue = await store.reap(ID, **times, watermark_ms=created_ms + 1)
    assert overdue is not None
    # It is on the queue again, behind what has passed it by until now.
    assert await store.reap(ID, **times, watermark_ms=created_ms + 1) is None


async def test_a_lost_job_is_taken_however_far_the_queue_is(store, redis_client):
    await claim(store)
    await expire_lease(redis_client, ID)
    assert await store.reap(ID, again_running_s=6, again_queued_s=30, watermark_ms=0)


async def test_what_needs_no_watching_is_removed_from_the_watch(store, redis_client):
    await claim(store, job_id="over")
    await redis_client.hset(names.state_key("over"), "status", "completed")
    await claim(store, job_id="expired")
    await redis_client.delete(names.state_key("expired"))
    for name in ("over", "expired"):
        await expire_lease(redis_client, name)
        assert await store.reap(name, again_running_s=6, again_queued_s=30) is None
    assert await store.due(10) == []
    assert await indexed(redis_client) == set()


async def test_a_lost_job_is_told_with_the_trace_that_its_first_claim_was_part_of(
    store, redis_client
):
    await claim(store, trace="the trace")
    await expire_lease(redis_client, ID)
    overdue = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert overdue.trace == b"the trace"
    await claim(store)
    await expire_lease(redis_client, ID)
    overdue = await store.reap(ID, again_running_s=6, again_queued_s=30)
    assert overdue.trace == b"the trace"


async def test_a_renewal_between_due_and_reap_saves_the_job(store, redis_client):
    await claim(store)
    await expire_lease(redis_client, ID)
    assert await store.due(10) == [ID]
    await store.renew([(ID, 1)])
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


async def test_dead_letters_are_bounded_in_number_and_need_no_ttl(store, redis_client):
    for n in range(300):
        await store.dead_letter(f"job-{n}", "too_many_attempts", call=f"call-{n}", job=JOB)
    await store.dead_letter(None, "invalid_job_id", call="last", job=b"")
    entries = await redis_client.xrange(names.DEAD_LETTERS)
    assert len(entries) < 250
    assert entries[-1][1][b"reason"] == b"invalid_job_id"
    assert entries[-1][1][b"job_id"] == b""
    assert entries[-2][1][b"job"] == JOB


async def test_a_burial_whose_reply_was_lost_leaves_one_letter_however_often_it_is_sent(
    store, lossy, redis_client
):
    elsewhere = make_store(lossy, owner="elsewhere")
    lossy.lose = 1
    with pytest.raises(ConnectionError):
        await elsewhere.dead_letter(ID, "reason", call="x", job=JOB)
    for each in (elsewhere, store):  # the sender again, and who has taken over from it
        await each.dead_letter(ID, "reason", call="x", job=JOB)
    assert await redis_client.xlen(names.DEAD_LETTERS) == 1
    await store.dead_letter(ID, "reason", call="y", job=JOB)
    assert await redis_client.xlen(names.DEAD_LETTERS) == 2


# Errors


async def test_a_server_that_cannot_be_reached_is_the_builtin_connection_error(lossy):
    store = make_store(lossy)
    log = open_log(await claim(store))
    calls = (
        lambda: claim(store),
        lambda: store.append([log.take()]),
        lambda: store.renew([(ID, 1)]),
        lambda: store.release(ID, 1),
        lambda: store.due(1),
        lambda: store.reap(ID, again_running_s=1, again_queued_s=1),
        lambda: store.keep_cancel_flag(ID),
        lambda: store.dead_letter(ID, "reason", call="x", job=b""),
    )
    for call in calls:
        lossy.lose = 1
        with pytest.raises(ConnectionError):
            await call()
