"""The journal over a store that is a plain list: batches, fences, bounds, cancellation."""

import asyncio
import gc
import weakref

import pytest

from berlin_schemas import Started, decode
from berlin_worker.errors import Fenced
from berlin_worker.jobs.lifecycle import Phase
from tests.support.journal_harness import JOB, Harness, claimed, completed, failed, head
from tests.support.waiting import until

pytestmark = pytest.mark.unit


@pytest.fixture
async def unretrieved():
    """Fail a test that leaves an exception or a task that no code retrieves."""
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    yield
    gc.collect()
    assert unhandled == []


# Batches and order


async def test_events_that_gather_during_a_call_of_the_store_go_in_the_next_call():
    async with Harness() as harness:
        harness.store.gate.clear()
        one, two = harness.started("one"), None
        await harness.store.held_up()
        for n in range(3):
            one.chunk([f"a{n}", f"b{n}"])
        two = harness.started("two")
        two.chunk(["c"])
        harness.store.gate.set()
        await one.flush()
        await two.flush()
        first, second = harness.store.calls
        assert [(job, len(events)) for job, _, events, _ in first] == [("one", 1)]
        assert [(job, seq, len(events)) for job, seq, events, _ in second] == [
            ("one", 2, 6),
            ("two", 1, 2),
        ]
        texts = [decode(each).content for each in harness.store.events["one"][1:]]
        assert texts == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_lost_connection_resends_the_same_bytes_until_they_are_taken():
    async with Harness() as harness:
        harness.store.failures = [ConnectionError("away"), ConnectionError("away")]
        log = harness.started()
        await harness.store.held_up()
        log.chunk(["gathers meanwhile"])
        await log.flush()
        assert harness.store.calls[0] == harness.store.calls[1] == harness.store.calls[2]
        assert len(harness.store.calls) == 4


async def test_ending_waits_for_the_acknowledgement():
    async with Harness() as harness:
        log = harness.started()
        await log.flush()
        harness.store.gate.clear()
        harness.store.asked.clear()
        ending = asyncio.create_task(log.end(completed(log)))
        await harness.store.held_up()
        assert not ending.done()
        harness.store.gate.set()
        await ending
        assert harness.store.calls[-1][0][3] == "completed"


async def test_flushing_what_has_been_acknowledged_does_not_wait():
    async with Harness() as harness:
        log = harness.started()
        await log.flush()
        harness.store.gate.clear()
        await log.flush()


# Fences


async def test_refused_log_stops_its_work_once_refuses_all_that_follows_and_holds_no_bytes():
    async with Harness() as harness:
        harness.store.refused = {JOB}
        harness.store.gate.clear()
        log = harness.started()
        await harness.store.held_up()
        log.chunk(["waits behind the refused batch"])
        harness.store.gate.set()
        await until(lambda: harness.fenced)
        assert harness.fenced == [JOB]
        for append in (
            lambda: log.chunk(["late"]),
            lambda: log.event(head(log, Started)),
        ):
            with pytest.raises(Fenced):
                append()
        with pytest.raises(Fenced):
            await log.end(failed(log))
        with pytest.raises(Fenced):
            await log.flush()
        assert harness.fenced == [JOB]
        assert harness.journal.buffered_bytes == 0
        assert len(harness.store.calls) == 1
        await harness.journal.drained()


async def test_waiter_for_a_refused_log_gets_fenced_and_is_not_stopped_too(
    unretrieved,
):
    async with Harness() as harness:
        harness.store.refused = {JOB}
        log = harness.started()
        with pytest.raises(Fenced):
            await log.end(completed(log))
        assert harness.fenced == []
        assert harness.journal.buffered_bytes == 0


async def test_logs_of_other_jobs_in_the_batch_are_not_touched_by_a_fence():
    async with Harness() as harness:
        harness.store.refused = {"one"}
        one, two = harness.started("one"), harness.started("two")
        await two.end(completed(two))
        assert one.fenced
        assert not two.fenced
        assert len(harness.store.events["two"]) == 2


