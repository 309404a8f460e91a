"""Renewing and reaping over a fake store: what holders receive, and when a job is requeued."""

import asyncio
import contextlib
import logging

import pytest

from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.store import Claim, Overdue
from tests.support.harness import Bell
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.unit

QUEUED_MS = 1000


def claim(created_ms, *, attempt=1, now_ms=9000):
    times = {"created_ms": created_ms, "started_ms": now_ms, "now_ms": now_ms}
    counts = {"seq": 0, "chunks": 0, "failed_attempts": 0, "cancel_reason": ""}
    return Claim(job_id="job-0", status="claimed", attempt=attempt, **counts, **times)


class Record:
    """A store that answers what the test says."""

    def __init__(self):
        self.replies = {}
        self.renewals = []
        self.overdue = {}
        self.reaped = []
        self.away = False
        self.turns = []
        self.turn_of_another = False
        self.up_for_s = 3600.0
        self.job = b"{}"
        self.discarded = []

    async def discard(self, job_id, reason, detail, message):
        self.discarded.append((job_id, reason, detail, message))

    async def renew(self, held, *, index):
        if self.away:
            raise ConnectionError("away")
        self.renewals.append(list(held))
        return [self.replies.get(job_id, "renewed") for job_id, _ in held]

    async def up_s(self):
        return self.up_for_s

    async def update_index(self):
        if self.away:
            raise ConnectionError("away")

    heal_index = update_index

    async def take_turn(self, for_s):
        self.turns.append(for_s)
        return not self.turn_of_another

    async def due(self, limit):
        if self.away:
            raise ConnectionError("away")
        return list(self.overdue)[:limit]

    async def reap(self, job_id, *, again_running_s, again_queued_s, watermark_ms):
        self.reaped.append(job_id)
        was = self.overdue.pop(job_id)
        if was == "taken" or (was == "queued" and watermark_ms <= QUEUED_MS):
            return None
        return Overdue(job_id, was, self.job)


class Holder:
    def __init__(self, attempt=1):
        self.attempt = attempt
        self.received = []

    def lost(self):
        self.received.append("lost")

    def cancel(self, reason):
        self.received.append(reason)


@pytest.fixture
def bell():
    return Bell()


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def leases(record, bell):
    return Leases(
        record,
        lease_s=0.05,
        renew_interval_s=0.001,
        reap_interval_s=0.001,
        job_queue=bell,
        discard=record.discard,
    )


@pytest.fixture
async def renewing(leases):
    task = asyncio.create_task(leases.renew_forever())
    yield task
    assert not task.done()
    await stopped(task)


@pytest.fixture
async def reaping(leases):
    task = asyncio.create_task(leases.reap_forever())
    yield task
    assert not task.done()
    await stopped(task)


# Renewing


async def test_whoever_has_given_way_while_the_renewal_was_under_way_is_not_told(leases, record):
    old, new = Holder(1), Holder(2)

    async def renew(held, *, index):
        hold.__exit__(None, None, None)
        leases.holding("job-1", new).__enter__()
        return ["lost"]

    record.renew = renew
    hold = leases.holding("job-1", old)
    hold.__enter__()
    await leases._renew_all()
    assert old.received == new.received == []


async def test_holders_learn_that_their_job_is_lost_or_cancelled(leases, record, renewing):
    fine, lost, unwanted = Holder(), Holder(), Holder(3)
    record.replies = {"lost": "lost", "unwanted": "requested"}
    with (
        leases.holding("fine", fine),
        leases.holding("lost", lost),
        leases.holding("unwanted", unwanted),
    ):
        await until(lambda: lost.received and unwanted.received)
    assert lost.received[0] == "lost"
    assert unwanted.received[0] == "requested"
    assert fine.received == []
    assert [("fine", 1), ("lost", 1), ("unwanted", 3)] in record.renewals


async def test_nothing_held_is_nothing_sent(leases, record):
    await leases._renew_all()
    assert record.renewals == []


async def test_very_many_leases_are_renewed_in_calls_of_bounded_size(leases, record):
    with contextlib.ExitStack() as stack:
        for n in range(1201):
            stack.enter_context(leases.holding(f"job-{n}", Holder()))
        await leases._renew_all()
    assert [len(each) for each in record.renewals] == 12 * [100] + [1]


async def test_a_store_that_is_away_is_tried_again(leases, record, renewing):
    holder = Holder()
    record.away = True
    with leases.holding("job-1", holder):
        await asyncio.sleep(0.01)
        record.away = False
        await until(lambda: record.renewals)


