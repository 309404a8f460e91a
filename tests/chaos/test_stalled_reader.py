"""A subscriber that stalls until Redis cuts it: it reads on from its cursor, and misses nothing."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import redis

from berlin_schemas import names
from tests.support.chaos import size
from tests.support.checker import TERMINAL
from tests.support.proxy import TcpProxy
from tests.support.workers import WorkerProcess, wait_until

LIMIT = "pubsub 2mb 1mb 5"
"""Some tenths of a second of all jobs: a client on a busy machine may lag that far, and Redis must
not cut it off before the stall."""
CHUNK_BYTES = 4096


def read_by_the_contract(url: str, job_id: str, given_up: Event) -> Iterator[bytes]:
    """Yield events by the four steps of "Reading without a gap", with a Redis client alone."""
    cursor = 0
    while not given_up.is_set():
        with redis.Redis.from_url(url) as client, client.pubsub() as channel:
            try:
                channel.subscribe(names.channel(job_id))
                assert channel.get_message(timeout=60)["type"] == "subscribe"
                while not given_up.is_set():
                    for _, fields in client.xrange(names.log_key(job_id), f"({cursor}-0"):
                        cursor = seq_of(fields[b"event"])
                        yield fields[b"event"]
                        if is_last(fields[b"event"]):
                            return
                    while message := channel.get_message(timeout=3):
                        data = message["data"]
                        if seq_of(data) > cursor + 1:
                            break
                        if seq_of(data) == cursor + 1:
                            cursor += 1
                            yield data
                            if is_last(data):
                                return
            except (redis.ConnectionError, redis.TimeoutError):
                continue


def seq_of(data: bytes) -> int:
    seq: int = json.loads(data)["seq"]
    return seq


def is_last(data: bytes) -> bool:
    return json.loads(data)["type"] in TERMINAL


def resident_mib(worker: WorkerProcess) -> float:
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="ascii")
    [line] = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_reader_that_redis_cuts_off_resumes_from_its_cursor(make_redis, make_site, report):
    server = make_redis(**{"client-output-buffer-limit": LIMIT})
    jobs, chunks = size(4, 12), size(2000, 2500)
    given_up = Event()
    with (
        # Else the system buffers most of a job for the reader, and Redis has no reason to cut it.
        TcpProxy.of(server.url, buffer_bytes=64 * 1024) as proxy,
        ThreadPoolExecutor() as threads,
        ExitStack() as stack,
    ):
        stack.callback(proxy.heal)
        stack.callback(given_up.set)
        site = make_site(server.url, client_url=proxy.url_of(server.url))
        with site.worker("-c", "50") as worker:
            warm = [follow(site, chunks) for _ in range(jobs)]
            wait_until(lambda: not site.history.unfinished, "the end of the first round")
            before = resident_mib(worker)
            job_ids = [follow(site, chunks) for _ in range(jobs)]
            url = proxy.url_of(server.url)
            bare = {
                job_id: threads.submit(
                    lambda job_id=job_id: list(read_by_the_contract(url, job_id, given_up))
                )
                for job_id in job_ids[:2]
            }
            for job_id in job_ids:
                site.history.following(job_id)
            wait_until(lambda: subscribers(site, job_ids[:2]) == [2, 2], "the bare readers")
            connections = proxy.accepted
            proxy.stall()
            site.history.fault()
            wait_until(lambda: not sum(subscribers(site, job_ids)), "Redis cuts them off", 60)
            cut_early = set(site.history.unfinished)
            wait_until(lambda: not site.history.unfinished, "the end of the jobs", 60)
            after = resident_mib(worker)
            proxy.heal()
            figures = site.history.check()
            seen: dict[str, Any] = {job_id: each.result(60) for job_id, each in bare.items()}
        reconnected = proxy.accepted - connections
    published = jobs * chunks * CHUNK_BYTES / 2**20
    report(
        "a subscriber that stalls until Redis cuts it",
        figures,
        runs=jobs + len(bare),
        note=f"worker memory {after - before:+.0f} MiB in {published:.0f} MiB of events",
    )
    assert cut_early, "the jobs were over before the readers were cut off"
    assert len(warm) == jobs
    # The client's one pub/sub connection. A bare reader may find the end in the log before it
    # notices that its subscription is gone.
    assert reconnected >= 1
    assert after - before < published / 2
    for job_id, events in seen.items():
        assert events == [data for _, data in site.history.log(job_id)]


def follow(site: Any, chunks: int) -> str:
    """Submit a job of some megabytes, with a live reader; return its ID."""
    word = f"{site.redis.dbsize():x}".ljust(CHUNK_BYTES - 1, "x") + " "
    job_id: str = site.client.submit(f"[[chunks:{chunks}]] [[delay:0.004]] {word}")
    site.history.accept(job_id, word * chunks, follow=True)
    return job_id


def subscribers(site: Any, job_ids: list[str]) -> list[int]:
    return [count for _, count in site.redis.pubsub_numsub(*map(names.channel, job_ids))]
