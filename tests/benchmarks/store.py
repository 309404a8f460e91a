"""``python -m tests.benchmarks.store``: what one event costs the event store, and its writer.

Journal and store of the worker over a real server, one reader that is subscribed to every job
and does nothing else. Counts CPU, so a busy machine matters little; figures for ``capacity``.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import redis.asyncio

from berlin_schemas import Started, names
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.jobs.job_log import JobLog
from berlin_worker.jobs.journal import Journal
from berlin_worker.storage.job_store import RedisStore
from tests.benchmarks.measure import cpu_s

_TEXT: Final = " lorem"
_READER: Final = """
import socket, sys
port, jobs = int(sys.argv[1]), sys.argv[2].split(",")
peer = socket.create_connection(("127.0.0.1", port))
peer.sendall(" ".join(["SUBSCRIBE", *jobs]).encode() + b"\\r\\n")
while peer.recv(1 << 16):
    pass
"""


async def measure(url: str, pid: int, *, jobs: int, chunks: int, together: int) -> Any:
    """Append ``chunks`` to each of ``jobs``, so many jobs together in each call of the script."""
    async with redis.asyncio.Redis.from_url(url) as client:
        store = _store(client)
        journal = Journal(store, buffer_bytes=1 << 30)
        logs = [await _begun(_job_id(n), store, journal) for n in range(jobs)]
        writer = asyncio.create_task(journal.run())
        await journal.drained()
        before = await _counted(client)
        used, begun = cpu_s([pid]), time.process_time()
        for _ in range(chunks):
            for first in range(0, jobs, together):
                for log in logs[first : first + together]:
                    log.chunk([_TEXT])
                await journal.drained()
        own_s, server_s = time.process_time() - begun, cpu_s([pid]) - used
        after = await _counted(client)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    events = jobs * chunks
    detail = {name: round((after[name] - before[name]) / events, 1) for name in before}
    return {
        "jobs_a_call": together,
        "redis_us_an_event": round(server_s / events * 1e6, 2),
        "worker_us_an_event": round(own_s / events * 1e6, 2),
        **detail,
    }


def _job_id(number: int) -> str:
    """Return a job ID as long as a UUID: it is in every key, channel and event."""
    return f"{number:08}-0000-4000-8000-000000000000"


def _store(client: redis.asyncio.Redis) -> RedisStore:
    return RedisStore(
        client, owner="bench", lease_s=600, log_ttl_s=600, queue_ttl_s=600, dead_letters_max=1
    )


async def _begun(job_id: str, store: RedisStore, journal: Journal) -> JobLog:
    claim = await store.claim(job_id, b"{}", call="bench", deadline_s=600)
    log = journal.open(claim, on_fenced=lambda: None)
    log.event(Started(job_id=job_id, seq=1, attempt=1, ts=time.time()))
    return log


async def _counted(client: redis.asyncio.Redis) -> dict[str, int]:
    """Return the bytes over the network, and those in memory."""
    stats: dict[str, Any] = await client.info("stats")
    memory: dict[str, Any] = await client.info("memory")
    return {
        "bytes_in_an_event": stats["total_net_input_bytes"],
        "bytes_out_an_event": stats["total_net_output_bytes"],
        "log_bytes_an_event": memory["used_memory_dataset"],
    }


@contextlib.contextmanager
def _reader(server: RedisProcess, jobs: int) -> Iterator[None]:
    """Run one connection that is subscribed to all jobs."""
    channels = [names.channel(_job_id(n)) for n in range(jobs)]
    command = [sys.executable, "-c", _READER, str(server.port), ",".join(channels)]
    with subprocess.Popen(command) as reader:
        try:
            time.sleep(1.0)
            yield
        finally:
            reader.kill()


def main() -> int:
    """Measure for each number of jobs in a call; prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.store", description=__doc__)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 10, 50, 200])
    options = parser.parse_args()
    binary = find_server()
    if binary is None:
        print("no redis-server and no valkey-server found", file=sys.stderr)
        return 1
    for together in options.together:
        with RedisProcess(binary) as server, _reader(server, options.jobs):
            assert server.pid is not None
            work = measure(
                server.url,
                server.pid,
                jobs=options.jobs,
                chunks=options.chunks,
                together=together,
            )
            print(json.dumps(asyncio.run(work)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
