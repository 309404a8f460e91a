"""Garbage in records, indexes and channels, while jobs run and workers are killed."""

import time

from berlin_schemas import names
from tests.support import fuzz
from tests.support.chaos import Environment, Replicas, chance, in_background, size
from tests.support.workers import wait_until


def without_ttl(site: Environment) -> list[str]:
    """Return the jobs of the garbage whose records have no TTL."""
    return [job_id for job_id in fuzz.JOBS if site.redis.ttl(names.state_key(job_id)) == -1]


def test_garbage_in_redis_and_kills_together_lose_nothing(site, report):
    """The garbage is in jobs of its own: it must not affect those that run."""
    kills, jobs, random = size(3, 30), size(60, 1500), chance()
    garbage = size(300, 5000)

    def submit() -> None:
        for n in range(jobs):
            how = "client" if n % 2 else "bare"
            site.submit(None, "[[delay:0.02]]", how=how, follow=n % 20 == 0)

    items = fuzz.draw(garbage, ["record", "control", "channel"])
    with Replicas(2, lambda: site.worker("-c", "8", WORKER_MAX_ATTEMPTS="50")) as replicas:
        with (
            in_background(submit),
            in_background(lambda: fuzz.write(site.redis, items)),
        ):
            for _ in range(kills):
                time.sleep(random.uniform(0.5, 2))  # chance decides what it hits
                site.history.fault()
                replicas.kill(random.randrange(2))
        site.history.wait(size(90, 600))
        # On a cluster a record is not written with its index entry: the workers' search finds it.
        wait_until(lambda: not without_ttl(site), "workers have healed all records")
        figures = site.history.check()
        restarts = replicas.restarts
    report(
        "garbage in Redis and random SIGKILLs, 2 replicas",
        figures,
        runs=kills,
        note=f"{garbage} items of garbage, {jobs} jobs",
    )
    assert restarts <= kills
