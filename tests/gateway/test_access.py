"""Access to the gateway: keys, tickets, scopes, pages of other origins, and its log."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, job, serve

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic YTpi", "wrong"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/v1/nothing", "/page/x"])
async def test_request_without_a_key_is_a_401(
    harness: Harness, header: str | None, path: str
) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with harness.http.get(harness.url + path, headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        body = await response.json()
    assert body["error"]["code"] == "invalid_api_key"


async def test_ticket_reads_its_own_job_and_does_nothing_else(harness: Harness) -> None:
    _, _, body = await harness.call("POST", "/v1/jobs", json=job("one"))
    job_id, ticket = body["job_id"], body["ticket"]
    other = await harness.submit("two")

    async def status(method: str, path: str) -> int:
        async with harness.http.request(method, f"{harness.url}{path}ticket={ticket}") as response:
            await response.read()
            return response.status

    assert await status("GET", f"/v1/jobs/{job_id}/events?") == 200
    assert await status("GET", f"/v1/jobs/{job_id}?") == 200
    assert await status("GET", f"/v1/jobs/{other}/events?") == 404
    assert await status("POST", f"/v1/jobs/{job_id}/cancel?") == 403
    assert await status("POST", f"/v1/jobs/{job_id}/tickets?") == 403
    assert await status("POST", "/v1/jobs?") == 403
    assert await status("POST", "/v1/chat/completions?") == 403
    assert await status("GET", "/v1/jobs?") == 403
    ticket = "x" + ticket
    assert await status("GET", f"/v1/jobs/{job_id}/events?") == 401
    made, _, body = await harness.call("POST", f"/v1/jobs/{job_id}/tickets")
    ticket = body["ticket"]
    assert (made, await status("GET", f"/v1/jobs/{job_id}?")) == (201, 200)
    assert (await harness.call("GET", "/v1/jobs?tenant=other"))[0] == 403


_DEAR = {"provider": "vllm", "model": "dear"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/jobs", {"model": "dear"}),
        ("/v1/jobs", {"fallbacks": [{"provider": "echo", "model": "echo"}, _DEAR]}),
        ("/v1/jobs", {"options": {"model": "dear"}}),
        ("/v1/jobs", {"fallbacks": [_DEAR | {"model": "gpt-4", "options": {"model": "dear"}}]}),
        (
            "/v1/jobs",
            {
                "provider": "echo",
                "options": {"model": "dear"},
                "fallbacks": [{"provider": "berlin", "model": "gpt-4", "options": None}],
            },
        ),
        ("/v1/chat/completions", {"model": "dear"}),
        ("/v1/chat/completions", {"fallbacks": [_DEAR]}),
    ],
)
async def test_key_allows_no_other_model_by_fallbacks_or_options(
    harness: Harness, path: str, fields: dict[str, Any]
) -> None:
    body = job("x", model="gpt-4") | fields
    status, _, answer = await harness.call("POST", path, json=body, tenant="narrow")
    assert (status, answer["error"]["code"]) == (403, "model_not_allowed")


async def test_log_shows_no_key_ticket_or_prompt(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        _, _, body = await harness.call("POST", "/v1/jobs", json=job("a-secret-prompt"))
        ticket = body["ticket"]
        async with harness.http.get(f"{harness.url}{body['events']}?ticket={ticket}") as response:
            await response.read()
        await harness.call("POST", "/v1/jobs", json={"messages": "a-secret-prompt"})
    text = "\n".join(record.getMessage() for record in caplog.records if "berlin" in record.name)
    assert "/v1/jobs/{job_id}/events 200" in text
    for secret in (harness.keys["acme"], ticket, "a-secret-prompt"):
        assert secret not in text


async def test_pages_of_listed_origins_may_call(worker: InProcessWorker, tmp_path: Path) -> None:
    ours, theirs = "https://app.example.org", "https://evil.example.org"
    async with serve(
        worker.redis_url, tmp_path, gateway_origins=f"{ours}, http://localhost:3000"
    ) as harness:
        for origin, allowed in ((ours, ours), (theirs, None)):
            headers = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,x-stainless-lang",
            }
            async with harness.http.options(harness.url + "/v1/jobs", headers=headers) as response:
                assert response.status == 204
                assert response.headers.get("Access-Control-Allow-Origin") == allowed
                assert response.headers["Vary"] == "Origin"
                # OpenAI's client for browsers sends headers of its own.
                named = response.headers.get("Access-Control-Allow-Headers")
                assert named == (allowed and "authorization,x-stainless-lang")
            _, headers, _ = await harness.call("GET", "/v1/models", headers={"Origin": origin})
            assert headers.get("Access-Control-Allow-Origin") == allowed


@pytest.fixture
async def keyless(worker: InProcessWorker, tmp_path: Path) -> AsyncIterator[Harness]:
    async with serve(
        worker.redis_url, tmp_path, gateway_keys="", gateway_origins="https://app.example.org"
    ) as harness:
        yield harness


async def test_no_page_may_call_by_default(harness: Harness) -> None:
    _, headers, _ = await harness.call("GET", "/v1/models", headers={"Origin": "https://a.example"})
    assert "Access-Control-Allow-Origin" not in headers


_OWN = "127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"Host": "localhost"}, None),
        ({"Host": "LOCALHOST:{port}", "Origin": "http://localhost:{port}"}, None),
        ({"Host": "[::1]:8080"}, None),
        ({"Host": "127.8.8.8"}, None),
        ({"Host": _OWN, "Origin": "http://127.0.0.1:{port}"}, None),
        ({"Host": "127.0.0.1:9000", "Origin": "https://127.0.0.1:9000"}, None),  # by a tunnel
        ({"Host": _OWN, "Origin": "https://app.example.org"}, None),
        ({"Host": "app.example.org", "Origin": "https://app.example.org"}, None),
        ({"Host": _OWN, "Origin": "https://evil.example.org"}, "foreign_origin"),
        ({"Host": _OWN, "Origin": "http://localhost:{port}"}, "foreign_origin"),
        ({"Host": _OWN, "Origin": "http://127.0.0.1:3000"}, "foreign_origin"),
        ({"Host": _OWN, "Origin": "null"}, "foreign_origin"),
        ({"Host": _OWN, "Origin": ""}, "foreign_origin"),
        ({"Host": "evil.example.org", "Origin": "http://evil.example.org"}, "foreign_host"),
        ({"Host": "evil.example.org:{port}"}, "foreign_host"),
        ({"Host": "127.0.0.1.evil.example.org"}, "foreign_host"),
        ({"Host": "localhost.evil.example.org"}, "foreign_host"),
        ({"Host": "192.168.1.7:{port}"}, "foreign_host"),
        ({"Host": "[::1"}, "foreign_host"),
        ({"Host": ""}, "foreign_host"),
    ],
)
async def test_gateway_without_keys_answers_no_foreign_page(
    keyless: Harness, headers: dict[str, str], code: str | None
) -> None:
    port = keyless.url.rpartition(":")[2]
    headers = {name: value.replace("{port}", port) for name, value in headers.items()}
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs/never-seen/cancel"), ("GET", "/")):
        async with keyless.http.request(method, keyless.url + path, headers=headers) as response:
            body = await response.text()
            assert (code is None) is (response.status in {200, 404})
            assert code is None or (response.status == 403 and code in body)


async def test_body_without_a_type_is_a_415(keyless: Harness) -> None:
    # A page sends it to another origin without asking: fetch(..., {mode: "no-cors", body: blob}).
    for headers in ({}, {"Content-Type": "application/octet-stream"}, {"Content-Type": ""}):
        async with keyless.http.post(
            keyless.url + "/v1/jobs", data=json.dumps(job("x")).encode(), headers=headers,
            skip_auto_headers=["Content-Type"],
        ) as response:  # fmt: skip
            assert response.status == 415
            assert "Content-Type: application/json" in await response.text()


async def test_probes_and_metrics_need_no_key(harness: Harness) -> None:
    await harness.call("GET", "/v1/models")
    for path, part in (
        ("/livez", "alive"),
        ("/readyz", "ready"),
        ("/metrics", 'berlin_gateway_requests_total{method="GET",route="/v1/models",status="200"}'),
    ):
        async with harness.http.get(harness.url + path) as response:
            assert response.status == 200
            assert part in await response.text()


async def test_readiness_ends_when_the_gateway_leaves(harness: Harness) -> None:
    harness.gateway.followers.stop()
    async with harness.http.get(harness.url + "/readyz") as response:
        assert response.status == 503


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/jobs", 405)]
)
async def test_unknown_route_is_an_error_in_json(
    harness: Harness, method: str, path: str, status: int
) -> None:
    got, headers, body = await harness.call(method, path)
    assert (got, headers.get("Allow")) == (status, "GET,HEAD,POST" if status == 405 else None)
    assert body["error"]["type"] in {"not_found_error", "invalid_request_error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
