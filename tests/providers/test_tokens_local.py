"""The token of one process: all callers share one login and its failure."""

import asyncio

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Token
from berlin_worker.providers.tokens.local import LocalTokens
from tests.support.login import Upstream

pytestmark = pytest.mark.unit


async def test_many_concurrent_callers_share_one_login() -> None:
    upstream = Upstream()
    store = LocalTokens()
    sources = [store.source("berlin", "someone", upstream.login) for _ in range(50)]
    tokens = await asyncio.gather(*(source.get() for source in sources))
    assert {token.value for token in tokens} == {"secret-1"}
    assert upstream.logins == 1


async def test_accounts_and_providers_have_tokens_of_their_own() -> None:
    upstream = Upstream()
    store = LocalTokens()
    pairs = [("berlin", "a"), ("berlin", "b"), ("other", "a")]
    tokens = [await store.source(*pair, upstream.login).get() for pair in pairs]
    assert len({token.value for token in tokens}) == 3


async def test_late_invalidation_of_an_old_token_leaves_the_newer_one() -> None:
    upstream = Upstream()
    source = LocalTokens().source("berlin", "someone", upstream.login)
    old = await source.get()
    await source.invalidate(old)
    new = await source.get()
    await source.invalidate(old)
    assert await source.get() is new
    assert upstream.logins == 2


async def test_callers_that_waited_share_the_failure_and_later_ones_log_in_again() -> None:
    upstream = Upstream()
    upstream.error = JobError(
        ErrorCode.AUTH_FAILED, "wrong password", upstream_status=401, retry_after_s=3
    )
    upstream.gate.clear()
    source = LocalTokens().source("berlin", "someone", upstream.login)
    callers = [asyncio.create_task(source.get()) for _ in range(20)]
    await upstream.started.wait()
    upstream.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert upstream.logins == 1
    assert len({id(outcome) for outcome in outcomes}) == 20
    for outcome in outcomes:
        assert isinstance(outcome, JobError)
        assert (outcome.code, outcome.message) == (ErrorCode.AUTH_FAILED, "wrong password")
        assert (outcome.upstream_status, outcome.retry_after_s) == (401, 3)
    upstream.error = None
    assert (await source.get()).value == "secret-2"


async def test_next_caller_logs_in_when_the_first_is_cancelled() -> None:
    upstream = Upstream()
    upstream.gate.clear()
    source = LocalTokens().source("berlin", "someone", upstream.login)
    first = asyncio.create_task(source.get())
    await upstream.started.wait()
    others = [asyncio.create_task(source.get()) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    upstream.gate.set()
    tokens = await asyncio.gather(*others)
    assert {token.value for token in tokens} == {"secret-2"}
    assert first.cancelled()


def test_one_event_loop_after_another_uses_the_same_token() -> None:
    logins = []

    async def login() -> str:
        logins.append(1)
        await asyncio.sleep(0)
        return "secret"

    store = LocalTokens()

    async def use() -> list[Token]:
        source = store.source("berlin", "someone", login)
        return await asyncio.gather(*(source.get() for _ in range(5)))

    assert asyncio.run(use()) == asyncio.run(use())
    assert len(logins) == 1


def test_loop_that_ended_in_the_middle_of_a_login_blocks_no_later_one() -> None:
    store = LocalTokens()

    async def hang() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def login() -> str:
        return "secret"

    async def give_up() -> None:
        async with asyncio.timeout(0):
            await store.source("berlin", "someone", hang).get()

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert asyncio.run(store.source("berlin", "someone", login).get()).value == "secret"


async def test_no_repr_shows_a_token() -> None:
    source = LocalTokens().source("berlin", "someone", Upstream().login)
    token = await source.get()
    assert "secret" not in f"{token!r}{source!r}{source._shared!r}"
