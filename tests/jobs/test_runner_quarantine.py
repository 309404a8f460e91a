"""Jobs that crash workers: quarantine before the final attempt, then the dead letters."""

import asyncio
import contextlib
import json

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.jobs.store import Overdue
from tests.support.harness import JOB_ID, cancelled, says
from tests.support.store_helpers import (
    JOB,
    expire_lease,
    job_object,
    load_scripts,
    make_store,
    record,
)
from tests.support.waiting import until

pytestmark = pytest.mark.contract


async def test_job_that_kills_workers_fails_and_becomes_a_dead_letter(worker, redis_client):
    store = make_store(redis_client)
    async with worker(says("never")) as here:
        for n in range(3):
            claim = await store.claim(JOB_ID, JOB, call=f"victim-{n}", deadline_s=50.0)
            assert claim.status == "claimed"
            await expire_lease(redis_client, JOB_ID)
        await here.run()
        [event] = await here.log()
        assert here.provider.calls == 0
    assert event.error.code is ErrorCode.TOO_MANY_ATTEMPTS
    [(_, letter)] = await redis_client.xrange(names.DEAD_LETTERS)
    assert letter[b"reason"] == b"too_many_attempts"
    assert letter[b"job_id"] == JOB_ID.encode()
    assert json.loads(letter[b"job"]) == job_object()


async def test_job_that_fails_twice_for_too_many_attempts_becomes_one_dead_letter(
    worker, redis_client, monkeypatch
):
    async with worker(says("never")) as here:
        for n in range(3):
            await here.store.claim(JOB_ID, JOB, call=f"victim-{n}", deadline_s=50.0)
            await expire_lease(redis_client, JOB_ID)
        dead_letter, recorded = here.store.dead_letter, asyncio.Event()

        async def hangs(*args, **kwargs):
            await dead_letter(*args, **kwargs)
            recorded.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(here.store, "dead_letter", hangs)
            async with cancelled(here.start()):
                await recorded.wait()
        await here.run()
        assert await here.kinds() == ["failed"]
    assert await redis_client.xlen(names.DEAD_LETTERS) == 1


async def test_each_discarded_message_becomes_one_dead_letter(worker, redis_client):
    async with worker(says("never")) as here:
        for message in (b"x", b"x", b"y"):
            await here.runner.discard(JOB_ID, "undecodable", "no task", message)
        for _ in range(2):  # without a job ID two entries cannot be recognised as one
            await here.runner.discard(None, "undecodable", "no task", b"x")
    letters = [fields for _, fields in await redis_client.xrange(names.DEAD_LETTERS)]
    assert [letter[b"message"] for letter in letters] == [b"x", b"y", b"x", b"x"]


async def test_record_that_cannot_run_ends_its_job(worker, redis_client):
    """Otherwise the job would be due, and its error in the log, for as long as the record lives."""
    mark = "0" * 32
    record = {"status": "queued", "job": b"{", "fingerprint": mark, f"fingerprint:{mark}": 1}
    async with worker(says("never")) as here:
        await redis_client.hset(names.state_key(JOB_ID), mapping=record)
        await redis_client.expire(names.state_key(JOB_ID), 100)
        overdue = Overdue(JOB_ID, "queued", b"{")
        await here.leases._reaper._requeue(overdue)
        assert await here.kinds() == ["failed"]
        (end,) = await here.log()
    assert "the record of the job cannot run" in end.error.message
    assert here.job_queue.requeued == []


async def fail_twice(redis_client, job_id, *, ran_ms=0):
    await load_scripts(redis_client)
    store = make_store(redis_client)
    for n in range(2):
        await store.claim(job_id, JOB, call=f"{job_id}-{n}", deadline_s=50.0)
        await expire_lease(redis_client, job_id, ran_ms)


async def test_final_attempt_runs_in_isolation_and_waiting_jobs_count_no_failed_attempt(
    worker, redis_client
):
    for job_id in ("killer", "neighbour"):
        await fail_twice(redis_client, job_id)
    async with worker(says("x", hangs=True), says("y")) as here:
        killer = here.start("killer")
        await here.logged(2, "killer")
        neighbour = here.start("neighbour")
        await until(lambda: here.runner.quarantine.waits("neighbour"))
        assert (await record(redis_client, "neighbour"))["status"] == "queued"
        # A job without failed attempts runs beside it.
        await here.run("innocent")
        # A second message for a job that waits here already is dropped.
        await here.run("neighbour")
        assert here.runner.quarantine.waits("neighbour")
        async with cancelled(killer):
            pass
        await neighbour
        assert (await here.kinds("neighbour")) == ["started", "chunk", "completed"]
    assert (await record(redis_client, "neighbour"))["failed_attempts"] == "2"


async def test_job_that_had_run_for_long_with_its_lost_worker_waits_for_no_slot(
    worker, redis_client
):
    """Two machines fail in turn: of all jobs that ran there none is to blame."""
    await fail_twice(redis_client, "killer")
    jobs = [f"job-{n}" for n in range(8)]
    for job_id in jobs:
        await fail_twice(redis_client, job_id, ran_ms=3001)
    key = names.state_key("job-0")
    await redis_client.hset(key, "cleared", 3)  # it has lost five workers, all of them late
    async with worker(says("x", hangs=True)) as here:
        killer = here.start("killer")
        await here.logged(2, "killer")
        tasks = {job_id: here.start(job_id) for job_id in jobs}
        await until(lambda: here.runner.quarantine.waits("job-0"))
        for job_id in jobs[1:]:
            await here.logged(2, job_id)
            kept = await record(redis_client, job_id)
            assert (kept["failed_attempts"], kept["cleared"]) == ("1", "1")
        for task in (tasks.pop("job-0"), killer, *tasks.values()):
            async with cancelled(task):
                pass


