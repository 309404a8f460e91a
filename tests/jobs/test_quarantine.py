"""Jobs leave the quarantine in groups that halve. A group lasts until its jobs end, or for 3 s."""

import asyncio

import pytest

from berlin_worker.jobs.quarantine import Quarantine, group_size
from tests.support.waiting import until

pytestmark = pytest.mark.unit

LONG_S = 60.0


class Job:
    """Has its slot in a task of its own, until the test ends it."""

    def __init__(self, quarantine, name):
        self.name = name
        self.alone = None
        self._quarantine = quarantine
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async with self._quarantine.slot(self.name) as self.alone:
            await self._end.wait()

    async def end(self):
        self._end.set()
        await self.task


@pytest.fixture
async def jobs():
    """Start jobs by name; those that still run at the end are cancelled."""
    started = []

    async def start(quarantine, count):
        first = len(started)
        started.extend(Job(quarantine, f"job-{first + n}") for n in range(count))
        await asyncio.sleep(0)
        return started[-count:]

    yield start
    for job in started:
        job.task.cancel()
    await asyncio.wait([job.task for job in started])


def running(jobs):
    return [job.name for job in jobs if job.alone is not None and not job.task.done()]


@pytest.mark.parametrize(("waiting", "size"), [(1, 1), (16, 1), (17, 8), (199, 99)])
def test_few_begin_alone_and_of_many_half(waiting, size):
    assert group_size(waiting) == size


async def test_few_run_one_after_the_other_in_order(jobs):
    quarantine = Quarantine(LONG_S)
    assert not quarantine.busy
    started = await jobs(quarantine, 4)
    for n, job in enumerate(started):
        await until(lambda job=job: job.alone)
        assert running(started) == [f"job-{n}"]
        assert quarantine.busy
        await job.end()
    assert not quarantine.busy


async def test_many_begin_in_halves_and_the_last_alone(jobs):
    quarantine = Quarantine(LONG_S)
    started = await jobs(quarantine, 1 + 40)
    sizes = []
    while waiting_or_running := [job for job in started if not job.task.done()]:
        await until(lambda: running(started))
        group = [job for job in waiting_or_running if job.alone is not None]
        assert {job.alone for job in group} == {len(group) == 1}
        sizes.append(len(group))
        for job in group:
            await job.end()
    assert sizes == [1, 20, 10, *[1] * 10]


async def test_group_that_has_run_for_long_enough_lets_the_next_begin(jobs):
    quarantine = Quarantine(0.001)
    started = await jobs(quarantine, 3)
    await until(lambda: len(running(started)) == 3)
    await until(lambda: not quarantine.busy)


async def test_job_that_ends_late_does_not_shorten_the_observation_of_others(jobs):
    quarantine = Quarantine(0.001)
    [early] = await jobs(quarantine, 1)
    await until(lambda: not quarantine.busy)
    quarantine.observation_s = LONG_S
    await jobs(quarantine, 2)
    await early.end()
    assert quarantine.waits("job-2")
    assert quarantine.busy


async def test_group_lasts_until_the_last_of_it_has_ended(jobs):
    quarantine = Quarantine(LONG_S)
    first, *others = await jobs(quarantine, 1 + 17)
    await first.end()
    await until(lambda: len(running(others)) == 8)
    for job in others[:7]:
        await job.end()
    assert running(others) == ["job-8"]
    await others[7].end()
    await until(lambda: running(others) == ["job-9"])


async def test_job_that_waits_is_known_and_may_give_up(jobs):
    quarantine = Quarantine(LONG_S)
    first, second, third = await jobs(quarantine, 3)
    assert [quarantine.waits(job.name) for job in (first, second, third)] == [False, True, True]
    second.task.cancel()
    await asyncio.wait({second.task})
    assert not quarantine.waits("job-1")
    await first.end()
    await until(lambda: third.alone)


async def test_waiter_cancelled_as_its_slot_comes_passes_the_slot_on(jobs):
    quarantine = Quarantine(LONG_S)
    first, second, third = await jobs(quarantine, 3)
    second.task.cancel()
    await first.end()
    await until(lambda: third.alone)
    assert running([second]) == []
