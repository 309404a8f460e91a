"""RabbitMQ as the broker: workers are killed, and it is killed itself; each job ends once."""

import time

import pytest
from kombu import Connection

from tests.support.chaos import FULL, Replicas, chance, in_background, size
from tests.support.faulty_provider import installed
from tests.support.workers import VERBOSE, wait_until


def left_over(url: str) -> int:
    """Return how many messages are on the queue while no worker holds any."""
    with Connection(url) as connection:
        return int(connection.default_channel.queue_declare("prompts", passive=True).message_count)


def test_killed_workers_and_then_a_killed_broker_lose_nothing(make_site, rabbit, report):
    """Two faults in one test: a start of RabbitMQ takes as long as all else in the short form."""
    kills, jobs, random = size(3, 20), size(60, 1000), chance()
    site = make_site(broker_url=rabbit.url)

    def submit() -> None:
        for n in range(jobs):
            how = ("client", "bare")[n % 2]
            site.submit(None, "[[delay:0.05]]", how=how, follow=n % 20 == 0)

    with (
        Replicas(3, lambda: site.worker("-c", "8", WORKER_MAX_ATTEMPTS="50")) as replicas,
        in_background(submit),
    ):
        for _ in range(kills):
            time.sleep(random.uniform(0.2, 2))  # chance decides what it hits
            site.history.fault()
            replicas.kill(random.randrange(3))
        figures = site.history.check(size(120, 600))
        restarts = figures.attempts - jobs
        fault = "RabbitMQ: random SIGKILLs of workers, 3 replicas"
        report(fault, figures, runs=kills, note=f"{jobs} jobs, {restarts} restarts")

        streams = [site.submit(None, "[[delay:0.1]]", chunks=60, follow=True) for _ in range(12)]
        streams += [site.submit(None, "[[delay:0.1]]", chunks=60, how="bare") for _ in range(12)]
        wait_until(lambda: site.streaming(streams), "all stream")
        for n in range(24):  # these wait
            site.submit(None, "[[delay:0.05]]", how=("client", "bare")[n % 2])
        site.history.fault()
        rabbit.kill()
        rabbit.start()
        began = time.monotonic()
        probe = site.submit(chunks=1)
        wait_until(lambda: probe not in site.history.unfinished, "a worker that takes jobs", 60)
        back_s = time.monotonic() - began
        figures = site.history.check()
        restarts = figures.attempts - figures.jobs - restarts
        replicas.stop()  # a message of a worker that is killed before its ack returns to the queue
    note = f"consuming again in {back_s:.1f} s; {restarts} second calls"
    report("RabbitMQ: killed and restarted", figures, note=note)
    assert left_over(rabbit.url) == 0


@pytest.mark.skipif(not FULL, reason="takes a minute")
def test_hung_worker_keeps_no_job(make_site, rabbit, tmp_path, report):
    """RabbitMQ delivers to the hung worker until its main thread, which still runs, notices."""
    site = make_site(broker_url=rabbit.url, **installed(tmp_path))
    block_s = 30
    with site.worker("-c", "50", *VERBOSE) as hung:
        site.submit(
            "one two three four",
            provider="faulty",
            options={"act": "block", "block_s": block_s, "once": str(tmp_path / "once")},
        )
        hung.wait_for_log("received")
        began = time.monotonic()
        mine = {site.submit(how=("client", "bare")[n % 2]) for n in range(40)}
        with site.worker("-c", "50"):
            wait_until(lambda: not mine & set(site.history.unfinished), "all but the blocker's")
            took_s = time.monotonic() - began
            assert "can work again" not in hung.log
            figures = site.history.check(300)
    note = f"{len(mine)} jobs over in {took_s:.0f} s"
    report("RabbitMQ: event loop blocked, jobs delivered to it", figures, note=note)
