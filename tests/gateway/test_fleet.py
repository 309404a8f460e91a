"""The fleet and its models, as the workers announce them."""

import asyncio
import json
from pathlib import Path

import pytest
import redis.asyncio

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.gateway import model_providers
from berlin_worker.gateway.jobs import queue_position
from berlin_worker.providers import offered
from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, announce, serve

pytestmark = pytest.mark.integration


async def ids(harness: Harness, tenant: str) -> list[str]:
    status, _, body = await harness.call("GET", "/v1/models", tenant=tenant)
    assert (status, body["object"]) == (200, "list")
    assert all(set(each) == {"id", "object", "created", "owned_by"} for each in body["data"])
    return [f"{each['owned_by']}/{each['id']}" for each in body["data"]]


async def test_fleet_is_shown_as_berlin_top_prints_it_to_keys_with_that_scope(
    worker: InProcessWorker, harness: Harness
) -> None:
    await announce(worker.redis_url, w1={"berlin": ["gpt-4o"]})
    status, _, body = await harness.call("GET", "/v1/fleet", tenant="operator")
    assert status == 200
    assert (body["v"], body["in_flight"], body["capacity"]) == (1, 3, 10)
    assert [each["host"] for each in body["workers"]] == ["h"]
    assert body["models"] == {"berlin": ["gpt-4o"]}
    status, _, body = await harness.call("GET", "/v1/fleet", tenant="acme")
    assert (status, body["error"]["code"]) == (403, "forbidden")


async def test_models_are_those_of_the_fleet_that_the_key_allows(
    worker: InProcessWorker, tmp_path: Path
) -> None:
    await announce(
        worker.redis_url,
        w1={"berlin": ["gpt-4o", "own"], "echo": ["echo"]},
        w2={"berlin": ["gpt-4o"], "vllm": ["a/b"]},
    )
    async with serve(worker.redis_url, tmp_path, default_model="gpt-4-default") as harness:
        assert await ids(harness, "acme") == [
            "berlin/gpt-4-default", "berlin/gpt-4o", "berlin/own", "echo/echo", "vllm/a/b",
        ]  # fmt: skip
        assert await ids(harness, "narrow") == [
            "berlin/gpt-4-default", "berlin/gpt-4o", "berlin/m-named", "echo/echo",
        ]  # fmt: skip
        _, _, body = await harness.call("GET", "/v1/models/a/b")
        assert (body["id"], body["owned_by"]) == ("a/b", "vllm")
        status, _, body = await harness.call("GET", "/v1/models/own", tenant="narrow")
        assert (status, body["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_model_of_one_provider_alone_goes_there(
    worker: InProcessWorker, harness: Harness, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_providers, "_WAIT_S", 60.0)  # a slow machine reads the fleet late

    async def provider_of(model: str, **fields: str) -> str:
        body = (
            {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"input": "x"}
        )
        body |= {"model": model, "stream": False} | fields
        status, headers, answer = await harness.call("POST", f"/v1/{path}", json=body)
        assert status == 200, answer
        async with harness.gateway.client.stream(headers["x-job-id"]) as events:
            return next(e.provider for e in await events.batch() if e.type == "started")

    await announce(
        worker.redis_url,
        w1={"berlin": ["gpt-4o", "both"], "echo": ["parrot", "both", "two"]},
        w2={"other": ["two"], "echo": ["parrot"]},
    )
    assert await provider_of("parrot") == "echo"
    assert await provider_of("parrot", provider="berlin") == "berlin"
    for default in ("gpt-4o", "both", "two", "unknown"):
        assert await provider_of(default) == "berlin"


async def test_models_keep_their_provider_while_redis_is_away(
    worker: InProcessWorker,
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise redis.exceptions.ConnectionError("away")

    monkeypatch.setattr("berlin_worker.gateway.fleet._FLEET_S", -1)
    await announce(worker.redis_url, w1={"echo": ["parrot"]})
    providers = harness.gateway.providers
    assert await providers.completed({"model": "parrot"}) == {"model": "parrot", "provider": "echo"}
    monkeypatch.setattr("berlin_worker.client.fleet_reader.read", refuse)
    monkeypatch.setattr(model_providers, "REFRESH_S", 0)
    monkeypatch.setattr(model_providers, "EXPIRE_S", 0)
    assert await providers.completed({"model": "parrot"}) == {"model": "parrot", "provider": "echo"}
    assert "models go to the providers that had them before" in caplog.text


async def test_endpoints_of_the_gateway_are_asked_once_a_minute(
    worker: InProcessWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def models_of(name: str, *_: object) -> list[str]:
        asked.append(name)
        return ["offered"]

    monkeypatch.setattr(offered, "models_of", models_of)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    async with serve(worker.redis_url, tmp_path) as harness:
        lists = await asyncio.gather(*(ids(harness, "acme") for _ in range(5)))
        assert all("openai/offered" in each for each in lists)
    assert asked == ["openai"]


async def test_endpoint_that_is_down_hides_no_other(
    worker: InProcessWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def models_of(name: str, *_: object) -> list[str]:
        if name == "a-down":
            raise JobError(ErrorCode.UPSTREAM_ERROR, "it does not answer")
        if name == "openai":
            raise SettingsError("it lacks a key")
        return ["offered"]

    monkeypatch.setattr(offered, "models_of", models_of)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    endpoints = "a-down=http://127.0.0.1:9/v1,z-up=http://127.0.0.1:9/v1"
    async with serve(worker.redis_url, tmp_path, endpoints=endpoints) as harness:
        assert "z-up/offered" in await ids(harness, "acme")


async def test_models_are_left_out_while_redis_refuses_the_reading(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise redis.exceptions.NoPermissionError("no right")

    monkeypatch.setattr("berlin_worker.client.fleet_reader.read", refuse)
    assert await ids(harness, "acme") == []
    status, _, body = await harness.call("GET", "/v1/fleet", tenant="operator")
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert "no right" not in json.dumps(body)


@pytest.mark.parametrize(
    ("waiting", "later", "place"),
    [(5, 2, 3), (5, 0, 5), (1, 3, 1), (0, 0, 1), (None, 2, None), (5, None, None)],
)
def test_queue_position_leaves_out_later_jobs(
    waiting: int | None, later: int | None, place: int | None
) -> None:
    assert queue_position(waiting, later) == place


async def test_queued_job_shows_its_place(worker: InProcessWorker, harness: Harness) -> None:
    async with redis.asyncio.Redis.from_url(worker.redis_url) as store:
        await store.zadd(names.JOBS, {"waits": 1})
        fields = {"status": "queued", "tenant": "acme", "created_ms": 1}
        await store.hset(names.state_key("waits"), mapping=fields)
        await store.expire(names.state_key("waits"), 60)
    _, _, body = await harness.call("GET", "/v1/jobs/waits")
    assert (body["status"], body["queued_jobs"]) == ("queued", 0)
    assert body["queue_position"] == 1