async def test_job_that_survives_its_observation_leaves_the_quarantine(worker, redis_client):
    await fail_twice(redis_client, "neighbour")
    async with worker(says("x", hangs=True)) as here:
        here.runner.quarantine.observation_s = 0.01
        neighbour = here.start("neighbour")

        async def cleared():
            return (await record(redis_client, "neighbour"))["failed_attempts"] == "1"

        async with asyncio.timeout(30):
            while not await cleared():  # noqa: ASYNC110  # what is waited for happens in Redis
                await asyncio.sleep(0.001)
        assert not here.runner.quarantine.busy
        async with cancelled(neighbour):
            pass
    # The number of observations is limited: a job that always crashes late would run for ever.
    await redis_client.hset(
        names.state_key("neighbour"), mapping={"failed_attempts": 2, "cleared": 9}
    )
    async with worker(says("x")) as here:
        here.runner.quarantine.observation_s = 0.0
        await here.run("neighbour")
    assert (await record(redis_client, "neighbour"))["failed_attempts"] == "2"


@pytest.mark.parametrize("cleared", ["0", "8", "garbage"])
async def test_attempts_that_only_waited_for_a_slot_cost_no_job_its_observation(
    worker, redis_client, cleared
):
    """Neighbours of a job that kills its workers are released, and claimed again, many times."""
    await fail_twice(redis_client, "neighbour")
    key = names.state_key("neighbour")
    await redis_client.hset(key, mapping={"attempt": 40, "cleared": cleared})
    async with worker(says("x", hangs=True)) as here:
        here.runner.quarantine.observation_s = 0.01
        neighbour = here.start("neighbour")
        expected = {"0": "1", "8": "9", "garbage": "1"}[cleared]
        async with asyncio.timeout(30):
            while (await record(redis_client, "neighbour"))["cleared"] != expected:  # noqa: ASYNC110  # what is waited for happens in Redis
                await asyncio.sleep(0.001)
        assert (await record(redis_client, "neighbour"))["failed_attempts"] == "1"
        async with cancelled(neighbour):
            pass


@contextlib.asynccontextmanager
async def slot_of_a_group(job_id):
    yield False


@pytest.mark.parametrize("cause", [None, "revoked", "time_limit"])
@pytest.mark.parametrize("place", ["survived", "waits", "in a group"])
async def test_final_attempt_that_is_cancelled_before_it_begins_leaves_no_claim(
    worker, redis_client, monkeypatch, place, cause
):
    """The call that is under way hangs: the store does not answer at once."""
    await fail_twice(redis_client, JOB_ID, ran_ms=3001 if place == "survived" else 0)
    async with worker(says("never")) as here:
        quarantine, hangs = here.runner.quarantine, asyncio.Event()
        name = "release" if place == "waits" else "clear_failure"
        call = getattr(here.store, name)

        async def hang_once(*args, **kwargs):
            if not hangs.is_set():
                hangs.set()
                await asyncio.Event().wait()
            return await call(*args, **kwargs)

        monkeypatch.setattr(here.store, name, hang_once)
        if place == "waits":
            monkeypatch.setattr(type(quarantine), "busy", True)
        elif place == "in a group":
            monkeypatch.setattr(quarantine, "slot", slot_of_a_group)
        here.cause = cause
        async with cancelled(here.start()):
            async with asyncio.timeout(30):
                await hangs.wait()
        assert here.provider.calls == 0
        kept = await record(redis_client, JOB_ID)
        expected = {None: "queued", "revoked": "cancelled", "time_limit": "failed"}[cause]
        assert (kept["status"], "owner" in kept) == (expected, False)
        assert kept["failed_attempts"] == "2"


async def test_quarantined_jobs_start_in_groups_whose_loss_ends_no_job(worker, redis_client):
    # One begins alone; of the 17 others 8 begin together, with one failed attempt cleared.
    jobs = [f"job-{n}" for n in range(18)]
    for job_id in jobs:
        await fail_twice(redis_client, job_id)
    async with worker(says("x", hangs=True)) as here:
        tasks = {job_id: here.start(job_id) for job_id in jobs}
        waits = here.runner.quarantine.waits
        await until(lambda: all(waits(job_id) for job_id in jobs[1:]))
        async with cancelled(tasks.pop(jobs[0])):
            pass
        group = [job_id for job_id in tasks if not waits(job_id)]
        assert len(group) == 8
        for job_id in group:
            await here.logged(2, job_id)
        for job_id in tasks:
            failed_attempts = "1" if job_id in group else "2"
            assert (await record(redis_client, job_id))["failed_attempts"] == failed_attempts
        # Waiting jobs are cancelled first, so that none of them takes a slot that becomes free.
        for job_id in sorted(tasks, key=waits, reverse=True):
            async with cancelled(tasks[job_id]):
                pass
        assert not here.runner.quarantine.busy


async def test_job_released_while_it_waits_in_quarantine_is_free_for_other_workers(
    worker, redis_client
):
    for job_id in ("killer", "neighbour"):
        await fail_twice(redis_client, job_id)
    async with worker(says("x", hangs=True)) as here:
        killer, neighbour = here.start("killer"), here.start("neighbour")
        await until(lambda: here.runner.quarantine.waits("neighbour"))
        for task in (killer, neighbour):
            async with cancelled(task):
                pass
        assert not here.runner.quarantine.waits("neighbour")
    for job_id in ("killer", "neighbour"):
        kept = await record(redis_client, job_id)
        assert (kept["status"], kept["failed_attempts"]) == ("queued", "2")
