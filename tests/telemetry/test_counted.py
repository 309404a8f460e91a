"""Counters equal the logs: jobs by their end, chunks, bytes, retries, takeovers."""

import asyncio
import functools
from collections.abc import Callable

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.telemetry.stats import Stats
from tests.support.harness import JOB_ID, ScriptedProvider, Stream, Worker, says
from tests.support.store_helpers import expire_lease, raw_log
from tests.support.waiting import until

pytestmark = pytest.mark.contract

BUSY = JobError(ErrorCode.UPSTREAM_ERROR, "busy", retryable=True, upstream_status=503)


@pytest.fixture
def worker(redis_client) -> Callable[..., Worker]:
    def make(*scripts: Stream, **changes: object) -> Worker:
        return Worker(redis_client, ScriptedProvider(*scripts), **changes)

    return make


def stats_of(worker: Worker) -> Stats:
    return worker.journal.stats


def jobs(worker: Worker) -> dict[str, int]:
    """Return how many jobs have ended, by their end."""
    return stats_of(worker).snapshot()["jobs"]


async def test_chunks_events_and_bytes_are_those_of_the_logs(worker, redis_client):
    job_ids = [f"job-{n}" for n in range(20)]
    async with worker(says("a", "bc", "")) as here:
        await asyncio.gather(*(here.run(job_id) for job_id in job_ids))
        events = [await raw_log(redis_client, job_id) for job_id in job_ids]
    stats = stats_of(here)
    assert stats.chunks == 40
    assert stats.events == sum(map(len, events)) == 80
    assert stats.event_bytes == sum(len(event) for log in events for event in log)
    assert stats.flush_bytes.sum == stats.event_bytes
    assert stats.flush.count == stats.flush_bytes.count > 0
    assert jobs(here) == {"completed": 20}
    assert stats.deliveries == 20
    assert stats.processing.of("").count == 20
    [(labels, calls)] = stats.operations.items()
    assert (labels, calls.count) == (("berlin", "gpt-3.5-turbo", ""), 20)
    assert stats.first_chunk.merged().count == 20
    assert stats.chunk_gap.merged().count == 20


async def test_each_end_counts_under_its_code(worker):
    bug = says(then=RuntimeError("x"))
    async with worker(says(then=BUSY), bug, says("a"), max_attempts=1) as here:
        for n in range(3):
            await here.run(f"job-{n}")
        await here.run("job-3", messages=[])
        await here.runner.cancel("job-4", "requested", only_queued=False)
    assert jobs(here) == {
        "failed:upstream_error": 1,
        "failed:internal": 1,
        "completed": 1,
        "failed:invalid_job": 1,
        "cancelled": 1,
    }
    stats = stats_of(here)
    ended = {labels[0]: each.count for labels, each in stats.processing.items()}
    assert ended == {"upstream_error": 1, "internal": 1, "": 1, "invalid_job": 1}
    assert {labels[2] for labels, _ in stats.operations.items()} == {
        "upstream_error", "internal", "",
    }  # fmt: skip
    assert stats.first_chunk.merged().count == 1


@pytest.mark.parametrize(
    ("stream", "fields", "code"),
    [
        (says(hangs=True), {"first_chunk_timeout_s": 0.05}, "upstream_timeout"),
        (says("a", hangs=True), {"deadline_s": 0.5}, "deadline_exceeded"),
    ],
)
async def test_timeout_is_the_error_of_the_call_too(worker, stream, fields, code):
    async with worker(stream, max_attempts=1) as here:
        await here.run(**fields)
    assert jobs(here) == {f"failed:{code}": 1}
    assert [labels[2] for labels, _ in stats_of(here).operations.items()] == [code]


async def test_retry_counts_under_the_code_of_the_attempt_that_failed(worker):
    async with worker(says("half", then=BUSY), says(then=BUSY), says("whole", "!")) as here:
        await here.run()
    stats = stats_of(here)
    assert stats.snapshot()["retries"] == {"upstream_error": 2}
    assert jobs(here) == {"completed": 1}
    assert stats.deliveries == 1
    assert stats.reclaims == 0
    assert stats.operations.merged().count == 3
    assert stats.chunks == 3
    assert stats.chunk_gap.merged().count == 1


async def test_job_taken_over_counts_as_a_reclaim_and_as_a_lost_lease(worker, redis_client):
    hanging = worker(says("a", hangs=True), renew_interval_s=60.0)
    async with hanging as here, worker(says("b"), owner="w2") as there:
        task = here.start()
        await here.logged(2)
        await expire_lease(redis_client, JOB_ID)
        await there.run()
        await here.leases._renew_all()
        await task
    assert stats_of(there).reclaims == 1
    assert jobs(there) == {"completed": 1}
    assert stats_of(here).leases_lost == 1
    assert jobs(here) == {}
    assert [labels[2] for labels, _ in stats_of(here).operations.items()] == ["cancelled"]


async def test_stale_write_is_refused_and_counts_as_nothing_else(worker, redis_client):
    going_on = asyncio.Event()

    async def stale(job, report):
        yield ["a"]
        await going_on.wait()
        yield ["too late"]
        await asyncio.Event().wait()

    async with worker(stale, renew_interval_s=60.0) as here, worker(says("b"), owner="w2") as there:
        task = here.start()
        before = await here.logged(2)
        await expire_lease(redis_client, JOB_ID)
        await there.run()
        going_on.set()
        await task
    stats = stats_of(here)
    assert stats.fenced == 1
    assert stats.chunks == 1
    assert stats.events == len(before)
    assert jobs(here) == {}


async def test_deliveries_that_are_dropped_count_by_their_reason(worker):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        await here.run()
        await here.runner.cancel(JOB_ID, "requested")
        await task
        await here.run()
    stats = stats_of(here)
    assert stats.snapshot()["dropped"] == {"finished": 1, "leased": 1}
    assert stats.deliveries == 3
    assert jobs(here) == {"cancelled": 1}


async def test_overdue_job_counts_as_its_former_state(worker, redis_client, monkeypatch):
    async def for_long() -> float:
        return 1e6

    async with worker(says("a", hangs=True), renew_interval_s=60.0) as here:
        task = here.start()
        await here.logged(2)
        await expire_lease(redis_client, JOB_ID)
        monkeypatch.setattr(here.store, "up_s", for_long)
        await here.leases._reap_all()
        assert here.job_queue.requeued == [JOB_ID]
        await here.runner.cancel(JOB_ID, "requested")
        await task
    assert stats_of(here).snapshot()["reaped"] == {"running": 1}


async def test_full_buffer_counts_once_for_each_time_that_it_fills(worker):
    async with worker(says(*["x" * 100] * 5), buffer_bytes=50) as here:
        await here.run()
    # Each read, and each event of the attempt itself, fills so small a buffer anew.
    assert 5 <= stats_of(here).journal_full <= 7


async def test_repeated_flush_counts_once(worker, monkeypatch):
    async with worker(says("a")) as here:
        append, tries = here.store.append, []

        async def unsteady(batch):
            tries.append(len(batch))
            if len(tries) == 1:
                await append(batch)  # taken, but the reply is lost
                raise ConnectionError("away")
            return await append(batch)

        monkeypatch.setattr(here.store, "append", unsteady)
        await here.run()
        await until(functools.partial(jobs, here))
    stats = stats_of(here)
    assert stats.events == 3
    assert stats.flush.count == len(tries) - 1
    assert jobs(here) == {"completed": 1}
