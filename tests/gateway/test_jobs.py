"""``/v1/jobs``: submit, look up, list, cancel and follow."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, job, serve

pytestmark = pytest.mark.contract


def sse(text: str) -> list[tuple[int, str, dict]]:
    """Return id, event and data of each server-sent event."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if line[:1] not in {":", ""}
        )
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


async def test_job_is_submitted_followed_and_looked_up(harness: Harness) -> None:
    status, headers, body = await harness.call(
        "POST", "/v1/jobs", json=job("one two", metadata={"order": 7})
    )
    assert (status, headers["Location"]) == (202, f"/v1/jobs/{body['job_id']}")
    status, headers, text = await harness.call("GET", body["events"])
    assert status == 200
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-cache", "no")
    events = sse(text)
    assert [event[:2] for event in events] == [
        (1, "started"), (2, "chunk"), (3, "chunk"), (4, "completed"),
    ]  # fmt: skip
    assert [event[2]["seq"] for event in events] == [1, 2, 3, 4]
    status, _, shown = await harness.call("GET", f"/v1/jobs/{body['job_id']}")
    assert status == 200
    assert shown["status"] == "completed"
    assert shown["result"] == {"text": "one two ", "finish_reason": "stop"}
    assert shown["usage"]["total_tokens"] == 5
    assert (shown["tenant"], shown["metadata"]) == ("acme", {"order": 7})


async def test_ended_job_shows_its_reasoning_calls_and_usage(harness: Harness) -> None:
    async def ended(text: str, *, cancel: bool = False) -> dict[str, Any]:
        job_id = await harness.submit(text)
        if cancel:
            await harness.call("POST", f"/v1/jobs/{job_id}/cancel")
        await harness.call("GET", f"/v1/jobs/{job_id}/events")
        return (await harness.call("GET", f"/v1/jobs/{job_id}"))[2]

    shown = await ended("THINK one CALL")
    assert shown["result"] == {
        "text": "one ",
        "finish_reason": "tool_calls",
        "reasoning": "THINK ",
        "tool_calls": [{"id": "call-1", "name": "CALL", "arguments": '{"of": 1}'}],
    }
    failed = await ended("FAIL upstream_timeout")
    assert (failed["error"]["code"], failed["usage"]["total_tokens"]) == ("upstream_timeout", 7)
    cancelled = await ended("HANG", cancel=True)
    assert (cancelled["status"], cancelled["usage"]) == ("cancelled", None)


@pytest.mark.parametrize(
    ("cursor", "first"),
    [(None, 1), ("", 1), ("-1", 1), ("junk", 1), ("9" * 40, 1), ("0", 1), ("2", 3)],
)
async def test_reader_resumes_after_its_cursor(
    harness: Harness, cursor: str | None, first: int
) -> None:
    job_id = await harness.submit("one two")
    await harness.call("GET", f"/v1/jobs/{job_id}/events")
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    status, _, text = await harness.call("GET", f"/v1/jobs/{job_id}/events", headers=headers)
    assert status == 200
    assert [event[0] for event in sse(text)] == list(range(first, 5))
    if cursor and cursor.isdigit():
        _, _, text = await harness.call("GET", f"/v1/jobs/{job_id}/events?after={cursor}")
        assert [event[0] for event in sse(text)] == list(range(first, 5))


@pytest.mark.parametrize("cursor", ["4", "5", "1000"])
async def test_reader_at_the_end_gets_204_so_that_eventsource_stops(
    harness: Harness, cursor: str
) -> None:
    job_id = await harness.submit("one two")
    await harness.call("GET", f"/v1/jobs/{job_id}/events")
    status, _, text = await harness.call(
        "GET", f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": cursor}
    )
    assert (status, text) == (204, "")


async def test_header_of_a_reconnect_overrides_the_query(harness: Harness) -> None:
    job_id = await harness.submit("one two")
    await harness.call("GET", f"/v1/jobs/{job_id}/events")
    _, _, text = await harness.call(
        "GET", f"/v1/jobs/{job_id}/events?after=1", headers={"Last-Event-ID": "3"}
    )
    assert [event[0] for event in sse(text)] == [4]


