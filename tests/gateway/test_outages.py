"""Answers to callers while Redis, a log, a worker or the gateway itself is away."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker.client import AsyncClient
from berlin_worker.errors import Unavailable
from berlin_worker.gateway import event_stream
from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, job
from tests.support.waiting import until

pytestmark = pytest.mark.integration

CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "one HANG"}]})
EVENTSOURCE = {"Accept": "text/event-stream"}
RESPONSE = ("/v1/responses", {"input": "one HANG"})


@contextlib.asynccontextmanager
async def without_log(worker: InProcessWorker, harness: Harness) -> AsyncIterator[str]:
    """Yield the ID of a completed job whose log has expired."""
    job_id = await harness.submit("one")
    await harness.call("GET", f"/v1/jobs/{job_id}/events")
    async with redis.asyncio.Redis.from_url(worker.redis_url) as store:
        await store.delete(names.log_key(job_id))
    yield job_id


async def test_redis_away_is_a_503_that_may_be_repeated(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("redis://secret-host does not answer")

    monkeypatch.setattr(AsyncClient, "status", away)
    monkeypatch.setattr(AsyncClient, "submit", away)
    for method, path, body in (
        ("GET", "/v1/jobs/j1", None),
        ("GET", "/v1/jobs/j1/events", None),
        ("GET", "/v1/responses/resp_j1", None),
        ("POST", "/v1/jobs", job("x")),
        ("POST", "/v1/responses", {"input": "x", "background": True}),
    ):
        status, headers, answer = await harness.call(method, path, json=body)
        assert (status, answer["error"]["code"]) == (503, "unavailable")
        assert (headers["Retry-After"], headers.get("x-should-retry")) == ("1", None)
        assert "secret-host" not in str(answer)
    for query, expected in (("", 200), ("?wait_s=0", 503)):
        status, headers, text = await harness.call(
            "GET", "/v1/jobs/j1/events" + query, headers=EVENTSOURCE
        )
        assert status == expected
        assert (status == 200) is (headers.get("Connection") == "close")
        assert "secret-host" not in str(text)
    assert (await harness.call("GET", "/readyz"))[0] == 503
    assert (await harness.call("GET", "/livez"))[0] == 200


async def test_error_of_the_gateway_is_a_500_whose_text_stays_in_the_log(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("a-detail")

    monkeypatch.setattr(AsyncClient, "status", break_down)
    with caplog.at_level(logging.ERROR):
        status, _, answer = await harness.call("GET", "/v1/jobs/j1")
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "a-detail" not in str(answer)
    assert "a-detail" in caplog.text


async def test_expired_log_is_a_410_and_its_record_stays(
    worker: InProcessWorker, harness: Harness
) -> None:
    async with without_log(worker, harness) as job_id:
        for query in ("", "?after=1", "?wait_s=0"):
            status, _, answer = await harness.call("GET", f"/v1/jobs/{job_id}/events{query}")
            assert (status, answer["error"]["code"]) == (410, "cursor_expired")
        _, _, shown = await harness.call("GET", f"/v1/jobs/{job_id}")
        assert (shown["status"], shown["result"]) == ("completed", None)
        _, _, text = await harness.call("GET", f"/v1/responses/resp_{job_id}?stream=true")
        last = json.loads(text.strip().rpartition("data: ")[2])
        assert (last["type"], last["code"], last["sequence_number"]) == (
            "error",
            "cursor_expired",
            0,
        )


@pytest.mark.parametrize(("path", "fields"), [CHAT, RESPONSE])
@pytest.mark.parametrize("stream", [False, True])
async def test_chat_at_a_gateway_that_leaves_ends_as_stopping(
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, Any],
    stream: bool,
) -> None:
    monkeypatch.setattr(event_stream, "FIRST_PING_S", 0.0)
    request = asyncio.create_task(
        harness.call("POST", path, json=fields | {"model": "m1", "stream": stream})
    )
    await until(lambda: harness.gateway.chats.count == 1)
    harness.gateway.chats.stop()
    status, headers, answer = await request
    assert headers["x-job-id"]
    if stream and isinstance(answer, str):  # the gateway left after the first event
        last = json.loads(answer.strip().rpartition("data: ")[2])
        assert last.get("error", last)["code"] == "stopping"
    else:
        assert (status, answer["error"]["code"]) == (503, "stopping")
        assert (headers["Retry-After"], headers.get("x-should-retry")) == ("1", None)


async def test_gateway_that_leaves_starts_no_stream(harness: Harness) -> None:
    job_id = await harness.submit("one")
    harness.gateway.followers.stop()
    status, headers, _ = await harness.call("GET", f"/v1/jobs/{job_id}/events")
    assert (status, headers["Retry-After"]) == (503, "1")
    # EventSource takes a 503 as final; it comes back after the end of a stream.
    status, headers, text = await harness.call(
        "GET", f"/v1/jobs/{job_id}/events", headers=EVENTSOURCE
    )
    assert (status, headers["Connection"], text[:1]) == (200, "close", ":")
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    for path, expected in (("never-seen", 404), ("j/x", 404)):
        missing = await harness.call("GET", f"/v1/jobs/{path}/events", headers=EVENTSOURCE)
        assert missing[0] == expected


async def test_log_that_is_not_read_in_time_is_a_503(harness: Harness) -> None:
    job_id = await harness.submit("one")
    await harness.call("GET", f"/v1/jobs/{job_id}/events")
    harness.gateway.lookup_s = 0.0
    status, _, answer = await harness.call("GET", f"/v1/jobs/{job_id}")
    assert (status, answer["error"]["code"]) == (503, "unavailable")
