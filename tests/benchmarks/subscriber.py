"""One process that reads all events: counts chunks and ends, and takes the lag of each chunk.

It parses RESP by itself, so that it is not the bottleneck, and PSUBSCRIBEs ``job:*``.

Run as a script, with the port of Redis and the number of jobs, it prints one JSON object a line:
``ready`` once subscribed, ``warm`` at the end of a job whose ID begins with ``warm`` (which counts
for nothing else), ``started`` once every job has had an event, ``ended`` with the ID of each that
ends (``--tell``), ``mark`` with the number of chunks so far (SIGUSR1), and ``result`` at the end of
the last job or at SIGTERM.
"""

import asyncio
import json
import re
import signal
import sys
import time
from array import array
from typing import Any, cast

import uvloop

from tests.benchmarks.stats import percentile

_MESSAGE = re.compile(rb"\r\njob:([\w-]+)\r\n\$\d+\r\n(\{[^\r]*\})\r\n")
_ENDING = re.compile(rb'"type": ?"(completed|failed|cancelled)"')
_CONTENT = b'"content":'
_SETTLE_NS = 1_000_000_000


class Tally:
    """The events that were received. All times are in ns of the monotonic clock."""

    def __init__(self) -> None:
        self.next_index: dict[bytes, int] = {}
        self.first_heard: dict[bytes, int] = {}
        self.sent_range: dict[bytes, tuple[int, int]] = {}
        self.endings: dict[bytes, str] = {}
        self.disorder = 0
        self.sent = array("q")
        self.lag = array("q")
        self.last_heard = 0

    def chunk(self, job: bytes, text: bytes, now: int) -> None:
        """Count a chunk of ``job``; its text opens with the time of its sending and its index."""
        sent_text, index_text, _ = text.split(b" ", 2)
        sent, index = int(sent_text), int(index_text)
        if index != self.next_index.get(job, 0):
            self.disorder += 1
        self.next_index[job] = index + 1
        if index == 0:
            self.first_heard[job] = now
            self.sent_range[job] = (sent, sent)
        else:
            self.sent_range[job] = (self.sent_range.get(job, (sent, sent))[0], sent)
        self.sent.append(sent)
        self.lag.append(now - sent)
        self.last_heard = now

    def result(self) -> dict[str, Any]:
        """Return all figures as JSON. ``steady``: while every stream was in flight."""
        firsts = sorted(self.first_heard.values())
        begin = max((first for first, _ in self.sent_range.values()), default=0) + _SETTLE_NS
        end = min((last for _, last in self.sent_range.values()), default=0)
        steady = [
            lag for sent, lag in zip(self.sent, self.lag, strict=True) if begin <= sent <= end
        ]
        return {
            "chunks": len(self.lag),
            "disorder": self.disorder,
            "ended": len(self.endings),
            "failed": sum(ending != "completed" for ending in self.endings.values()),
            "heard_s": (self.last_heard - firsts[0]) / 1e9 if firsts else 0.0,
            "lag_ms": _percentiles(list(self.lag)),
            "steady_lag_ms": _percentiles(steady),
            "firsts_ns": {job.decode(): at for job, at in self.first_heard.items()},
        }


def _percentiles(lags: list[int]) -> dict[str, float] | None:
    if not lags:
        return None
    lags.sort()
    return {"p50": percentile(lags, 50) / 1e6, "p99": percentile(lags, 99) / 1e6}


class Subscriber(asyncio.Protocol):
    """The connection to Redis."""

    def __init__(self, jobs: int, done: asyncio.Event, *, tell: bool) -> None:
        self._jobs = jobs
        self._done = done
        self._tell = tell
        self._rest = b""
        self._ready = self._started = False
        self.tally = Tally()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        redis = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        redis.write(b"*2\r\n$10\r\nPSUBSCRIBE\r\n$5\r\njob:*\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._done.set()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self._ready:
            self._ready = True
            say(ready=True)
        data = self._rest + data
        heard = 0
        for found in _MESSAGE.finditer(data):
            heard = found.end()
            job, event = found.groups()
            if job.startswith(b"warm"):
                if _ENDING.search(event):
                    say(warm=job.decode())
                continue
            at = event.find(_CONTENT)
            if at >= 0:
                self.tally.chunk(job, event[at + len(_CONTENT) :].lstrip(b' "'), now)
            elif ending := _ENDING.search(event):
                self._ended(job, ending[1].decode())
        self._rest = data[heard:]
        if not self._started and len(self.tally.first_heard) >= self._jobs:
            self._started = True
            say(started=True)

    def _ended(self, job: bytes, ending: str) -> None:
        self.tally.endings[job] = ending
        if self._tell:
            say(ended=job.decode())
        if len(self.tally.endings) == self._jobs:
            self._done.set()


def say(**detail: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(detail), flush=True)


async def listen(port: int, jobs: int, *, tell: bool) -> None:
    """Listen until ``jobs`` jobs have ended."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    subscriber = Subscriber(jobs, done, tell=tell)
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: say(mark=len(subscriber.tally.lag)))
    await loop.create_connection(lambda: subscriber, "127.0.0.1", port)
    await done.wait()
    say(result=subscriber.tally.result())


if __name__ == "__main__":
    uvloop.run(listen(int(sys.argv[1]), int(sys.argv[2]), tell="--tell" in sys.argv))