@pytest.mark.usefixtures("quick_pings")
async def test_silent_job_brings_pings_and_can_be_cancelled(harness: Harness) -> None:
    job_id = await harness.submit("one HANG")
    headers = {"Authorization": f"Bearer {harness.keys['acme']}"}
    async with harness.http.get(
        f"{harness.url}/v1/jobs/{job_id}/events", headers=headers
    ) as response:
        lines = []
        async for line in response.content:
            lines.append(line)
            if line.startswith(b":"):
                break
        assert any(b"one" in line for line in lines)
        status, _, body = await harness.call("POST", f"/v1/jobs/{job_id}/cancel")
        assert (status, body["cancel_requested"]) == (202, True)
        assert b"event: cancelled" in await response.read()
    _, _, shown = await harness.call("GET", f"/v1/jobs/{job_id}")
    assert (shown["status"], shown["reason"]) == ("cancelled", "requested")


async def test_long_poll_returns_events_as_json(harness: Harness) -> None:
    job_id = await harness.submit("one two")
    seen: list[dict] = []
    after, ended = 0, False
    while not ended:
        status, _, body = await harness.call(
            "GET", f"/v1/jobs/{job_id}/events?wait_s=20&after={after}"
        )
        assert status == 200
        seen += body["events"]
        after, ended = body["after"], body["ended"]
    assert [event["seq"] for event in seen] == [1, 2, 3, 4]
    _, _, body = await harness.call("GET", f"/v1/jobs/{job_id}/events?wait_s=20&after=4")
    assert body == {"events": [], "after": 4, "ended": True}
    status, _, body = await harness.call("GET", f"/v1/jobs/{job_id}/events?wait_s=soon")
    assert (status, body["error"]["param"]) == (400, "wait_s")


async def test_idempotency_key_submits_once(harness: Harness) -> None:
    headers = {"Idempotency-Key": "order 7"}
    _, _, first = await harness.call("POST", "/v1/jobs", json=job("one"), headers=headers)
    status, _, second = await harness.call("POST", "/v1/jobs", json=job("one"), headers=headers)
    assert status == 202
    assert first["job_id"] == second["job_id"]
    status, _, body = await harness.call("POST", "/v1/jobs", json=job("two"), headers=headers)
    assert (status, body["error"]["code"]) == (422, "idempotency_key_reused")
    status, _, other = await harness.call(
        "POST", "/v1/jobs", json=job("two"), headers=headers, tenant="other"
    )
    assert status == 202
    assert other["job_id"] != first["job_id"]


async def test_reused_idempotency_key_gets_one_answer_from_every_route(harness: Harness) -> None:
    headers = {"Idempotency-Key": "order 8"}
    messages = [{"role": "user", "content": "two"}]
    await harness.call("POST", "/v1/jobs", json=job("one"), headers=headers)
    refused = [
        await harness.call("POST", path, json=body, headers=headers)
        for path, body in (
            ("/v1/jobs", job("two")),
            ("/v1/chat/completions", {"messages": messages}),
            ("/v1/chat/completions", {"messages": messages, "stream": True}),
            ("/v1/responses", {"input": "two"}),
            ("/v1/responses", {"input": "two", "background": True}),
        )
    ]
    assert [status for status, _, _ in refused] == [422] * 5
    assert refused[0][2]["error"]["code"] == "idempotency_key_reused"
    assert all(body == refused[0][2] for _, _, body in refused)


