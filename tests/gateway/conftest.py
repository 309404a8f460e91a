"""A gateway over a worker in this process, and the requests of its callers."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio

from berlin_schemas import ErrorCode, PromptJob, names
from berlin_worker.errors import JobError
from berlin_worker.gateway import event_stream
from berlin_worker.gateway.gateway import Gateway
from berlin_worker.gateway.keys import new_key
from berlin_worker.gateway.server import open_gateway, serving
from berlin_worker.providers.base import Report, Services
from berlin_worker.providers.deltas import Delta, ReasoningDelta, ToolCallDelta
from berlin_worker.settings import Settings
from berlin_worker.storage.heartbeat import WorkerStatus
from berlin_worker.testing import InProcessWorker


class Scripted:
    """A provider whose prompt is its script.

    Words to repeat, ``THINK...`` as reasoning, ``CALL...`` as a tool call, ``HANG``; or alone
    ``FAIL <code>``.
    """

    def __init__(self, services: Services) -> None:
        pass

    def check(self, job: PromptJob) -> None:
        pass

    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[Delta], None]:
        text = str(job.messages[-1].content)
        if text.startswith("FAIL "):
            code = ErrorCode(text.split()[1])
            report.usage = {"total_tokens": 7}
            raise JobError(code, f"the upstream fails with {code}")
        for word in text.split():
            if word == "HANG":
                await asyncio.Event().wait()
            yield [_delta(word)]
            if word.startswith("CALL"):
                report.finish_reason = "tool_calls"
        report.usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


_KEYS: dict[str, dict[str, Any]] = {
    "acme": {},
    "other": {},
    "operator": {"scopes": ["submit", "read", "fleet"]},
    "narrow": {"models": ["gpt-4*", "m-named", "echo/*"]},
}


def _delta(word: str) -> Delta:
    if word.startswith("THINK"):
        return ReasoningDelta(f"{word} ")
    if word.startswith("CALL"):
        return ToolCallDelta(0, '{"of": 1}', id="call-1", name=word)
    return f"{word} "


@dataclasses.dataclass(frozen=True, slots=True)
class Harness:
    """A gateway that serves, and an HTTP session for it."""

    url: str
    http: aiohttp.ClientSession
    gateway: Gateway
    keys: dict[str, str]
    """API key by tenant."""

    async def call(
        self, method: str, path: str, *, tenant: str = "acme", **options: Any
    ) -> tuple[int, Any, Any]:
        """Return status, headers and the JSON of the body, or its text."""
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"} | options.pop("headers", {})
        async with self.http.request(
            method, self.url + path, headers=headers, **options
        ) as response:
            text = await response.text()
            if response.content_type == "application/json" and text:
                return response.status, response.headers, json.loads(text)
            return response.status, response.headers, text

    async def submit(self, text: str, **fields: Any) -> str:
        """Submit a job of the scripted provider and return its ID."""
        status, _, body = await self.call("POST", "/v1/jobs", json=job(text, **fields))
        assert status == 202, body
        return str(body["job_id"])


def job(text: str, **fields: Any) -> dict[str, Any]:
    """Return a job object for the scripted provider."""
    messages = [{"role": "user", "content": text}]
    return {"messages": messages} | fields


async def announce(redis_url: str, **workers: dict[str, list[str]]) -> None:
    """Write the statuses of workers that are not there, and of no others: by name, their models."""
    async with redis.asyncio.Redis.from_url(redis_url) as store:
        await store.delete(names.FLEET)
        for worker, models in workers.items():
            status = WorkerStatus(
                worker=worker, host="h", pid=7, version="1", started_ts=time.time(), in_flight=3,
                capacity=10, models=models,
            )  # fmt: skip
            await store.set(names.alive_key(worker), status.model_dump_json(), ex=60)
            await store.zadd(names.FLEET, {worker: (time.time() + 60) * 1000})


@pytest.fixture(scope="module")
def worker() -> Iterator[InProcessWorker]:
    with InProcessWorker({"berlin": Scripted}) as worker:
        yield worker


@contextlib.asynccontextmanager
async def serve(
    redis_url: str, place: Path, *, port: int = 0, **settings: Any
) -> AsyncIterator[Harness]:
    """Serve a gateway with keys for several tenants, on a free port."""
    keys, entries = {}, []
    for tenant, more in _KEYS.items():
        keys[tenant], entry = new_key(tenant)
        entries.append(entry.model_dump() | more)
    file = place / "keys.json"
    file.write_text(json.dumps({"keys": entries}))
    values = {
        "redis_url": redis_url,
        "gateway_keys": str(file),
        "gateway_ticket_secret": "a secret of the test",
        **settings,
    }
    gateway = open_gateway(Settings(**values), "127.0.0.1", warn=lambda _: None)
    async with serving(gateway, "127.0.0.1", port) as bound, aiohttp.ClientSession() as http:
        yield Harness(f"http://127.0.0.1:{bound}", http, gateway, keys)


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second ping of a stream and each later one come in 50 ms, in place of 10 s."""
    monkeypatch.setattr(event_stream, "PING_S", 0.05)


@pytest.fixture
async def harness(worker: InProcessWorker, tmp_path: Path) -> AsyncIterator[Harness]:
    async with serve(worker.redis_url, tmp_path) as harness:
        yield harness
