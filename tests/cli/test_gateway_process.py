"""`berlin gateway`: how it starts, refuses and ends."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator

import aiohttp
import pytest
import redis.asyncio

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.cli import BERLIN
from tests.support.fork_server import run_python
from tests.support.job_writer import JobWriter
from tests.support.workers import ROOT, TIMEOUT_S

pytestmark = pytest.mark.integration


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return run_python([*BERLIN[1:], "gateway", *arguments], env=environ, timeout=TIMEOUT_S)


@contextlib.asynccontextmanager
async def gateway(redis_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a gateway on a free port; yields its process and its URL."""
    process = await asyncio.create_subprocess_exec(
        *BERLIN, "gateway", "--port", "0",
        env=os.environ | {"PYTHONPATH": str(ROOT), "REDIS_URL": redis_url},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT_S):
            shown = None
            while shown is None:
                line = await process.stderr.readline()
                assert line, "the gateway has ended"
                shown = re.search(rb"gateway +(http://127[^/]+)/", line)
        yield process, shown[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_stream_of_a_gateway_that_ends_continues_at_another(
    redis_server: RedisProcess,
) -> None:
    async with (
        redis.asyncio.Redis.from_url(redis_server.url) as store,
        gateway(redis_server.url) as (one, one_url),
        gateway(redis_server.url) as (other, other_url),
        aiohttp.ClientSession() as http,
    ):
        await store.flushall()
        writer, path = JobWriter(store, "job-1"), "/v1/jobs/job-1/events"
        await writer.started()
        await writer.chunk("before")
        async with http.get(one_url + path) as response:
            text = b""
            while b"before" not in text:
                text += await response.content.readany()
            one.send_signal(signal.SIGTERM)
            text += await response.read()  # raises if the response is cut off
        assert await asyncio.wait_for(one.wait(), TIMEOUT_S) == 0
        await writer.chunk("after")
        await writer.completed()
        cursor = re.findall(rb"^id: (\d+)$", text, re.MULTILINE)[-1].decode()
        async with http.get(other_url + path, headers={"Last-Event-ID": cursor}) as response:
            text += await response.read()
        assert re.findall(rb"^id: (\d+)$", text, re.MULTILINE) == [b"1", b"2", b"3", b"4"]
        other.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(other.wait(), TIMEOUT_S) == 0


def test_new_key_is_printed_alone_and_its_entry_on_stderr() -> None:
    done = run("--new-key", "acme")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bk_")
    entry = json.loads(done.stderr.splitlines()[-1])
    assert entry["tenant"] == "acme"
    assert done.stdout.strip() not in done.stderr


def test_gateway_without_keys_refuses_other_hosts_in_one_line() -> None:
    done = run("--host", "0.0.0.0")
    assert done.returncode == 2
    assert "WORKER_GATEWAY_KEYS" in done.stderr
    assert "Traceback" not in done.stderr
