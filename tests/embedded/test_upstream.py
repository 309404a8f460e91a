"""The stand-in upstream keeps the protocol, counts, and fails on order."""

import asyncio
import http.client
import json
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from berlin_worker.embedded.faults import FAULTS, Fault, Plan, in_prompt, parse, without_faults
from berlin_worker.embedded.replies import pleasant_reply
from berlin_worker.embedded.upstream import Upstream, upstream_in_thread
from tests.support.waiting import until

pytestmark = pytest.mark.contract


@pytest.fixture
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def login(session: aiohttp.ClientSession, upstream: Upstream) -> str:
    body = {"account": upstream.account, "password": upstream.password}
    async with session.post(f"{upstream.url}/api/login", json=body) as answer:
        token: str = (await answer.json())["data"]["token"]
        return token


async def complete(
    session: aiohttp.ClientSession, upstream: Upstream, token: str, prompt: str = "Hello"
) -> tuple[int, bytes]:
    body: dict[str, Any] = {
        "prompt": prompt,
        "parentMessageId": str(uuid.uuid4()),
        "options": {"model": "gpt-4"},
    }
    url = f"{upstream.url}/api/chat/completions"
    async with session.post(url, json=body, headers={"token": token}) as answer:
        return answer.status, await answer.read()


async def test_reply_is_one_line_of_json_a_word(http_session: aiohttp.ClientSession) -> None:
    async with Upstream(reply=lambda prompt: f"You said {prompt}") as upstream:
        status, body = await complete(http_session, upstream, await login(http_session, upstream))
    assert status == 200
    deltas = [json.loads(line)["content"] for line in body.split(b"\n") if line]
    assert deltas == ["You ", "said ", "Hello"]


async def test_wrong_credentials_get_no_token(http_session: aiohttp.ClientSession) -> None:
    async with Upstream() as upstream:
        body = {"account": upstream.account, "password": "wrong"}
        async with http_session.post(f"{upstream.url}/api/login", json=body) as answer:
            assert answer.status == 401
        assert (upstream.login_calls, upstream.logins) == (1, 0)


@pytest.mark.parametrize("token", ["", "made up"])
async def test_unknown_token_is_refused(http_session: aiohttp.ClientSession, token: str) -> None:
    async with Upstream() as upstream:
        assert (await complete(http_session, upstream, token))[0] == 401
        assert upstream.refused == 1


async def test_tokens_expire_by_uses(http_session: aiohttp.ClientSession) -> None:
    async with Upstream(token_max_uses=2) as upstream:
        token = await login(http_session, upstream)
        assert [(await complete(http_session, upstream, token))[0] for _ in range(3)] == [
            200,
            200,
            401,
        ]


async def test_tokens_expire_by_age_and_by_call(http_session: aiohttp.ClientSession) -> None:
    async with Upstream(token_max_age_s=0.0) as upstream:
        token = await login(http_session, upstream)
        assert (await complete(http_session, upstream, token))[0] == 401
    async with Upstream() as upstream:
        token = await login(http_session, upstream)
        assert (await complete(http_session, upstream, token))[0] == 200
        upstream.expire_tokens()
        assert (await complete(http_session, upstream, token))[0] == 401


@pytest.mark.parametrize(
    "body", [[], {}, {"prompt": "x"}, {"prompt": "x", "parentMessageId": "1", "options": {}}]
)
async def test_invalid_completion_request_is_refused(
    http_session: aiohttp.ClientSession, body: Any
) -> None:
    async with Upstream() as upstream:
        url = f"{upstream.url}/api/chat/completions"
        token = await login(http_session, upstream)
        async with http_session.post(url, json=body, headers={"token": token}) as answer:
            assert answer.status == 400


async def test_ordered_fault_occurs_as_often_as_ordered(
    http_session: aiohttp.ClientSession,
) -> None:
    async with Upstream() as upstream:
        token = await login(http_session, upstream)
        upstream.inject("status:503:1", times=2)
        seen = [(await complete(http_session, upstream, token))[0] for _ in range(3)]
        assert seen == [503, 503, 200]
        upstream.inject("status:500", times=None)
        assert (await complete(http_session, upstream, token))[0] == 500
        upstream.clear_faults()
        assert (await complete(http_session, upstream, token))[0] == 200


async def test_prompt_brings_its_own_faults_and_counts_them_alone(
    http_session: aiohttp.ClientSession,
) -> None:
    async with Upstream() as upstream:
        token = await login(http_session, upstream)
        for prompt in ("one [[status:500*1]]", "two [[status:500*1]]"):
            seen = [(await complete(http_session, upstream, token, prompt))[0] for _ in range(2)]
            assert seen == [500, 200]
        assert (await complete(http_session, upstream, token, "[[statsu:500]]"))[0] == 400


async def test_upstream_can_be_stopped_and_started_again(
    http_session: aiohttp.ClientSession,
) -> None:
    upstream = Upstream()
    await upstream.start()
    url = upstream.url
    await upstream.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await login(http_session, upstream)
    async with upstream:
        assert upstream.url == url
        await login(http_session, upstream)


def test_upstream_in_a_thread_serves_and_counts() -> None:
    with upstream_in_thread(reply="word") as upstream:

        def log_in() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", upstream.port)
            body = json.dumps({"account": upstream.account, "password": upstream.password})
            connection.request("POST", "/api/login", body)
            assert connection.getresponse().status == 200
            connection.close()

        threads = [threading.Thread(target=log_in) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (upstream.login_calls, upstream.logins, len(upstream.calls)) == (20, 20, 20)


def test_used_port_is_an_error_of_the_caller() -> None:
    with upstream_in_thread() as upstream, pytest.raises(OSError, match="address already in use"):
        upstream_in_thread(port=upstream.port).__enter__()


async def test_stopping_ends_open_streams(http_session: aiohttp.ClientSession) -> None:
    async with Upstream() as upstream:
        token = await login(http_session, upstream)
        reading = asyncio.create_task(complete(http_session, upstream, token, "[[stall:1]]"))
        await until(lambda: upstream.open_streams)
    with pytest.raises(aiohttp.ClientError):
        await reading
    assert upstream.disconnects == 0


def test_pleasant_reply_quotes_the_prompt_without_its_faults() -> None:
    several = "System: Be kind.\nUser: Who are you? [[delay:0.01]]\nAssistant:"
    assert pleasant_reply(several).startswith("You asked: “Who are you?”")
    assert pleasant_reply(several) == pleasant_reply(several)
    assert len(pleasant_reply("x " * 10_000)) < 1000


def test_faults_survive_writing_and_reading() -> None:
    assert parse("cut:3") == Fault("cut", (3.0,))
    assert parse("status:503:0.5*2") == Fault("status", (503.0, 0.5), 2)
    assert in_prompt("a [[cut:3]] b [[drip:0.01*1]] [x] [[X]]") == [
        Fault("cut", (3.0,)),
        Fault("drip", (0.01,), 1),
    ]
    assert without_faults("a [[cut:3*1]]") == "a"


@pytest.mark.parametrize("bad", ["nothing", "cut", "cut:1:2", "cut:x", "mute:1", ""])
def test_unknown_fault_is_refused(bad: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # two places raise it, each with its text
        parse(bad)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_takes_some_number_of_arguments(name: str) -> None:
    assert any(_applies(name, (503.0, 1.0)[:count]) for count in range(3))


def _applies(name: str, arguments: tuple[float, ...]) -> bool:
    try:
        Fault(name, arguments).apply(Plan(chunks=("a ",)))
    except TypeError:
        return False
    return True
