"""Bodies of requests: invalid jobs, other JSON, other types, and bodies that are too large."""

import io
import json
from typing import Any

import pytest

from tests.gateway.conftest import Harness, job

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("depth", [150, 600, 950])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/jobs", "messages"),
        ("/v1/jobs", "fallbacks"),
        ("/v1/jobs", "options"),
        ("/v1/chat/completions", "messages"),
        ("/v1/chat/completions", "tools"),
        ("/v1/responses", "tool_choice"),
        ("/v1/responses", "metadata"),
    ],
)
async def test_deeply_nested_job_is_a_400(
    harness: Harness, path: str, field: str, depth: int
) -> None:
    body: dict[str, Any] = {"input": "x"} if path == "/v1/responses" else job("x", job_id="deep")
    if path == "/v1/chat/completions":
        del body["job_id"]
    body[field] = {"a": "DEEP"} if field in {"options", "metadata"} else "DEEP"
    data = json.dumps(body).replace('"DEEP"', "[" * depth + "]" * depth)
    headers = {"Content-Type": "application/json"}
    status, _, answer = await harness.call("POST", path, data=data, headers=headers)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


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
