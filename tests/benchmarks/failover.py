"""The cost of SENTINEL FAILOVER to a client: ``python -m tests.benchmarks.failover [--rounds 10]``.

A client writes one entry after another, and notes those that are acknowledged. After the failover
the entries that the new primary lacks are lost. The first of them is the first that the former
primary took after the promotion, and the last shows how long the client stayed there. ``paused_s``
is the time in which nothing was acknowledged. The Sentinels keep their own periods: those of the
tests are shorter.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import time
from statistics import median

from redis.exceptions import RedisError

from berlin_worker.embedded.redis_server import find_server
from berlin_worker.embedded.topology import SentinelSet
from berlin_worker.storage import connections
from tests.support.sentinel import fail_over

_KEY = "failover"
_PERIODS_MS = {"info-period": 10_000, "publish-period": 2000, "ask-period": 1000}
"""Defaults of Redis and Valkey."""
_GO_ON_S = 5.0


async def round_of(sentinels: SentinelSet) -> dict[str, float]:
    """Fail over once while a client writes; returns entries lost, and times in seconds."""
    written: dict[int, float] = {}
    over = asyncio.Event()

    async with connections.commands(sentinels.url) as client:
        await client.delete(_KEY)

        async def write() -> None:
            number = 0
            while not over.is_set():
                number += 1
                with contextlib.suppress(RedisError, OSError):
                    await client.sadd(_KEY, number)
                    written[number] = time.monotonic()
                await asyncio.sleep(0.002)

        writing = asyncio.create_task(write())
        await asyncio.sleep(1)
        await asyncio.to_thread(fail_over, sentinels)
        await asyncio.sleep(_GO_ON_S)
        over.set()
        await writing
        kept = {int(each) for each in await client.smembers(_KEY)}
    lost = [at for number, at in written.items() if number not in kept]
    times = list(written.values())
    return {
        "entries_lost": len(lost),
        "acknowledged_by_the_former_primary_s": max(lost) - min(lost) if lost else 0.0,
        "paused_s": max(after - before for before, after in itertools.pairwise(times)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds
    binary = find_server()
    if binary is None:
        raise SystemExit("no redis-server or valkey-server: install one")
    found = []
    with SentinelSet(binary) as sentinels:
        for sentinel in sentinels.sentinels:
            with sentinel.client() as client:
                for name, period_ms in _PERIODS_MS.items():
                    client.execute_command("SENTINEL DEBUG", name, period_ms)
        for _ in range(rounds):
            found.append(asyncio.run(round_of(sentinels)))
            print(json.dumps({name: round(value, 3) for name, value in found[-1].items()}))
    for name in found[0]:
        values = sorted(each[name] for each in found)
        print(json.dumps({name: {"median": round(median(values), 3), "most": values[-1]}}))


if __name__ == "__main__":
    main()
