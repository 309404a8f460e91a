"""Readers of all streams in one process: by HTTP, or (``--direct``) by the client of this project.

Run as a script with the address and the number of jobs, ``j0`` to ``j<n-1>``. Prints JSON lines:
``open`` once every response has begun, and ``read`` at the end of the last job.
"""

import argparse
import asyncio
import json
import re
import time
from array import array
from functools import partial
from typing import Any, cast

import uvloop

from berlin_worker.client import AsyncClient
from tests.benchmarks.stats import percentile
from tests.benchmarks.subscriber import say

_TEXT = re.compile(rb'"content":"(\d+) (\d+) ')
_END = b'"type":"completed"'


class Tally:
    """Counts chunks, checks their order, and keeps the lag of each, in ns."""

    def __init__(self, jobs: int) -> None:
        self.done = asyncio.Event()
        self.lag = array("q")
        self.disorder = 0
        self._open = self._ended = 0
        self._jobs = jobs

    def opened(self) -> None:
        """Count a stream that has begun."""
        self._open += 1
        if self._open == self._jobs:
            say(open=self._open)

    def ended(self) -> None:
        """Count a stream that has ended."""
        self._ended += 1
        if self._ended == self._jobs:
            self.done.set()

    def read(self, data: bytes, index: int) -> int:
        """Take the chunks in ``data``; return the index of the next one."""
        now = time.monotonic_ns()
        for sent, number in _TEXT.findall(data):
            self.lag.append(now - int(sent))
            self.disorder += int(number) != index
            index = int(number) + 1
        return index

    def result(self) -> dict[str, Any]:
        """Return what was read."""
        lags = sorted(self.lag)
        return {
            "chunks": len(lags),
            "disorder": self.disorder,
            "lag_ms": {f"p{share}": round(percentile(lags, share) / 1e6, 3) for share in (50, 99)},
        }


class HttpReader(asyncio.Protocol):
    """One request for the events of one job."""

    def __init__(self, tally: Tally, job_id: str) -> None:
        self._tally = tally
        self._job_id = job_id
        self._rest = b""
        self._index = -1
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport.write(
            b"GET /v1/jobs/%b/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % self._job_id.encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._index < 0:
            self._index = 0
            self._tally.opened()
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        self._index = self._tally.read(whole + newline, self._index)
        if _END in whole:
            self._tally.ended()
            self._transport.close()


async def _direct(client: AsyncClient, tally: Tally, job_id: str) -> None:
    index, begun = 0, False
    async with client.stream(job_id) as stream:
        async for event in stream.raw():
            if not begun:
                begun = True
                tally.opened()
            index = tally.read(event.data, index)
    tally.ended()


async def main(port: int, jobs: int, *, direct: bool) -> None:
    """Read all jobs to their end."""
    tally, loop = Tally(jobs), asyncio.get_running_loop()
    ids = [f"j{n}" for n in range(jobs)]
    if direct:
        async with AsyncClient(f"redis://127.0.0.1:{port}/0") as client:
            followers = [asyncio.create_task(_direct(client, tally, job_id)) for job_id in ids]
            await asyncio.gather(*followers)
    else:
        for job_id in ids:
            await loop.create_connection(partial(HttpReader, tally, job_id), "127.0.0.1", port)
        await tally.done.wait()
    print(json.dumps({"read": tally.result()}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("jobs", type=int)
    parser.add_argument("--direct", action="store_true")
    given = parser.parse_args()
    uvloop.run(main(given.port, given.jobs, direct=given.direct))
