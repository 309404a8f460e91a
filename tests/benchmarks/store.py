"""``python -m tests.benchmarks.store``: what one event costs at the event stores, and to write it.

Journals and stores of the worker over real servers, one reader that is subscribed to every job
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
from berlin_schemas.shards import shard_of
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


async def measure(
    urls: list[str], pids: list[int], *, jobs: int, chunks: int, together: int
) -> Any:
    """Append ``chunks`` to each of ``jobs``, so many jobs together in each call of the script."""
    clients = [redis.asyncio.Redis.from_url(url) for url in urls]
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
        stores = [_store(client) for client in clients]
        journals = [Journal(store, buffer_bytes=1 << 30) for store in stores]
        logs = [await _begun(_job_id(n), stores, journals) for n in range(jobs)]
        writers = [asyncio.create_task(journal.run()) for journal in journals]
        await asyncio.gather(*(journal.drained() for journal in journals))
        before = await _counted(clients)
        used, begun = cpu_s(pids), time.process_time()
        for _ in range(chunks):
            for first in range(0, jobs, together):
                for log in logs[first : first + together]:
                    log.chunk([_TEXT])
                await asyncio.gather(*(journal.drained() for journal in journals))
        own_s, servers_s = time.process_time() - begun, cpu_s(pids) - used
        after = await _counted(clients)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    events = jobs * chunks
    detail = {name: round((after[name] - before[name]) / events, 1) for name in before}
    return {
        "shards": len(urls),
        "jobs_a_call": together,
        "redis_us_an_event": round(servers_s / events * 1e6, 2),
        "worker_us_an_event": round(own_s / events * 1e6, 2),
        **detail,
    }


def _job_id(number: int) -> str:
    """As long as a UUID, and it shows in every key, channel and event."""
    return f"{number:08}-0000-4000-8000-000000000000"


def _store(client: redis.asyncio.Redis) -> RedisStore:
    return RedisStore(
        client, owner="bench", lease_s=600, log_ttl_s=600, queue_ttl_s=600, dead_letters_max=1
    )


async def _begun(job_id: str, stores: list[RedisStore], journals: list[Journal]) -> JobLog:
    shard = shard_of(job_id, len(stores))
    claim = await stores[shard].claim(job_id, b"{}", call="bench", deadline_s=600)
    log = journals[shard].open(
        job_id, claim.attempt, seq=claim.seq, chunks=claim.chunks, on_fenced=lambda: None
    )
    log.event(Started(job_id=job_id, seq=1, attempt=1, ts=time.time()))
    return log


async def _counted(clients: list[redis.asyncio.Redis]) -> dict[str, int]:
    """Of all servers together: bytes over the network, bytes in memory."""
    stats: list[dict[str, Any]] = [await client.info("stats") for client in clients]
    memory: list[dict[str, Any]] = [await client.info("memory") for client in clients]
    return {
        "bytes_in_an_event": sum(each["total_net_input_bytes"] for each in stats),
        "bytes_out_an_event": sum(each["total_net_output_bytes"] for each in stats),
        "log_bytes_an_event": sum(each["used_memory_dataset"] for each in memory),
    }


@contextlib.contextmanager
def _readers(servers: list[RedisProcess], jobs: int) -> Iterator[None]:
    """On each server one connection that is subscribed to the jobs that are there."""
    job_ids = [_job_id(n) for n in range(jobs)]
    with contextlib.ExitStack() as stack:
        for place, server in enumerate(servers):
            held = [names.channel(j) for j in job_ids if shard_of(j, len(servers)) == place]
            command = [sys.executable, "-c", _READER, str(server.port), ",".join(held)]
            reader = stack.enter_context(subprocess.Popen(command))
            stack.callback(reader.kill)
        time.sleep(1.0)
        yield


def main() -> int:
    """Measure for each number of servers and of jobs in a call; prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.store", description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[1])
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 10, 50, 200])
    options = parser.parse_args()
    binary = find_server()
    if binary is None:
        print("no redis-server and no valkey-server found", file=sys.stderr)
        return 1
    for together in options.together:
        for count in options.shards:
            with contextlib.ExitStack() as stack:
                servers = [stack.enter_context(RedisProcess(binary)) for _ in range(count)]
                stack.enter_context(_readers(servers, options.jobs))
                work = measure(
                    [server.url for server in servers],
                    [server.pid for server in servers if server.pid],
                    jobs=options.jobs,
                    chunks=options.chunks,
                    together=together,
                )
                print(json.dumps(asyncio.run(work)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