async def test_fence_frees_the_buffer_for_other_jobs():
    async with Harness(limit=1000) as harness:
        harness.store.refused = {JOB}
        harness.store.gate.clear()
        log = harness.started()
        await harness.store.held_up()
        log.chunk(["x" * 2000])
        waiting = asyncio.create_task(log.writer.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        harness.store.gate.set()
        await waiting
        assert not log.writer.full


# Bounds


async def test_buffer_is_full_beyond_its_bound_and_has_room_when_the_store_has_answered():
    async with Harness(limit=1000) as harness:
        harness.store.gate.clear()
        log = harness.started()
        assert not log.writer.full
        log.chunk(["x" * 1000])
        assert log.writer.full
        waiting = asyncio.create_task(log.writer.wait_for_room())
        await harness.store.held_up()
        assert not waiting.done()
        harness.store.gate.set()
        await waiting
        assert not log.writer.full
        assert harness.journal.buffered_bytes == 0


async def test_slow_store_pauses_the_streams_and_bounds_memory():
    limit, streams, reads, size = 10_000, 8, 50, 500

    async with Harness(limit=limit) as harness:
        most = 0

        async def stream(job_id):
            nonlocal most
            log = harness.started(job_id)
            for _ in range(reads):
                log.chunk(["x" * size])
                most = max(most, harness.journal.buffered_bytes)
                if log.writer.full:
                    await log.writer.wait_for_room()
            await log.end(completed(log))

        async def slow_store():
            harness.store.gate.clear()
            while True:
                await harness.store.held_up()
                await asyncio.sleep(0)
                harness.store.gate.set()
                await asyncio.sleep(0)
                harness.store.gate.clear()

        slow = asyncio.create_task(slow_store())
        await asyncio.gather(*(stream(f"job-{n}") for n in range(streams)))
        slow.cancel()
        assert limit < most <= limit + streams * (size + 300)
        assert harness.journal.buffered_bytes == 0
        assert all(len(events) == reads + 2 for events in harness.store.events.values())


async def test_many_events_go_to_the_store_in_calls_of_bounded_size():
    async with Harness(limit=1 << 30) as harness:
        harness.store.gate.clear()
        logs = [harness.started(f"job-{n}") for n in range(40)]
        await harness.store.held_up()
        for log in logs:
            log.chunk(["x" * 100_000])
        harness.store.gate.set()
        await harness.journal.drained()
        sizes = [sum(len(e) for _, _, es, _ in call for e in es) for call in harness.store.calls]
        assert max(sizes) < 700_000


# Cancellation


@pytest.mark.parametrize("taken", [True, False])
async def test_cancelled_wait_leaves_nothing_behind(taken, unretrieved):
    async with Harness() as harness:
        harness.store.refused = set() if taken else {JOB}
        harness.store.gate.clear()
        log = harness.started()
        ending = asyncio.create_task(log.end(completed(log)))
        await harness.store.held_up()
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        harness.store.gate.set()
        await harness.journal.drained()
        assert harness.fenced == ([] if taken else [JOB])
        if taken:
            await log.flush()
            assert decode(harness.store.events[JOB][-1]).type == "completed"
        assert harness.journal.buffered_bytes == 0


async def test_second_wait_after_a_cancelled_one_gets_its_answer():
    async with Harness() as harness:
        harness.store.gate.clear()
        log = harness.started()
        first = asyncio.create_task(log.flush())
        await harness.store.held_up()
        first.cancel()
        await asyncio.wait({first})
        second = asyncio.create_task(log.flush())
        await asyncio.sleep(0)
        harness.store.gate.set()
        await second


async def test_log_of_a_later_attempt_continues_at_the_seq_of_the_record():
    async with Harness() as harness:
        harness.store.events[JOB] = [b"{}"] * 7
        log = harness.open(seq=7, chunks=5, attempt=2)
        assert log.phase is Phase.STREAMING
        assert log.next_seq == 8
        await log.end(failed(log))
        assert harness.store.calls[0][0][1] == 8


async def test_invalid_job_id_opens_no_log():
    with pytest.raises(ValueError, match="job ID"):
        Harness().open("job:{x}")


async def test_work_that_has_ended_leaves_no_cycle_to_the_garbage_collector():
    class Work:
        def lost(self):
            raise AssertionError

    async with Harness() as harness:
        gc.disable()
        try:
            work = Work()
            work.log = harness.journal.open(claimed(), on_fenced=work.lost)
            gone = weakref.ref(work)
            work.log.event(head(work.log, Started))
            await work.log.end(completed(work.log))
            del work
            assert gone() is None
        finally:
            gc.enable()
