"""Tokens that the upstream refuses: one login replaces them, and too many back off."""

import asyncio
import random

import pytest
import redis
import redis.asyncio

from berlin_schemas import ErrorCode
from berlin_worker.providers.base import Token
from berlin_worker.providers.tokens.policy import FREE_REFUSALS
from berlin_worker.storage.shared_tokens import RedisSource
from tests.support.login import Upstream
from tests.support.shared_tokens import KEY, REFUSALS, MakeSource, failure

pytestmark = pytest.mark.contract


async def test_two_hundred_jobs_with_the_same_401_log_in_again_once(process: MakeSource) -> None:
    upstream = Upstream()
    sources = [process(upstream.login) for _ in range(4)]
    olds = [await source.get() for source in sources]

    async def replay(source: RedisSource, old: Token) -> Token:
        await asyncio.sleep(random.random() / 20)
        await source.invalidate(old)
        return await source.get()

    jobs = [replay(source, old) for source, old in zip(sources, olds, strict=True)] * 1
    jobs += [
        replay(source, old) for source, old in zip(sources, olds, strict=True) for _ in range(49)
    ]
    tokens = await asyncio.gather(*jobs)
    assert {token.value for token in tokens} == {"secret-2"}
    assert upstream.logins == 2


async def test_late_401_on_an_old_token_leaves_the_newer_one(process: MakeSource) -> None:
    upstream = Upstream()
    quick, late = process(upstream.login), process(upstream.login)
    old = await quick.get()
    assert await late.get() == old
    await quick.invalidate(old)
    new = await quick.get()
    await late.invalidate(old)
    assert await late.get() == new
    assert upstream.logins == 2


async def test_search_that_began_before_a_401_does_not_return_the_refused_token(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    upstream.gate.clear()
    source = process(upstream.login)
    searching = asyncio.create_task(source.get())
    await upstream.started.wait()
    token = Token("secret-1", gen="")
    upstream.gate.set()
    token = await searching
    source._refused.append(token.gen)  # the 401 of another job, before this one has the reply
    source._token = None
    assert (await source.get()).value == "secret-2"


async def test_tokens_that_are_refused_at_once_do_not_flood_the_login(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    sources = [process(upstream.login), process(upstream.login)]
    for turn in range(FREE_REFUSALS):
        source = sources[turn % 2]
        await source.invalidate(await source.get())
    await redis_client.incrby(REFUSALS, 10)  # a later pause, longer than the test takes
    await source.invalidate(await source.get())
    for error in await asyncio.gather(*(failure(source) for source in sources)):
        assert (error.code, error.retryable) == (ErrorCode.AUTH_FAILED, True)
        assert error.retry_after_s
    assert upstream.logins == FREE_REFUSALS + 1


async def test_tokens_that_worked_for_a_while_may_be_refused_any_number_of_times(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    source = process(upstream.login)
    for _ in range(FREE_REFUSALS * 2):
        token = await source.get()
        await redis_client.hincrby(KEY, "at_ms", -6000)  # a later time, without waiting for it
        await source.invalidate(token)
    await source.get()
    assert upstream.logins == FREE_REFUSALS * 2 + 1
