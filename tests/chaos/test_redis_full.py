"""A Redis without memory, or without its data."""

import time

import pytest
from click.testing import CliRunner
from kombu.exceptions import OperationalError

from berlin_worker.cli import main
from berlin_worker.errors import CursorExpired, Unavailable
from tests.support.chaos import size
from tests.support.workers import wait_until

SLOW = "[[delay:0.05]]"


@pytest.mark.parametrize("full_s", [2, 12], ids=["for a moment", "for longer than a lease"])
def test_full_redis_refuses_jobs_and_loses_none(make_redis, make_site, report, full_s):
    site = make_site(make_redis(**{"maxmemory-policy": "noeviction"}).url)
    streams = size(40, 200)
    with site.worker("-c", str(streams // 2)) as one, site.worker("-c", str(streams // 2)) as two:
        job_ids = [
            site.submit(None, SLOW, chunks=100, follow=n % 10 == 0, how=("client", "bare")[n % 2])
            for n in range(streams)
        ]
        wait_until(lambda: site.streaming(job_ids), "all stream")
        for _ in range(5):
            site.submit(None, SLOW, how="bare")  # accepted, and left in the queue until now
        site.redis.config_set("maxmemory", "1mb")
        site.history.fault()
        with pytest.raises(Unavailable, match=r"not accepted: .*refuses it .*'maxmemory'"):
            site.client.submit("no room")
        with pytest.raises(OperationalError, match="'maxmemory'"):
            site.send({"messages": []}, "no-room-either")
        result = CliRunner().invoke(main, ["doctor", "--no-login"], env=site.env)
        time.sleep(full_s)
        assert {one.process.poll(), two.process.poll()} == {None}
        site.redis.config_set("maxmemory", "0")
        figures = site.history.check()
        calls = site.upstream.ask("completion_calls") - streams - 5
    report(f"Redis without memory for {full_s} s", figures, note=f"{calls} second calls")
    assert result.exit_code == 1
    assert "fail  memory" in result.output
    assert "jobs are refused" in result.output
    assert "no right is missing: Redis is full" in result.output
    assert "try again" not in result.output


def test_flushed_redis_ends_what_runs_and_the_worker_goes_on(site, report):
    streams = size(20, 200)
    with site.worker("-c", str(streams)) as worker:
        doomed = [site.client.submit(f"[[endless]] {SLOW} {n}") for n in range(streams)]
        wait_until(lambda: site.streaming(doomed), "all stream")
        reading = site.client.stream(doomed[0])
        next(reading)
        site.redis.flushall()
        began = time.monotonic()
        wait_until(lambda: not site.upstream.ask("open_streams"), "closed upstream connections")
        stopped_s = time.monotonic() - began
        worker.wait_for_log("its record is gone", times=streams)
        with pytest.raises(CursorExpired):
            list(reading)
        for n in range(streams):
            site.submit(follow=n % 10 == 0)
        figures = site.history.check()
        assert worker.process.poll() is None
    for job_id in doomed:
        assert f"job {job_id}: stopped" in worker.log
        assert not site.redis.exists(f"job:{{{job_id}}}:state", f"job:{{{job_id}}}:log")
    report(
        "Redis flushed (FLUSHALL)", figures, note=f"{streams} streams stopped in {stopped_s:.1f} s"
    )
