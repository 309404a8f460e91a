"""``Berlin.create_async_generator``: Berlin without a worker."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from berlin_schemas import ErrorCode, Message
from berlin_worker.embedded.upstream import Upstream, upstream_in_thread
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.berlin.provider import Berlin
from tests.support.waiting import until

pytestmark = pytest.mark.contract

HELLO = [{"role": "user", "content": "Hello"}]
REPLY = "one two three"


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """An upstream in another thread, named by the environment."""
    with upstream_in_thread(reply=REPLY) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


async def read(messages: Any = HELLO, model: str = "gpt-4", **kwargs: Any) -> str:
    stream = Berlin.create_async_generator(model, messages, **kwargs)
    return "".join([delta async for delta in stream])


async def test_standalone_stream_yields_the_deltas_as_text(upstream: Upstream) -> None:
    deltas = [delta async for delta in Berlin.create_async_generator("gpt-4", HELLO)]
    assert deltas == ["one ", "two ", "three"]


def test_second_call_uses_the_token_also_from_another_event_loop(upstream: Upstream) -> None:
    assert asyncio.run(read()) == REPLY
    assert asyncio.run(read()) == REPLY
    assert (upstream.logins, upstream.completions) == (1, 2)


async def test_calls_at_once_share_one_login(upstream: Upstream) -> None:
    assert await asyncio.gather(*(read() for _ in range(10))) == [REPLY] * 10
    assert upstream.logins == 1


async def test_expired_token_is_replaced(upstream: Upstream) -> None:
    await read()
    upstream.expire_tokens()
    assert await read() == REPLY
    assert upstream.logins == 2


async def test_each_upstream_has_a_token_of_its_own(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await read()
    async with Upstream(reply="other") as other:
        monkeypatch.setenv("BERLIN_URL", other.url)
        assert await read() == "other"
        assert (other.logins, other.refused) == (1, 0)


async def test_keyword_arguments_are_merged_last_into_the_options(upstream: Upstream) -> None:
    await read(model="", temperature=1, top_p=0.5)
    assert upstream.calls[-1].body["options"] == {
        "model": "gpt-3.5-turbo",
        "temperature": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 1888,
        "top_p": 0.5,
    }


async def test_several_messages_become_one_prompt(upstream: Upstream) -> None:
    await read([Message(role="system", content="Be kind."), *HELLO])
    assert upstream.prompts == ["System: Be kind.\nUser: Hello\nAssistant:"]


async def test_closing_early_raises_nothing_and_closes_the_connection(upstream: Upstream) -> None:
    stream = Berlin.create_async_generator("gpt-4", [{"role": "user", "content": "[[stall:1]]"}])
    assert await anext(stream) == "one "
    await stream.aclose()
    await until(lambda: not upstream.open_streams)
    assert upstream.disconnects == 1


def test_loop_that_is_left_early_leaves_nothing_open(upstream: Upstream) -> None:
    async def first() -> str:
        async for delta in Berlin.create_async_generator(
            "gpt-4", [{"role": "user", "content": "[[endless]]"}]
        ):
            return delta
        raise AssertionError

    assert asyncio.run(first()) == "one "
    asyncio.run(until(lambda: not upstream.open_streams))


async def test_error_of_the_reader_passes_through_unchanged(upstream: Upstream) -> None:
    async def stumble() -> None:
        async with aclosing(Berlin.create_async_generator("gpt-4", HELLO)) as stream:
            async for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stumble()


async def test_bad_chunk_is_a_runtime_error_with_the_received_line() -> None:
    bad = '{"error": "\ttab and ' + "x" * 2000 + '"}'
    with upstream_in_thread(reply=bad.encode()) as upstream, pytest.MonkeyPatch.context() as patch:
        for name, value in upstream.environ.items():
            patch.setenv(name, value)
        with pytest.raises(RuntimeError) as caught:
            await read()
    assert bad in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("status:302", ErrorCode.UPSTREAM_ERROR),
        ("status:429", ErrorCode.RATE_LIMITED),
        ("cut:1", ErrorCode.UPSTREAM_ERROR),
        ("drop", ErrorCode.UPSTREAM_ERROR),
    ],
)
async def test_every_failure_of_the_upstream_is_a_runtime_error(
    upstream: Upstream, fault: str, code: ErrorCode
) -> None:
    with pytest.raises(RuntimeError) as caught:
        await read([{"role": "user", "content": f"[[{fault}]]"}])
    assert isinstance(caught.value, JobError)
    assert caught.value.code is code
    assert upstream.completion_calls == 1


@pytest.mark.parametrize("silence", ["mute", "stall:1"])
async def test_silent_upstream_is_given_up(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, silence: str
) -> None:
    monkeypatch.setattr("berlin_worker.providers.berlin.provider._STANDALONE_READ_TIMEOUT_S", 0.3)
    with pytest.raises(JobError) as caught:
        await read([{"role": "user", "content": f"[[{silence}]]"}])
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT


async def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERLIN_ACCOUNT", raising=False)
    with pytest.raises(SettingsError, match="BERLIN_ACCOUNT"):
        await read()


@pytest.mark.parametrize(
    ("proxy", "code"),
    [
        ("http://user:hunter2@127.0.0.1:1", ErrorCode.UPSTREAM_ERROR),
        ("socks5://user:hunter2@127.0.0.1:1", ErrorCode.INVALID_JOB),
    ],
)
async def test_proxy_that_cannot_be_used_is_not_repeated(
    upstream: Upstream, proxy: str, code: ErrorCode
) -> None:
    with pytest.raises(JobError) as caught:
        await read(proxy=proxy)
    assert caught.value.code is code
    assert "hunter2" not in str(caught.value)


async def test_proxy_of_the_environment_is_used(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERLIN_PROXY", "http://127.0.0.1:1")
    with pytest.raises(JobError, match="proxy"):
        await read()
    assert upstream.login_calls == 0
