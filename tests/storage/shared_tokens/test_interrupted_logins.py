"""Logins that die, hang, lose their lock or are cancelled."""

import asyncio
import random

import pytest
import redis
import redis.asyncio

from berlin_schemas import ErrorCode
from tests.support.login import Upstream
from tests.support.shared_tokens import KEY, LOCK, SETTINGS, WRONG_PASSWORD, MakeSource, failure

pytestmark = pytest.mark.contract


async def test_processes_continue_when_the_holder_of_the_lock_is_dead(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    await redis_client.set(LOCK, "a worker that was killed", px=300)
    upstream = Upstream()
    source = process(upstream.login)
    tokens = await asyncio.gather(*(source.get() for _ in range(10)))
    assert {token.value for token in tokens} == {"secret-1"}
    assert upstream.logins == 1


async def test_login_that_lost_its_lock_does_not_replace_a_newer_token(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    slow, quick = Upstream(), Upstream()
    slow.gate.clear()
    slow_source = process(slow.login)
    slow_caller = asyncio.create_task(slow_source.get())
    await slow.started.wait()
    await redis_client.delete(LOCK)  # as if it had expired
    token = await process(quick.login).get()
    slow.gate.set()
    assert await slow_caller == token
    assert await redis_client.hget(KEY, "gen") == token.gen.encode()


async def test_failure_that_lost_its_lock_does_not_delay_other_processes(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    slow, quick = Upstream(), Upstream()
    slow.gate.clear()
    slow.error = WRONG_PASSWORD
    slow_caller = asyncio.create_task(process(slow.login).get())
    await slow.started.wait()
    await redis_client.delete(LOCK)
    token = await process(quick.login).get()
    slow.gate.set()
    assert await slow_caller == token
    assert await process(quick.login).get() == token
    assert await redis_client.keys() == [KEY.encode()]


async def test_login_that_takes_too_long_fails_before_its_lock_expires(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.gate.clear()
    source = process(upstream.login, SETTINGS.model_copy(update={"login_timeout_s": 0.2}))
    error = await failure(source)
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_TIMEOUT, True)
    assert not await redis_client.exists(LOCK)


async def test_cancelled_caller_leaves_the_login_to_the_others(process: MakeSource) -> None:
    upstream = Upstream()
    upstream.gate.clear()
    source = process(upstream.login)
    first, *others = [asyncio.create_task(source.get()) for _ in range(5)]
    await upstream.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    upstream.gate.set()
    assert {token.value for token in await asyncio.gather(*others)} == {"secret-1"}
    assert upstream.logins == 1


async def test_abandoned_login_is_cancelled_and_frees_the_lock(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.gate.clear()
    source = process(upstream.login)
    callers = [asyncio.create_task(source.get()) for _ in range(3)]
    await upstream.started.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert await redis_client.keys() == []
    upstream.gate.set()
    assert (await source.get()).value == "secret-2"


async def test_cancelling_at_any_moment_breaks_neither_connection_nor_lock(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    source = process(upstream.login, max_connections=1)
    for turn in range(60):
        caller = asyncio.create_task(source.get())
        for _ in range(turn % 20):
            await asyncio.sleep(0)
        await asyncio.sleep(random.random() / 500)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        if turn % 3 == 0:
            await redis_client.delete(KEY)
            source._token = None
    assert (await source.get()).value == f"secret-{upstream.logins}"
    assert not await redis_client.exists(LOCK)


async def test_login_that_is_cancelled_from_within_is_a_failure_and_not_a_cancelled_job(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    upstream.error = asyncio.CancelledError()
    error = await failure(process(upstream.login))
    assert (error.code, error.retryable) == (ErrorCode.INTERNAL, True)
