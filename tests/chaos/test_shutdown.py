"""Workers that get SIGTERM: short jobs end, long ones are handed on at once."""

import json
from dataclasses import replace

import pytest

from tests.support.chaos import Replicas, in_background, size
from tests.support.workers import wait_until

LEASE_S = 6


@pytest.mark.parametrize("remapped", [False, True])
def test_sigterm_lets_short_jobs_end_and_hands_long_ones_on(site, report, remapped):
    streams, drain_s = size(10, 100), size(4, 10)
    env = {"REMAP_SIGTERM": "SIGQUIT"} if remapped else {}
    with site.worker("-c", "300", WORKER_DRAIN_TIMEOUT_S=f"{drain_s}", **env) as leaving:
        long = [
            site.submit(None, "[[delay:0.1]]", chunks=size(160, 250), how=how, follow=n % 5 == 0)
            for n in range(streams)
            for how in ("client", "bare")
        ]
        short = [site.submit(None, "[[delay:0.1]]", chunks=15) for _ in range(streams)]
        wait_until(lambda: site.streaming(long + short), "all stream")
        with site.worker("-c", "300"):
            assert leaving.stop() == 0
            figures = site.history.check()
    gaps = [gap_s(site.history.log(job_id)) for job_id in long]
    name = "SIGTERM with REMAP_SIGTERM=SIGQUIT" if remapped else "SIGTERM"
    report(name, replace(figures, worst_recovery_s=max(gaps)), note=f"{3 * streams} streams")
    assert figures.resets == len(long)
    assert max(gaps) < LEASE_S


def test_rolling_restart_under_load_fails_nothing(site, report):
    jobs = size(450, 2000)

    def submit() -> None:
        for n in range(jobs):
            site.submit(None, "[[delay:0.1]]", chunks=20, follow=n % 50 == 0)

    with (
        Replicas(3, lambda: site.worker("-c", "20", WORKER_DRAIN_TIMEOUT_S="1")) as replicas,
        in_background(submit),
    ):
        for number in range(3):
            site.history.fault()
            old = replicas.workers[number]
            assert old.stop() == 0
            wait_until(lambda n=number, old=old: replicas.workers[n] is not old, "a new one")
            replicas.workers[number].wait_for_log(" ready.")
        under_load = bool(site.history.unfinished)
        figures = site.history.check(size(120, 600))
    report("rolling restart of 3 replicas under load", figures, runs=3, note=f"{jobs} jobs")
    assert under_load


def gap_s(log):
    """Return the seconds from the last event of the first attempt to the first of the second."""
    events = [json.loads(data) for _, data in log]
    at = next(n for n, event in enumerate(events) if event["attempt"] > 1)
    return events[at]["ts"] - events[at - 1]["ts"]
