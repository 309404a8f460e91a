"""Headers, bodies, options and prompt of the Berlin protocol."""

import json
import math
from typing import Any

import pytest
from yarl import URL

from berlin_schemas import ErrorCode, Message
from berlin_worker.errors import JobError
from berlin_worker.providers.berlin.protocol import (
    check_options,
    completion_body,
    format_prompt,
    login_body,
    read_token,
    request_headers,
)

pytestmark = pytest.mark.unit


def test_headers_are_those_of_the_protocol() -> None:
    headers = request_headers(URL("https://upstream.example"), "gzip, deflate")
    assert "Firefox" in headers.pop("User-Agent")
    assert headers == {
        "Accept": "*/*",
        "Accept-Language": "de,en-US;q=0.7,en;q=0.3",
        "Accept-Encoding": "gzip, deflate",
        "Referer": "https://upstream.example/",
        "Origin": "https://upstream.example",
        "Alt-Used": "upstream.example",
        "Content-Type": "application/json",
        "Sec-Fetch-Dest": "empty",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-origin",
        "Pragma": "no-cache",
        "Cache-Control": "no-cache",
        "TE": "trailers",
    }


def test_port_and_path_of_the_address_are_kept() -> None:
    headers = request_headers(URL("http://127.0.0.1:8080/berlin"), "gzip")
    assert headers["Referer"] == "http://127.0.0.1:8080/berlin/"
    assert headers["Origin"] == "http://127.0.0.1:8080"
    assert headers["Alt-Used"] == "127.0.0.1:8080"


def test_single_message_gives_its_raw_content() -> None:
    assert format_prompt([{"role": "system", "content": "  as it is\n"}]) == "  as it is\n"


def test_several_messages_give_lines_with_roles() -> None:
    messages = [
        Message(role="system", content="Be kind."),
        {"role": "user", "content": "Hello\nthere"},
    ]
    assert format_prompt(messages) == "System: Be kind.\nUser: Hello\nthere\nAssistant:"


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], ["Hello"], [{"role": "user", "content": None}]]
)
def test_messages_of_another_shape_are_an_invalid_job(messages: list[Any]) -> None:
    with pytest.raises(JobError) as caught:
        format_prompt(messages)
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_bodies_are_those_of_the_protocol() -> None:
    assert json.loads(login_body("me", 'pä"ss')) == {"account": "me", "password": 'pä"ss'}
    assert json.loads(completion_body("Hi", "", {}, "an-id")) == {
        "prompt": "Hi",
        "parentMessageId": "an-id",
        "options": {
            "model": "gpt-3.5-turbo",
            "temperature": 0,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "max_tokens": 1888,
        },
    }


def test_options_are_merged_last() -> None:
    options = {"temperature": 0.5, "model": "other", "top_p": 1}
    sent = json.loads(completion_body("Hi", "gpt-4", options, "an-id"))["options"]
    assert sent == {
        "model": "other",
        "temperature": 0.5,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 1888,
        "top_p": 1,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "gpt-4", "temperature": 0.5, "max_tokens": 1},
        {"presence_penalty": -2, "frequency_penalty": 2.0},
        {"temperature": 10**400},
    ],
)
def test_known_options_of_the_right_type_pass(options: dict[str, Any]) -> None:
    check_options(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_p", 1),
        ("temperature", "0"),
        ("temperature", True),
        ("temperature", None),
        ("temperature", math.nan),
        ("presence_penalty", math.inf),
        ("frequency_penalty", [0]),
        ("max_tokens", 1.5),
        ("max_tokens", 0),
        ("max_tokens", False),
        ("model", ""),
        ("model", 3),
    ],
)
def test_unknown_options_are_an_invalid_job_that_names_them(name: str, value: Any) -> None:
    with pytest.raises(JobError, match=name) as caught:
        check_options({name: value})
    assert caught.value.code is ErrorCode.INVALID_JOB
    assert not caught.value.retryable


def test_name_of_an_option_cannot_forge_a_line_of_a_log() -> None:
    with pytest.raises(JobError) as caught:
        check_options({"a\nb\x1b" + "x" * 1000: 1})
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_token_is_read_from_the_answer() -> None:
    assert read_token(b'{"data": {"token": "abc", "more": 1}}') == "abc"


@pytest.mark.parametrize(
    ("body", "code", "retryable"),
    [
        (b"<html>", ErrorCode.UPSTREAM_ERROR, True),
        (b"", ErrorCode.UPSTREAM_ERROR, True),
        (b"\xff", ErrorCode.UPSTREAM_ERROR, True),
        (b"[" * 100_000, ErrorCode.UPSTREAM_ERROR, True),
        (b"[]", ErrorCode.AUTH_FAILED, False),
        (b'{"code": 1, "message": "wrong password"}', ErrorCode.AUTH_FAILED, False),
        (b'{"data": null}', ErrorCode.AUTH_FAILED, False),
        (b'{"data": {"token": ""}}', ErrorCode.AUTH_FAILED, False),
        (b'{"data": {"token": 7}}', ErrorCode.AUTH_FAILED, False),
        (b'{"data": {"token": "a\\r\\nHost: evil"}}', ErrorCode.UPSTREAM_ERROR, False),
        (b'{"data": {"token": "' + b"x" * 9000 + b'"}}', ErrorCode.UPSTREAM_ERROR, False),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else None,
)
def test_answer_without_a_usable_token_is_an_error(
    body: bytes, code: ErrorCode, retryable: bool
) -> None:
    with pytest.raises(JobError) as caught:
        read_token(body)
    assert caught.value.code is code
    assert caught.value.retryable is retryable


def parts(*found: dict[str, Any]) -> Message:
    return Message.model_validate({"role": "user", "content": list(found)})


def test_text_parts_are_joined() -> None:
    message = parts({"type": "text", "text": "Hel"}, {"type": "text", "text": "lo", "more": 1})
    assert format_prompt([message]) == "Hello"
    assert format_prompt([message.model_dump()]) == "Hello"
    developer = Message(role="developer", content="Be brief.")
    assert format_prompt([developer, message]) == "Developer: Be brief.\nUser: Hello\nAssistant:"


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
            "messages.1.content.1: berlin cannot take parts of the type 'image_url'",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "messages.1.content.0.text must be a string",
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [{}]},
            "messages.1.tool_calls: berlin cannot take calls without text",
        ),
    ],
)
def test_content_without_text_is_refused_by_name(message: dict[str, Any], refusal: str) -> None:
    with pytest.raises(JobError) as refused:
        format_prompt([Message(role="user", content="Hi"), Message.model_validate(message)])
    assert refused.value.code is ErrorCode.INVALID_JOB
    assert refused.value.message == refusal
