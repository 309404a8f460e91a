"""Workers that fall silent and come back: other workers have their jobs by then."""

import json
import signal
import time
from contextlib import ExitStack

import pytest

from tests.support.chaos import size
from tests.support.faulty_provider import installed
from tests.support.workers import wait_until


def test_worker_stopped_past_its_lease_publishes_nothing_stale_and_works_on(site, report):
    streams = size(30, 200)
    with site.worker("-c", "300") as sleeper:
        job_ids = [
            site.submit(None, "[[delay:0.1]]", chunks=size(160, 100), follow=n % 5 == 0)
            for n in range(streams)
        ]
        wait_until(lambda: site.streaming(job_ids, 3), "all stream")
        with site.worker("-c", "300") as other:
            site.history.fault()
            sleeper.send_signal(signal.SIGSTOP)
            waiting = [site.submit(None, "[[delay:0.1]]", chunks=10) for _ in range(10)]
            wait_until(
                lambda: site.streaming(job_ids + waiting) and restarted(site, job_ids),
                "all are taken over",
            )
            sleeper.send_signal(signal.SIGCONT)
            site.history.wait()
            assert other.stop() == 0
        for _ in range(10):
            site.submit(None, "[[delay:0.01]]", follow=True)
        figures = site.history.check()
    report("SIGSTOP past the lease, then SIGCONT", figures, note=f"{streams} streams")
    assert figures.resets == streams
    assert site.upstream.ask("open_streams") == 0


def test_idle_worker_that_is_stopped_takes_one_job_and_keeps_it_from_nobody(site, report):
    with site.worker("-c", "300") as sleeper:
        first = site.submit(None)
        wait_until(lambda: first not in site.history.unfinished, "a worker that waits")
        with site.worker("-c", "300") as other:
            sleeper.send_signal(signal.SIGSTOP)
            asked = time.time()
            job_ids = [site.submit(None, "[[delay:0.1]]", follow=n % 5 == 0) for n in range(50)]
            wait_until(lambda: not set(job_ids) & set(site.history.unfinished), "all are done")
            last_s = max(began(site, job_id) for job_id in job_ids) - asked
            sleeper.send_signal(signal.SIGCONT)
            for _ in range(10):
                site.submit(None, "[[delay:0.01]]", follow=True)
            figures = site.history.check()
            assert other.stop() == 0
    note = f"50 jobs for another, the last began after {last_s:.1f} s"
    report("SIGSTOP of a worker that waits for a job", figures, note=note)


def test_worker_whose_event_loop_is_blocked_counts_as_dead(make_site, tmp_path, report):
    streams, block_s = size(30, 200), size(12, 30)
    site = make_site(**installed(tmp_path))
    with ExitStack() as stack:
        blocked = stack.enter_context(site.worker("-c", "300"))
        job_ids = [
            site.submit(None, "[[delay:0.1]]", chunks=size(120, 200), follow=n % 5 == 0)
            for n in range(streams)
        ]
        wait_until(lambda: site.streaming(job_ids, 3), "all stream")
        # The provider blocks after two words, when the other worker is ready.
        job_ids.append(
            site.submit(
                "one two three four",
                provider="faulty",
                options={
                    "act": "block",
                    "block_s": block_s,
                    "delay_s": 3,
                    "once": str(tmp_path / "once"),
                },
            )
        )
        wait_until(lambda: site.streaming(job_ids), "the faulty provider too")
        other = stack.enter_context(site.worker("-c", "300"))
        wait_until((tmp_path / "once").exists, "it is blocked")
        site.history.fault()
        # The consumer of a worker whose loop hangs still runs, and would take these.
        late = [site.submit(None, "[[delay:0.01]]") for _ in range(50)]
        wait_until(lambda: restarted(site, job_ids), "all are taken over")
        wait_until(lambda: not set(late) & set(site.history.unfinished), "the late ones are done")
        assert blocked.process.poll() is None
        site.history.wait()
        assert other.stop() == 0
        for _ in range(10):
            site.submit(None, "[[delay:0.01]]", follow=True)
        figures = site.history.check()
    report(f"event loop blocked for {block_s} s", figures, note=f"{streams} streams")
    assert figures.worst_recovery_s < size(60, 10)


def began(site, job_id):
    """Return when the job published ``started``, as a Unix time."""
    [(_, fields)] = site.redis.xrange(f"job:{{{job_id}}}:log", count=1)
    return json.loads(fields[b"event"])["ts"]


def restarted(site, job_ids):
    with site.redis.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hget(f"job:{{{job_id}}}:state", "attempt")
        return all(int(attempt or 0) > 1 for attempt in pipeline.execute())


@pytest.mark.parametrize("busy", [False, True])
def test_job_whose_message_vanished_is_found(site, report, busy):
    lost = site.submit(None, follow=True)
    assert site.broker.lpop("prompts")
    site.history.fault()
    with ExitStack() as stack:
        stack.enter_context(site.worker("-c", "2"))
        if busy:
            # A backlog of 40 s and more, so that the queue is never empty meanwhile.
            for _ in range(100):
                site.submit(None, "[[delay:0.1]]", chunks=10)
        wait_until(lambda: lost not in site.history.unfinished, "it is found", timeout_s=60)
        assert bool(site.broker.llen("prompts")) == busy
        if busy:
            stack.enter_context(site.worker("-c", "50"))  # quickly runs the rest
        figures = site.history.check()
    report("a message that vanished", figures, note="found 30 s after its submission")
