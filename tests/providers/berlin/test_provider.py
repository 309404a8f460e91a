"""The Berlin provider against the stand-in upstream: jobs, tokens, failures, secrets."""

import asyncio
from typing import Any

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Report, Services
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from tests.support.berlin_provider import REPLY, SECRET_ACCOUNT, SECRET_PASSWORD, Make, job, read

pytestmark = pytest.mark.contract


async def test_one_login_serves_many_completions(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    report = Report()
    assert await read(berlin, report=report) == (REPLY, None)
    assert report.login_s > 0
    assert await asyncio.gather(*(read(berlin) for _ in range(20))) == [(REPLY, None)] * 20
    assert (upstream.logins, upstream.completions) == (1, 21)


async def test_calls_are_those_of_the_protocol(upstream: Upstream, berlin: BerlinProvider) -> None:
    await read(berlin, model="gpt-4", options={"temperature": 0.5})
    await read(berlin)
    login, first, second = upstream.calls
    assert login.body == {"account": SECRET_ACCOUNT, "password": SECRET_PASSWORD}
    assert "token" not in login.headers
    assert first.headers["token"] == second.headers["token"]
    assert "authorization" not in first.headers
    assert "cookie" not in first.headers
    for call in (login, first):
        assert call.headers["origin"] == upstream.url
        assert call.headers["referer"] == f"{upstream.url}/"
        assert call.headers["alt-used"] == upstream.url.removeprefix("http://")
        assert call.headers["content-type"] == "application/json"
        assert call.headers["te"] == "trailers"
    assert first.body["prompt"] == "Hello"
    assert first.body["options"] == {
        "model": "gpt-4",
        "temperature": 0.5,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 1888,
    }
    assert first.body["parentMessageId"] != second.body["parentMessageId"]


async def test_expired_token_costs_one_login_and_one_replay(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await read(berlin)
    upstream.expire_tokens()
    assert await read(berlin) == (REPLY, None)
    assert (upstream.logins, upstream.refused, upstream.completions) == (2, 1, 2)
    ids = [call.body["parentMessageId"] for call in upstream.calls if "token" in call.headers]
    assert len(set(ids)) == 3


async def test_second_401_ends_the_job(upstream: Upstream, berlin: BerlinProvider) -> None:
    upstream.inject("expire", times=None)
    text, error = await read(berlin)
    assert text == ""
    assert error is not None
    assert (error.code, error.retryable, error.upstream_status) == (
        ErrorCode.AUTH_FAILED,
        False,
        401,
    )
    assert (upstream.logins, upstream.completion_calls) == (2, 2)


async def test_403_causes_no_second_login(upstream: Upstream, berlin: BerlinProvider) -> None:
    _, error = await read(berlin, "[[status:403]]")
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.AUTH_FAILED, False)
    assert (upstream.logins, upstream.completion_calls) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("status:400", (ErrorCode.UPSTREAM_ERROR, False, 400, None)),
        ("status:302", (ErrorCode.UPSTREAM_ERROR, False, 302, None)),
        ("status:429:7", (ErrorCode.RATE_LIMITED, True, 429, 7.0)),
        ("status:503:2", (ErrorCode.UPSTREAM_ERROR, True, 503, 2.0)),
        ("status:500", (ErrorCode.UPSTREAM_ERROR, True, 500, None)),
        ("drop", (ErrorCode.UPSTREAM_ERROR, True, None, None)),
        ("error_body", (ErrorCode.BAD_CHUNK, False, None, None)),
    ],
)
async def test_refused_completion_has_the_code_of_its_status(
    upstream: Upstream, berlin: BerlinProvider, fault: str, expected: tuple[Any, ...]
) -> None:
    text, error = await read(berlin, f"[[{fault}]]")
    assert text == ""
    assert error is not None
    found = (error.code, error.retryable, error.upstream_status, error.retry_after_s)
    assert found == expected
    assert upstream.completion_calls == 1


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        ("cut:2", ErrorCode.UPSTREAM_ERROR, True),
        ("half:2", ErrorCode.UPSTREAM_ERROR, True),
        ("half:2]] [[gzip", ErrorCode.UPSTREAM_ERROR, True),
        ("unfinished:2", ErrorCode.UPSTREAM_ERROR, True),
        ("garbage:2", ErrorCode.BAD_CHUNK, False),
    ],
)
async def test_text_before_a_fault_is_delivered(
    berlin: BerlinProvider, fault: str, code: ErrorCode, retryable: bool
) -> None:
    text, error = await read(berlin, f"[[{fault}]]")
    assert text == "one two "
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)


async def test_secrets_that_the_upstream_repeats_are_hidden(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await read(berlin)
    token = upstream.calls[-1].headers["token"]
    _, error = await read(berlin, "[[leak:500]]")
    assert error is not None
    assert token not in error.message
    assert "you" not in error.message
    assert "w+rd" not in error.message
    assert error.message.count("[hidden]") == 3
    assert error.message.isprintable()


async def test_bad_line_is_shown_short_clean_and_without_secrets(upstream: Upstream) -> None:
    bad = f"<html>\x1b[31m {SECRET_PASSWORD} {'x' * 10_000}"
    async with Upstream(reply=lambda _: bad.encode(), password=SECRET_PASSWORD) as other:
        settings = Settings.from_env(other.environ)
        async with open_session(settings) as session:
            provider = BerlinProvider(Services(session, LocalTokens(), settings, {}))
            _, error = await read(provider)
    assert error is not None
    assert error.code is ErrorCode.BAD_CHUNK
    assert ": [hidden] xxx" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 300


async def test_check_refuses_jobs_that_the_upstream_would_refuse(make: Make) -> None:
    provider = make()
    provider.check(job(options={"temperature": 1}, proxy="http://proxy.example:3128"))
    for bad in (job(options={"stop": "x"}), job(proxy="socks5://proxy.example")):
        with pytest.raises(JobError) as caught:
            provider.check(bad)
        assert caught.value.code is ErrorCode.INVALID_JOB
