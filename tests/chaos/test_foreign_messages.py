"""Messages of producers other than Celery, and bytes that are no message, while workers die."""

import base64
import json
import signal
import time
from datetime import UTC, datetime, timedelta

from berlin_schemas import names
from tests.support.chaos import Replicas, chance, in_background, size, words

POISON = [
    b"\xff",
    b"null",
    b'{"x": 0x10}',
    b'{"x": nan, "headers": {}}',
    b'["no", "message"]',
    b'{"x": "a\nb"}',
    b"[" * 980 + b"]" * 980,
    b'{"body": "%%%", "properties": {"delivery_tag": "", "body_encoding": "base64"}}',
]


def submit_by_hand(site, text, *, countdown_s=0.0, follow=False):
    """Submit a job as gocelery does: with the name of another queue, and one tag for all jobs."""
    job_id = names.new_job_id()
    job = {"messages": [{"role": "user", "content": f"[[delay:0.05]] {text}"}]}
    headers = {"task": names.TASK, "id": job_id}
    if countdown_s:
        headers["eta"] = (datetime.now(UTC) + timedelta(seconds=countdown_s)).isoformat()
    message = {
        "body": base64.b64encode(json.dumps([[job], {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "body_encoding": "base64",
            "correlation_id": job_id,
            "delivery_tag": "always the same",
            "delivery_info": {"exchange": "celery", "routing_key": "celery"},
        },
    }
    site.broker.lpush(names.QUEUE, json.dumps(message))
    site.history.accept(job_id, text, how="bare", follow=follow)


def test_foreign_routing_keys_and_repeated_tags_lose_nothing(site, report):
    """Every fifth job is scheduled: a worker holds it, and requeues it before it begins."""
    faults, jobs, random = size(6, 60), size(150, 2000), chance()

    def submit() -> None:
        for n in range(jobs):
            submit_by_hand(
                site, words(f"job{n}", 20), countdown_s=8.0 * (n % 5 == 0), follow=n % 50 == 0
            )
            time.sleep(0.01)  # submissions last as long as the faults

    env = {"WORKER_MAX_ATTEMPTS": "50", "WORKER_DRAIN_TIMEOUT_S": "0.5"}
    with (
        Replicas(3, lambda: site.worker("-c", "50", **env)) as replicas,
        in_background(submit),
    ):
        for _ in range(faults):
            time.sleep(random.uniform(0.2, 3))  # chance decides what it hits
            site.history.fault()
            hit = random.randrange(3)
            if random.random() < 0.5:
                replicas.kill(hit)
            else:
                replicas.workers[hit].send_signal(signal.SIGTERM)
        figures = site.history.check(size(120, 900))
    report(
        "SIGKILLs and SIGTERMs; messages with a foreign routing key, one tag for all",
        figures,
        runs=faults,
        note=f"{jobs} jobs",
    )
    assert not site.broker.exists("celery")


def test_poison_among_good_messages_is_dead_lettered_once_and_stops_nobody(site, report):
    kills, jobs, random = size(5, 50), size(150, 2000), chance()

    def submit() -> None:
        for n in range(jobs):
            submit_by_hand(site, words(f"job{n}", 20), follow=n % 50 == 0)
            site.broker.lpush(names.QUEUE, POISON[n % len(POISON)])
            if n % 10 == 0:
                site.broker.publish("/0.celery.pidbox", POISON[n % len(POISON)])
            time.sleep(0.01)  # submissions last as long as the faults

    with (
        Replicas(3, lambda: site.worker("-c", "50", WORKER_MAX_ATTEMPTS="50")) as replicas,
        in_background(submit),
    ):
        for _ in range(kills):
            time.sleep(random.uniform(0.2, 3))  # chance decides what it hits
            site.history.fault()
            replicas.kill(random.randrange(3))
        figures = site.history.check(size(120, 900))
        restarts = replicas.restarts
    report("SIGKILLs; as much poison as messages", figures, runs=kills, note=f"{jobs} jobs")
    # Poison ends no worker. A kill may hit one that is down, and the last may not be up again yet.
    assert restarts <= kills
    assert site.redis.xlen(names.DEAD_LETTERS) == jobs
