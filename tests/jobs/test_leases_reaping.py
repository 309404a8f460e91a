"""Requeuing of jobs whose lease has expired, and of jobs whose message was lost."""

import asyncio
import logging

import pytest

from berlin_worker.jobs.store import Claim
from tests.support.lease_fakes import QUEUED_MS, FakeHolder
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.unit


def claim(created_ms, *, attempt=1, now_ms=9000):
    times = {"created_ms": created_ms, "started_ms": now_ms, "now_ms": now_ms}
    counts = {"seq": 0, "chunks": 0, "failed_attempts": 0, "cancel_reason": "", "owner": "w"}
    return Claim(job_id="job-0", status="claimed", attempt=attempt, **counts, **times)


async def test_lost_job_is_requeued_once_the_broker_is_available_again(
    leases, store, job_queue, reaping
):
    job_queue.broken = True
    job_queue.queue_length = 5
    store.overdue = {"job-1": "running"}
    await until(lambda: store.reaped)
    await asyncio.sleep(0.01)
    assert job_queue.requeued == store.requeued_jobs == []
    job_queue.broken = False
    await until(lambda: job_queue.requeued)
    assert job_queue.requeued == ["job-1"]


async def test_lost_job_is_requeued_whatever_the_queue_depth(leases, store, job_queue, reaping):
    job_queue.queue_length = 1000
    store.overdue = {"job-1": "running"}
    await until(lambda: job_queue.requeued)
    assert job_queue.requeued == ["job-1"]


async def test_waiting_job_is_requeued_only_if_the_queue_is_empty(leases, store, job_queue):
    job_queue.queue_length = 1
    store.overdue = {"job-1": "queued"}
    await leases._reap_all()
    assert store.reaped == ["job-1"]
    assert job_queue.requeued == []
    job_queue.queue_length = 0
    store.overdue = {"job-1": "queued", "job-2": "queued"}
    await leases._reap_all()
    assert job_queue.requeued == store.requeued_jobs == ["job-1", "job-2"]


async def test_waiting_job_is_requeued_if_a_later_one_was_consumed(leases, store, job_queue):
    job_queue.queue_length = 1
    for earlier in (claim(QUEUED_MS), claim(9000, now_ms=9000), claim(8000, attempt=2)):
        # Not later, of unknown age, and not from its place in the queue.
        leases.advance_watermark(earlier)
        store.overdue = {"job-1": "queued"}
        await leases._reap_all()
        assert job_queue.requeued == []
    leases.advance_watermark(claim(QUEUED_MS + 1))
    leases.advance_watermark(claim(QUEUED_MS - 1))
    store.overdue = {"job-1": "queued"}
    await leases._reap_all()
    assert job_queue.requeued == ["job-1"]


async def test_worker_started_after_an_outage_waits_before_it_reaps(leases, store, job_queue):
    store.overdue = {"job-1": "running"}
    store.up_for_s = 0
    await leases._reap_all()
    assert store.reaped == []
    store.up_for_s = 1
    await leases._reap_all()
    assert job_queue.requeued == ["job-1"]


async def test_job_that_another_worker_has_claimed_is_not_requeued(leases, store, job_queue):
    store.overdue = {"job-1": "taken", "job-2": "running"}
    await leases._reap_all()
    assert job_queue.requeued == ["job-2"]


@pytest.mark.parametrize("noticed_by", ["renewing", "reaping"])
async def test_after_an_outage_holders_have_one_lease_duration_to_renew(
    leases, store, job_queue, noticed_by, caplog
):
    caplog.set_level(logging.WARNING)
    store.away = True
    work = leases.renew_forever() if noticed_by == "renewing" else leases.reap_forever()
    with leases.holding("mine", FakeHolder()):
        task = asyncio.create_task(work)
        await until(lambda: caplog.records)
        await stopped(task)
    store.away = False
    store.overdue = {"job-1": "running"}
    loop = asyncio.get_running_loop()
    back = loop.time()
    await leases._reap_all()
    assert store.reaped == []
    while not store.reaped:
        await asyncio.sleep(0.005)
        await leases._reap_all()
    assert loop.time() - back >= 0.05
    assert job_queue.requeued == ["job-1"]


@pytest.mark.parametrize(
    "job",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe{",
        b'{"a": NaN}',
        b'{"a": "\\ud800"}',
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a": "' + b"x" * (1 << 20) + b'"}',
        b'{"a": "' + b"x" * (3 << 20) + b'"}',
    ],
    ids=lambda job: repr(job[:12]),
)
async def test_record_that_cannot_run_is_discarded_and_the_next_job_is_requeued(
    leases, store, job_queue, job
):
    store.job, store.overdue = job, {"odd": "running"}
    await leases._reap_all()
    assert [each[:2] for each in store.discarded] == [("odd", "invalid_record")]
    store.job, store.overdue = b"{}", {"next": "running"}
    await leases._reap_all()
    assert job_queue.requeued == ["next"]


async def test_error_of_one_job_does_not_stop_the_requeuing_of_others(
    leases, store, job_queue, monkeypatch
):
    async def requeue(job_id, job, trace=b""):
        if job_id == "odd":
            raise RecursionError
        job_queue.requeued.append(job_id)

    async def discard(*_):
        raise RuntimeError("and it cannot be discarded")

    monkeypatch.setattr(job_queue, "requeue", requeue)
    leases._discard = discard
    store.overdue = {"odd": "running", "next": "running"}
    await leases._reap_all()
    await leases._reap_all()
    assert job_queue.requeued == ["next"]
