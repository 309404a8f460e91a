"""Workers that are killed: their jobs are taken over, and each ends once and right."""

import time

import pytest

from tests.support.chaos import FULL, Replicas, chance, in_background, size
from tests.support.faulty_provider import installed
from tests.support.workers import wait_until


def test_killed_worker_s_streams_are_all_restarted_elsewhere(site, report):
    streams, chunks = size(40, 200), size(160, 100)  # the next worker starts while all stream
    with site.worker("-c", "300") as doomed:
        job_ids = [
            site.submit(None, "[[delay:0.1]]", chunks=chunks, follow=n % 20 == 0, how=how)
            for n in range(streams // 2)
            for how in ("client", "bare")
        ]
        wait_until(lambda: site.streaming(job_ids), "all stream")
        with site.worker("-c", "300"):
            site.history.fault()
            doomed.kill()
            figures = site.history.check()
    report(f"SIGKILL of a worker with {streams} streams in flight", figures)
    assert figures.resets == streams
    assert figures.worst_recovery_s < size(60, 10)


@pytest.mark.parametrize(
    "young",
    [True, pytest.param(False, marks=pytest.mark.skipif(not FULL, reason="takes a minute"))],
)
def test_streams_that_lose_two_workers_are_restarted_by_a_third(site, report, young):
    """Each stream is one loss from its end. Since all are, none of them is the cause.

    Streams that had run for longer than an observation begin at once.
    """
    streams, before = size(6, 200), 1 if young else 50
    with site.worker("-c", "300") as first:
        job_ids = [
            site.submit(None, "[[delay:0.1]]", chunks=size(180, 100), follow=n % 20 == 0)
            for n in range(streams)
        ]
        wait_until(lambda: site.streaming(job_ids, before), "all stream")
        with site.worker("-c", "300") as second:
            first.kill()
            wait_until(lambda: site.streaming(job_ids, before, attempt=2), "all stream again")
            with site.worker("-c", "300"):
                site.history.fault()
                second.kill()
                figures = site.history.check()
    age = "just begun" if young else "5 s old"
    report(f"SIGKILL of two workers in turn, with the same {streams} streams, {age}", figures)
    assert figures.resets == 2 * streams
    assert young or figures.worst_recovery_s < size(60, 10)


@pytest.mark.parametrize("how", ["client", "bare"])
def test_random_kills_under_saturation_lose_nothing(site, report, how):
    """The queue is never empty: three replicas with eight slots each, all of them busy."""
    kills, jobs, random = size(6, 100), size(200, 5000), chance()

    def submit() -> None:
        for n in range(jobs):
            site.submit(None, "[[delay:0.05]]", how=how, follow=n % 50 == 0)

    # One job may be killed more often here than `WORKER_MAX_ATTEMPTS` allows by default.
    with (
        Replicas(3, lambda: site.worker("-c", "8", WORKER_MAX_ATTEMPTS="50")) as replicas,
        in_background(submit),
    ):
        for _ in range(kills):
            time.sleep(random.uniform(0.2, 3))  # chance decides what it hits
            site.history.fault()
            replicas.kill(random.randrange(3))
        struck_to_the_end = bool(site.history.unfinished)
        figures = site.history.check(size(120, 900))
    submitted = {"client": "client.submit", "bare": "bare send_task"}[how]
    report(
        f"random SIGKILLs under saturation, 3 replicas, {submitted}",
        figures,
        runs=kills,
        note=f"{jobs} jobs, {figures.attempts - jobs} restarts",
    )
    assert struck_to_the_end


def test_job_that_kills_its_worker_is_given_up_and_its_neighbours_are_right(
    make_site, tmp_path, report
):
    neighbours = size(20, 100)
    site = make_site(**installed(tmp_path))
    with Replicas(2, lambda: site.worker("-c", "200")) as replicas:
        for n in range(neighbours):
            site.submit(None, "[[delay:0.1]]", chunks=60, follow=n % 10 == 0)
        killer = site.submit(
            "these are my last words",
            provider="faulty",
            options={"act": "kill", "delay_s": 1},
            endings=["failed:too_many_attempts"],
            follow=True,
        )
        figures = site.history.check()
        deaths = replicas.restarts
    report("a job that kills its worker", figures, runs=deaths, note=f"{neighbours} neighbours")
    letters = [fields for _, fields in site.redis.xrange("worker:dead")]
    assert [letter[b"job_id"].decode() for letter in letters] == [killer]
    assert [letter[b"reason"] for letter in letters] == [b"too_many_attempts"]
    # Jobs in quarantine run as a group; its loss counts for no job, and halves the group.
    assert deaths == 3 if neighbours <= 20 else 3 <= deaths <= 6