async def test_list_pages_the_jobs_of_the_tenant_newest_first(harness: Harness) -> None:
    ids = [await harness.submit(f"job {number}") for number in range(5)]
    await harness.call("POST", "/v1/jobs", json=job("not yours"), tenant="other")
    listed, before = [], ""
    while before is not None:
        _, _, page = await harness.call("GET", f"/v1/jobs?limit=2&before={before}")
        listed += [each["job_id"] for each in page["jobs"]]
        before = page["next"]
    assert [job_id for job_id in listed if job_id in ids] == ids[::-1]
    _, _, page = await harness.call("GET", "/v1/jobs?status=cancelled&limit=200")
    assert {each["status"] for each in page["jobs"]} <= {"cancelled"}
    for query in ("limit=0", "limit=x", "limit=100000", "before=x"):
        status, _, body = await harness.call("GET", f"/v1/jobs?{query}")
        assert (status, body["error"]["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/tickets")],
)
async def test_job_of_another_tenant_looks_missing(
    harness: Harness, method: str, path: str
) -> None:
    job_id = await harness.submit("one")
    refused = await harness.call(method, f"/v1/jobs/{job_id}{path}", tenant="other")
    missing = await harness.call(method, f"/v1/jobs/never-seen{path}", tenant="other")
    assert refused[0] == missing[0] == 404
    assert refused[2] == missing[2]
    status, _, _ = await harness.call("GET", "/v1/jobs?tenant=acme", tenant="other")
    assert status == 403


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "nonsense": 1}, "nonsense"),
        ({"messages": [{"role": "user", "content": "x"}], "tenant": "other"}, "tenant"),
    ],
)
async def test_invalid_job_is_a_400_that_names_the_field(
    harness: Harness, body: object, param: str
) -> None:
    status, _, answer = await harness.call("POST", "/v1/jobs", json=body)
    assert (status, answer["error"]["code"]) == (400, "invalid_job")
    assert param in answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000])
async def test_body_other_than_a_json_object_is_a_400(harness: Harness, body: bytes) -> None:
    status, _, answer = await harness.call(
        "POST", "/v1/jobs", data=body, headers={"Content-Type": "application/json"}
    )
    assert (status, answer["error"]["code"]) == (400, "invalid_json")


async def test_body_of_another_type_and_a_bad_key_are_refused(harness: Harness) -> None:
    status, _, answer = await harness.call("POST", "/v1/jobs", data={"a": "b"})
    assert (status, answer["error"]["type"]) == (415, "invalid_request_error")
    for kind, expected in (("text/html; x*", 415), ("Application/JSON ; x*", 400), ("x*", 415)):
        status, _, answer = await harness.call(
            "POST", "/v1/jobs", data=b"{", headers={"Content-Type": kind}
        )
        assert status == expected
    status, _, answer = await harness.call(
        "POST", "/v1/jobs", json=job("x"), headers={"Idempotency-Key": "x" * 256}
    )
    assert (status, answer["error"]["param"]) == (400, "Idempotency-Key")
    reserved = job("x") | {"job_id": "idem-" + "0" * 40}
    status, _, answer = await harness.call("POST", "/v1/jobs", json=reserved)
    assert (status, answer["error"]["param"]) == (400, "job_id")


async def test_body_that_does_not_fit_its_encoding_is_a_400(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    status, _, answer = await harness.call("POST", "/v1/jobs", data=b"{}", headers=headers)
    assert (status, answer["error"]["code"]) == (400, "invalid_json")
    assert "failed" not in caplog.text


async def test_body_beyond_the_size_of_a_job_is_a_413(harness: Harness) -> None:
    body = io.BytesIO(json.dumps(job("x" * 1_200_000)).encode())
    status, _, answer = await harness.call(
        "POST", "/v1/jobs", data=body, headers={"Content-Type": "application/json"}
    )
    assert (status, answer["error"]["code"]) == (413, "invalid_job")


async def test_gateway_that_leaves_ends_streams_with_a_cursor(
    worker: InProcessWorker, tmp_path: Path
) -> None:
    async with serve(worker.redis_url, tmp_path) as harness:
        job_id = await harness.submit("one HANG")
        headers = {"Authorization": f"Bearer {harness.keys['acme']}"}
        async with harness.http.get(
            f"{harness.url}/v1/jobs/{job_id}/events", headers=headers
        ) as first:
            text = b""
            while b"one" not in text:
                text += await first.content.readany()
            harness.gateway.followers.stop()
            text += await asyncio.wait_for(first.read(), 10)
    cursor = sse(text.decode())[-1][0]
    async with serve(worker.redis_url, tmp_path) as harness:
        status, _, body = await harness.call(
            "GET", f"/v1/jobs/{job_id}/events?after={cursor - 1}&wait_s=10"
        )
        assert status == 200
        assert [event["seq"] for event in body["events"]] == [cursor]
        await harness.call("POST", f"/v1/jobs/{job_id}/cancel")
