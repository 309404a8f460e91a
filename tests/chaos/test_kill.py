"""Workers that are killed: their jobs are taken over, and each ends once and right."""

from tests.support.chaos import size
from tests.support.workers import wait_until


def test_a_killed_worker_s_streams_are_all_restarted_elsewhere(site, report):
    streams = size(100, 200)
    with site.worker("-c", "300") as doomed:
        job_ids = [
            site.submit(None, "[[delay:0.1]]", chunks=100, follow=n % 20 == 0, how=how)
            for n in range(streams // 2)
            for how in ("client", "bare")
        ]
        wait_until(lambda: site.streaming(job_ids), "all stream")
        with site.worker("-c", "300"):
            site.ledger.fault()
            doomed.kill()
            figures = site.ledger.check()
    report("SIGKILL of a worker with 200 streams in flight", figures, note=f"{streams} streams")
    assert figures.resets == streams
    assert figures.worst_recovery_s < 10
