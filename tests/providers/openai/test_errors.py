"""Errors as servers really send them, without prompts and keys."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from unittest import mock

import pytest
from multidict import CIMultiDict

from berlin_schemas import ErrorCode
from berlin_worker.providers.openai import errors, redaction
from berlin_worker.providers.openai.redaction import shower
from berlin_worker.telemetry import redact
from tests.support.openai_errors import AUTH, BODIES, CONTEXT, LIMITED, QUOTA, UPSTREAM, error
from tests.support.openai_other_errors import OTHER_BODIES

pytestmark = pytest.mark.unit


KEY = "sk-1234567890abcdefghijklmnopqrstuvwxyz"


def shown(prompt: str = "") -> Any:
    return shower(lambda: [{"role": "user", "content": prompt}], [KEY])


ALL_BODIES = BODIES | OTHER_BODIES


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable", "part"), ALL_BODIES.values(), ids=list(ALL_BODIES)
)
def test_body_with_its_status(
    status: int, body: Any, code: ErrorCode, retryable: bool, part: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    found = errors.refusal(status, CIMultiDict(), text, shown())
    assert (found.code, found.retryable) == (code, retryable)
    assert found.upstream_status == status
    assert part in found.message
    assert len(found.message) < 560
    assert "\n" not in found.message
    for secret in ("sk-1", "wxyz", "12345"):
        assert secret not in found.message


@pytest.mark.parametrize(
    ("body", "code", "retryable", "status"),
    [
        # OpenAI, coder's fixtures of its streams
        (error("The server had an error while processing your request.", "server_error"),
         UPSTREAM, True, None),
        # vLLM: serving_chat.py, create_streaming_error_response
        (error("boom", "InternalServerError", 500), UPSTREAM, True, 500),
        (error("bad", "BadRequestError", 400), UPSTREAM, False, 400),
        # LiteLLM issue 9035: the 200 is out before the error of the model is in
        (error("litellm.RateLimitError", None, "429"), LIMITED, True, 429),
        (error("x", "throttling_error"), LIMITED, True, None),
        (error("x", "insufficient_quota", "insufficient_quota"), QUOTA, False, None),
        (error("x", "invalid_request_error", "context_length_exceeded"), CONTEXT, False, None),
        (error("x", "authentication_error"), AUTH, False, None),
        # OpenRouter: numbers and words as codes
        ({"error": {"code": "server_error", "message": "Provider disconnected"}}, UPSTREAM, True,
         None),
        ({"error": {"code": 502, "message": "Provider returned error"}}, UPSTREAM, True, 502),
        ({"error": {"code": 429, "message": "x"}, "choices": [{"delta": {"content": ""},
          "finish_reason": "error"}]}, LIMITED, True, 429),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, UPSTREAM, True,
         None),
        ({"error": "out of memory"}, UPSTREAM, True, None),
        ({"object": "error", "message": "x", "code": 40303}, UPSTREAM, True, None),
    ],
)  # fmt: skip
def test_body_in_a_stream(
    body: dict[str, Any], code: ErrorCode, retryable: bool, status: int | None
) -> None:
    value = errors.read_error(body)
    assert value is not None
    found = errors.in_stream(value, shown())
    assert (found.code, found.retryable, found.upstream_status) == (code, retryable, status)


def test_chunks_are_no_errors() -> None:
    for body in ({"choices": []}, {"error": None, "choices": []}, {"usage": {}}, [], "x", None, {}):
        assert errors.read_error(body) is None


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "7", "Retry-After-Ms": "1500"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "999999999"}, 86400.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "9" * 30}, 86400.0),
        ({"Retry-After-Ms": "9" * 30}, 86400.0),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "NaN"}, None),
        ({"Retry-After": "Infinity"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2215 07:28:00 GMT"}, 86400.0),
        ({"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
    ],
)
def test_wait_is_that_of_the_finer_header(headers: dict[str, str], wait_s: float | None) -> None:
    for status in (429, 503, 529):
        found = errors.refusal(status, CIMultiDict(headers), "", shown())
        assert found.retry_after_s == wait_s
    assert errors.refusal(400, CIMultiDict(headers), "", shown()).retry_after_s is None


def test_wait_may_be_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    found = errors.refusal(429, CIMultiDict({"Retry-After": when}), "", shown())
    assert found.retry_after_s == pytest.approx(100, abs=30)


def test_quota_is_not_waited_for() -> None:
    body = json.dumps(error("x", "insufficient_quota"))
    found = errors.refusal(429, CIMultiDict({"Retry-After": "7"}), body, shown())
    assert (found.code, found.retry_after_s) == (QUOTA, None)


PROMPT = "The patient's name is Käthe Kollwitz, and she was born in 1867."


@pytest.mark.parametrize(
    "echo",
    [
        PROMPT, PROMPT[5:40], PROMPT[:30], json.dumps(PROMPT),
        repr([{"role": "user", "content": PROMPT}]),
    ],
)  # fmt: skip
def test_neither_prompt_nor_key_is_shown(echo: str) -> None:
    body = json.dumps(error(f"Invalid value: {echo} with {KEY} or Bearer {KEY[:12]}***{KEY[-4:]}"))
    message = errors.refusal(400, CIMultiDict(), body, shown(PROMPT)).message
    assert "Invalid value" in message
    assert "Kollwitz" not in message
    assert "patient" not in message
    assert KEY[:8] not in message
    assert KEY[-4:] not in message


@pytest.mark.parametrize(
    "masked",
    [
        "sk-1...", "sk-**", "sk-1234…x", "...xyz", "…xyz", "**wxyz", "key=xxxxxwxyz", "xxxxwxyz",
        "sk-12****wxyz,sk-12****wxyz", "a**xyz,b..xyz", "..xyz,sk-1..", '"sk-1**":1',
    ],
)  # fmt: skip
def test_masked_key_is_hidden(masked: str) -> None:
    found = shown()(f"the key {masked} is wrong")
    assert "[hidden]" in found
    assert "sk-1" not in found
    assert "xyz" not in found
    assert found.startswith("the key ")
    assert found.endswith(" is wrong")


@pytest.mark.parametrize("text", ["...", "wait... xyz", "xxxxyzz", "sk- **", "a**b", "** xyz"])
def test_masks_without_a_key_are_shown(text: str) -> None:
    assert shown()(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "*", ".", "…", "x", "sk-", "sk-**", "sk-1..", "..xyz", "..wxy", "xxxx ", "**x ", "Bearer ",
        "exceeds ", "context length ", "<", "<a", "&#", "my PIN is ", "\\u", "\u2003", "\x1b[",
    ],
)  # fmt: skip
def test_large_error_in_a_stream_takes_linear_time(piece: str) -> None:
    """Quadratic time would be hours, in which every job of the worker stands still."""
    text = piece * ((1 << 20) // len(piece))
    turns = [{"role": "user", "content": f"my PIN is {number:04}"} for number in range(100)]
    value = errors.read_error(error(text))
    assert value is not None
    assert len(errors.in_stream(value, shower(lambda: turns, [KEY])).message) < 560


@pytest.mark.parametrize("secret", [KEY, KEY * 100])
def test_key_that_the_reading_limit_cuts_is_not_shown(secret: str) -> None:
    show = shower(list, [secret])
    dropped = max(redact._CUT_CHARS, redact._FORM_CHARS * len(secret))
    for edge in (redact._READ_CHARS, redact._READ_CHARS + dropped):
        for inside in range(-1, len(secret) + 2, len(secret) // 6):
            page = f"no<style>{' ' * edge}"[: edge - inside - 8]
            assert secret[:4] not in show(f"{page}</style>{secret} " + "x" * (1 << 20))


def test_short_key_is_hidden_as_a_whole_alone() -> None:
    assert shower(list, ["local"])("key local, lo**al") == "key [hidden], lo**al"


def test_short_texts_of_a_long_conversation_are_not_shown() -> None:
    turns = [{"role": "user", "content": f"my PIN is {number:04}"} for number in range(3000)]
    show = shower(lambda: turns, [])
    assert "2999" not in show("cannot answer 'my PIN is 2999'")
    parts = [{"role": "user", "content": [{"type": "text", "text": "my PIN is 2999"}]}]
    assert "2999" not in shower(lambda: parts, [])("cannot answer 'my PIN is 2999'")


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", ""])
def test_ends_of_a_large_file_are_not_shown_and_its_middle_is_not_searched(prefix: str) -> None:
    pieces = [hashlib.sha256(bytes([number])).hexdigest() for number in range(256)]
    data = prefix + "".join(pieces) * 64
    parts = [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": PROMPT}]
    searched: list[str] = []

    def words(text: str, secrets: Any, prompt: str, limit: int) -> str:
        searched.append(prompt)
        return redact.words(text, secrets, prompt, limit)

    with mock.patch.object(redaction, "words", words):
        show = shower(lambda: [{"role": "user", "content": parts}], [KEY])
        found = show(f"invalid image {data[:200]}, {data[-200:]}, {PROMPT}")
    assert found.replace(" ", "") == "invalidimage[hidden],[hidden],[hidden]"
    assert len(searched[0]) < 20_000


@pytest.mark.parametrize(
    ("status", "body", "is_named"),
    [
        # Azure, older API versions; Mistral; FastAPI
        (400, error("Unknown parameter: 'stream_options'.", None, "unknown_parameter"), True),
        (400, error("Unrecognized request argument supplied: stream_options"), True),
        (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs"}]}, True),
        (400, error("streamOptions is not supported"), True),
        (400, error("This endpoint has no stream options."), True),
        (400, "include_usage?", True),
        # Of our request only this option can be extra.
        (400, error("Extra inputs are not permitted"), True),
        (422, {"detail": [{"msg": "Unexpected field"}]}, True),
        (400, error("Unknown parameter: 'top_q'"), False),
        (422, {"detail": [{"loc": ["body", "top_q"], "msg": "Extra inputs"}]}, False),
        (400, error("x"), False),
        (400, "", False),
        (404, error("stream_options"), False),
        (500, error("stream_options"), False),
    ],
)
def test_server_without_stream_options(status: int, body: Any, is_named: bool) -> None:
    assert errors.names_stream_options(status, json.dumps(body)) is is_named