async def test_only_the_last_holder_of_a_job_lets_it_go(leases):
    first, second = Holder(1), Holder(2)
    with leases.holding("job-1", first):
        later = leases.holding("job-1", second)
        later.__enter__()
    assert leases.holder("job-1") is second
    later.__exit__(None, None, None)
    assert leases.holder("job-1") is None
    assert len(leases) == 0


# Reaping


async def test_a_lost_job_that_could_not_be_rung_is_rung_when_the_broker_is_back(
    leases, record, bell, reaping
):
    bell.broken = True
    bell.queue_length = 5
    record.overdue = {"job-1": "running"}
    await until(lambda: record.reaped)
    await asyncio.sleep(0.01)
    assert bell.rung == []
    bell.broken = False
    await until(lambda: bell.rung)
    assert bell.rung == ["job-1"]


async def test_a_lost_job_is_rung_however_long_the_queue(leases, record, bell, reaping):
    bell.queue_length = 1000
    record.overdue = {"job-1": "running"}
    await until(lambda: bell.rung)
    assert bell.rung == ["job-1"]


async def test_a_waiting_job_is_rung_only_where_the_queue_is_empty(leases, record, bell):
    bell.queue_length = 1
    record.overdue = {"job-1": "queued"}
    await leases._reap_all()
    assert record.reaped == ["job-1"]
    assert bell.rung == []
    bell.queue_length = 0
    record.overdue = {"job-1": "queued", "job-2": "queued"}
    await leases._reap_all()
    assert bell.rung == ["job-1", "job-2"]


async def test_a_waiting_job_is_rung_where_a_later_one_was_taken_from_the_queue(
    leases, record, bell
):
    bell.queue_length = 1
    for earlier in (claim(QUEUED_MS), claim(9000, now_ms=9000), claim(8000, attempt=2)):
        # Not later, of unknown age, and not from its place in the queue.
        leases.advance_watermark(earlier)
        record.overdue = {"job-1": "queued"}
        await leases._reap_all()
        assert bell.rung == []
    leases.advance_watermark(claim(QUEUED_MS + 1))
    leases.advance_watermark(claim(QUEUED_MS - 1))
    record.overdue = {"job-1": "queued"}
    await leases._reap_all()
    assert bell.rung == ["job-1"]


async def test_a_worker_that_started_after_an_outage_gives_the_living_that_time_too(
    leases, record, bell
):
    record.overdue = {"job-1": "running"}
    record.up_for_s = 0
    await leases._reap_all()
    assert record.reaped == []
    record.up_for_s = 1
    await leases._reap_all()
    assert bell.rung == ["job-1"]


async def test_a_job_that_another_worker_has_taken_is_not_rung(leases, record, bell):
    record.overdue = {"job-1": "taken", "job-2": "running"}
    await leases._reap_all()
    assert bell.rung == ["job-2"]


@pytest.mark.parametrize("noticed_by", ["renewing", "reaping"])
async def test_after_an_outage_the_living_get_the_time_of_a_lease_to_renew(
    leases, record, bell, noticed_by, caplog
):
    caplog.set_level(logging.WARNING)
    record.away = True
    work = leases.renew_forever() if noticed_by == "renewing" else leases.reap_forever()
    with leases.holding("mine", Holder()):
        task = asyncio.create_task(work)
        await until(lambda: caplog.records)
        await stopped(task)
    record.away = False
    record.overdue = {"job-1": "running"}
    loop = asyncio.get_running_loop()
    back = loop.time()
    await leases._reap_all()
    assert record.reaped == []
    while not record.reaped:
        await asyncio.sleep(0.005)
        await leases._reap_all()
    assert loop.time() - back >= 0.05
    assert bell.rung == ["job-1"]


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
async def test_record_that_cannot_run_is_discarded_and_the_next_job_is_rung(
    leases, record, bell, job
):
    record.job, record.overdue = job, {"odd": "running"}
    await leases._reap_all()
    assert [each[:2] for each in record.discarded] == [("odd", "invalid_record")]
    record.job, record.overdue = b"{}", {"next": "running"}
    await leases._reap_all()
    assert bell.rung == ["next"]


async def test_error_of_one_job_keeps_no_other_from_the_queue(leases, record, bell, monkeypatch):
    async def requeue(job_id, job, trace=b""):
        if job_id == "odd":
            raise RecursionError
        bell.rung.append(job_id)

    async def discard(*_):
        raise RuntimeError("and it cannot be discarded")

    monkeypatch.setattr(bell, "requeue", requeue)
    leases._discard = discard
    record.overdue = {"odd": "running", "next": "running"}
    await leases._reap_all()
    await leases._reap_all()
    assert bell.rung == ["next"]
