"""Readers of records and logs that no worker has written: each ends with an end or an error."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from berlin_schemas import Cancelled, Chunk, Completed, Event, Started, encode, names
from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client import AsyncClient, Options
from berlin_worker.client.entries import Entry
from berlin_worker.client.replay import JobSnapshot, Need, Replay
from berlin_worker.errors import ClientError
from berlin_worker.settings import Settings
from berlin_worker.storage import stored_values
from tests.support.job_writer import TIMINGS
from tests.support.selection import examples

pytestmark = pytest.mark.contract

JOB = "job-1"
QUICK = Options(wait_for_start_s=0.1, give_up_after_s=1, reread_after_s=0.05)
WAITING = {"queued", "running"}
JUNK = [b"", b"x", b"\xff", b"completed ", b"RUNNING", b"-1", b"9" * 400, b"nan", b"1e400", b"[]"]
STATUSES = [b"queued", b"running", b"completed", b"failed", b"cancelled"]
NUMBERS = [b"0", b"1", b"2", b"5", b"9" * 13]


def event(kind: str, seq: int, job_id: str = JOB) -> Event:
    head: dict[str, Any] = {"job_id": job_id, "seq": seq, "attempt": 1, "ts": 0.0}
    match kind:
        case "started":
            return Started(**head)
        case "chunk":
            return Chunk(**head, content="x")
        case "cancelled":
            return Cancelled(**head, reason="requested")
        case _:
            return Completed(**head, finish_reason="stop", timings=TIMINGS)


def entry_data(seq: int) -> st.SearchStrategy[bytes]:
    kinds = st.sampled_from(["started", "chunk", "cancelled", "completed"])
    mine = kinds.map(lambda kind: encode(event(kind, max(seq, 1))))
    other_job = kinds.map(lambda kind: encode(event(kind, max(seq, 1), "job-2")))
    other_seq = kinds.map(lambda kind: encode(event(kind, seq + 1)))
    later = mine.map(lambda data: data.replace(b'"v":1', b'"v":2'))
    return mine | other_job | other_seq | later | st.sampled_from(JUNK)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Draw a log: IDs ascend, some as no worker writes them."""
    found: list[Entry] = []
    seq = minor = 0
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(["next", "next", "next", "next", "minor", "gap"])):
            case "next":
                seq, minor = seq + 1, 0
            case "minor":
                minor += 1
            case _:
                seq, minor = seq + 2, 0
        name = draw(st.sampled_from([b"event", b"event", b"event", b"Event"]))
        found.append((b"%d-%d" % (seq, minor), {name: draw(entry_data(seq))}))
    return found


RECORDS = st.fixed_dictionaries(
    {},
    optional={
        b"status": st.sampled_from([*STATUSES, *JUNK]),
        b"seq": st.sampled_from([*NUMBERS, *JUNK]),
        b"attempt": st.sampled_from([*NUMBERS, *JUNK]),
        b"cancel": st.sampled_from(JUNK),
    },
)


def check_end(events: list[Event], after: int) -> None:
    """Check that a reader without an error has read the end, or had it already."""
    assert [each.seq for each in events] == sorted({each.seq for each in events})
    if after == 0:
        assert events
        assert events[-1].type in TERMINAL_TYPES


@settings(max_examples=examples(500), deadline=None)
@given(RECORDS, logs(), st.integers(0, 7), st.sampled_from([1, 2, 500]))
def test_core_ends_for_any_record_and_log(record, log, after, page_size):
    status = stored_values.text(record.get(b"status"))
    seq = stored_values.whole(record.get(b"seq")) or 0
    replay, events = Replay(JOB, after), []
    replay.page_size = page_size
    try:
        for _ in range(60):
            if replay.need is Need.PAGE:
                cursor, at_most = replay.next_page
                beyond = [each for each in log if place(each) > (cursor, 0)]
                events += replay.page(beyond[:at_most])
            elif replay.need is Need.SNAPSHOT:
                seen = JobSnapshot(status, seq, log[-1] if log else None)
                replay.snapshot(seen, may_wait=False)
            elif replay.need is Need.LISTEN:
                replay.idle()
            else:
                break
    except ClientError:
        return
    if replay.need is Need.NOTHING:
        check_end(events, after)
    else:
        assert status in WAITING


def place(entry: Entry) -> tuple[int, int]:
    seq, _, minor = entry[0].partition(b"-")
    return int(seq), int(minor)


async def read(client: AsyncClient, job_id: str, after: int) -> list[Event] | None:
    """Return the events, or ``None`` if the reader ended with a ``ClientError``."""
    try:
        async with asyncio.timeout(20), client.stream(job_id, after=after) as stream:
            return [each async for each in stream]
    except ClientError:
        return None


async def write(redis: Redis, kind: str, record: dict[bytes, bytes], log: list[Entry]) -> bool:
    """Write a job; return whether its reader may wait for more."""
    state, stream = names.state_key(JOB), names.log_key(JOB)
    await redis.delete(state, stream)
    if kind == "record":
        await redis.set(state, b"x")
    elif record:
        await redis.hset(state, mapping=record)  # type: ignore[arg-type]  # bytes are fine
    if kind == "log":
        await redis.rpush(stream, b"x")
    for entry_id, fields in log if kind != "log" else ():
        if entry_id != b"0-0":
            await redis.xadd(stream, dict(fields), id=entry_id)  # type: ignore[arg-type]  # garbage on purpose
    return kind == "hash" and stored_values.text(record.get(b"status")) in WAITING


CASES = st.tuples(st.sampled_from(["hash", "hash", "hash", "record", "log"]), RECORDS, logs())


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(CASES, st.integers(0, 3))
def test_reader_ends_for_any_record_and_log(redis_url, case, after):
    async def run() -> None:
        async with (
            Redis.from_url(redis_url) as redis,
            AsyncClient(redis_url, settings=Settings(), options=QUICK) as client,
        ):
            if await write(redis, *case):
                return
            events = await read(client, JOB, after)
            if events is not None:
                check_end(events, after)

    asyncio.run(run())


@pytest.mark.parametrize("after", [-1, 10**15, 2**64, 10**30])
def test_cursor_that_no_log_can_have_is_refused(after):
    with pytest.raises(ValueError, match="15 digits"):
        Replay(JOB, after)
