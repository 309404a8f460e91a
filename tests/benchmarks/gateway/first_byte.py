"""How much later the first byte comes by HTTP than by the client: one request at a time."""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from berlin_schemas import Chunk
from berlin_worker.client import AsyncClient
from tests.benchmarks.fleet import ROOT
from tests.benchmarks.processes import START_TIMEOUT_S, Failed, process
from tests.benchmarks.stats import percentile

_BOUND: Final = re.compile(r"gateway +http://127\.0\.0\.1:(\d+)/")
_WARM: Final = 5
_BODY: Final = {
    "model": "echo", "stream": True, "messages": [{"role": "user", "content": "hello"}]
}  # fmt: skip


@contextlib.contextmanager
def gateway(url: str, log: Path) -> Iterator[tuple[int, int]]:
    """Run a gateway; yields its process ID and port."""
    env = os.environ | {"REDIS_URL": url, "CELERY_BROKER_URL": url}
    command = [str(Path(sys.executable).with_name("berlin")), "gateway", "--port", "0"]
    with log.open("w+") as written, process(command, cwd=ROOT, env=env, log=written) as running:
        give_up = time.monotonic() + START_TIMEOUT_S
        while (found := _BOUND.search(log.read_text())) is None:
            if running.poll() is not None or time.monotonic() > give_up:
                raise Failed(f"the gateway did not start, see {log}")
            time.sleep(0.02)
        yield running.pid, int(found[1])


def measured(url: str, requests: int, place: Path) -> dict[str, Any]:
    """Return the median of both ways, in ms, of ``requests`` each, in turns."""
    env = os.environ | {
        "REDIS_URL": url, "CELERY_BROKER_URL": url, "WORKER_DEFAULT_PROVIDER": "echo",
        "WORKER_PROVIDERS": "echo",
    }  # fmt: skip
    command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"]
    with (
        (place / "gateway-worker.log").open("w") as log,
        process(command, cwd=ROOT, env=env, log=log),
        gateway(url, place / "gateway.log") as (_, port),
    ):
        return asyncio.run(_measure(url, port, requests))


async def _measure(url: str, port: int, requests: int) -> dict[str, Any]:
    address = f"http://127.0.0.1:{port}/v1/chat/completions"
    by_http, direct = [], []
    async with AsyncClient(url, url) as client, aiohttp.ClientSession() as http:
        for number in range(requests + _WARM):
            begun = time.perf_counter()
            async with client.submit_and_stream("hello", provider="echo") as stream:
                async for event in stream:
                    if isinstance(event, Chunk):
                        took = time.perf_counter() - begun
                        break
            if number >= _WARM:
                direct.append(took * 1e3)
            begun = time.perf_counter()
            async with http.post(address, json=_BODY) as response:
                async for line in response.content:
                    if b'"content":"' in line:
                        took = time.perf_counter() - begun
                        break
                if number >= _WARM:
                    by_http.append(took * 1e3)
                await response.read()
    return {
        "requests": requests,
        "direct_ms": round(percentile(sorted(direct), 50), 2),
        "gateway_ms": round(percentile(sorted(by_http), 50), 2),
    }
