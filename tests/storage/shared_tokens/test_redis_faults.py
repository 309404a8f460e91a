"""Shared tokens if Redis is away, holds an older state, or holds garbage."""

import asyncio
import contextlib

import pytest
import redis
import redis.asyncio

from berlin_schemas import ErrorCode
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Token
from berlin_worker.storage.shared_tokens import RedisTokens
from tests.support.login import Upstream
from tests.support.shared_tokens import (
    ACCOUNT,
    BUSY,
    KEY,
    LOCK,
    PASSWORD,
    REFUSALS,
    SETTINGS,
    WRONG_PASSWORD,
    MakeSource,
    failure,
)

pytestmark = pytest.mark.contract


async def test_outage_of_redis_is_a_clear_error_and_no_process_logs_in() -> None:
    upstream = Upstream()
    url = f"redis://:{PASSWORD.replace(' ', '-')}@127.0.0.1:{free_port()}/0"
    retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
    async with redis.asyncio.Redis.from_url(url, retry=retry) as client:
        source = RedisTokens(client, SETTINGS).source("berlin", ACCOUNT, upstream.login)
        errors = await asyncio.gather(*(failure(source) for _ in range(20)))
        with pytest.raises(JobError):
            await source.invalidate(Token("secret-0", "gen"))
    for error in errors:
        assert (error.code, error.retryable) == (ErrorCode.INTERNAL, True)
        assert "Redis fails" in error.message
        assert PASSWORD.replace(" ", "-") not in f"{error!r} {error.__context__!r}"
    assert upstream.logins == 0


async def test_refusal_that_redis_missed_is_sent_once_for_all_callers_and_again_later(
    process: MakeSource, redis_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream, calls = Upstream(), []
    source = process(upstream.login)
    token = await source.get()

    async def hang(gen: str, **_: object) -> float:
        calls.append(gen)
        await asyncio.sleep(0.05)
        raise JobError(ErrorCode.INTERNAL, "Redis fails", retryable=True)

    with monkeypatch.context() as away:
        away.setattr(source._scripts, "drop", hang)
        jobs = (source.invalidate(token) for _ in range(200))
        errors = await asyncio.gather(*jobs, return_exceptions=True)
    assert len({id(error) for error in errors if isinstance(error, JobError)}) == 200
    assert calls == [token.gen]
    assert await redis_client.exists(KEY)
    await source.invalidate(token)
    assert not await redis_client.exists(KEY)


async def test_refused_token_that_redis_still_holds_is_not_used_again(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    source = process(upstream.login)
    token = await source.get()
    held = await redis_client.hgetall(KEY)
    await source.invalidate(token)
    await redis_client.hset(KEY, mapping=held)  # as after a fail-over to an older copy
    await redis_client.expire(KEY, 100)
    assert (await source.get()).value == "secret-2"


@pytest.mark.parametrize("kind", ["string", "hash without a TTL", "empty hash"])
async def test_foreign_value_counts_as_no_token(
    process: MakeSource, redis_client: redis.asyncio.Redis, kind: str
) -> None:
    if kind == "string":
        await redis_client.set(KEY, "something")
    else:
        await redis_client.hset(KEY, mapping={"gen": "1", "token": "old"})
    if kind == "empty hash":
        await redis_client.hdel(KEY, "token")
        await redis_client.expire(KEY, 100)
    upstream = Upstream()
    assert (await process(upstream.login).get()).value == "secret-1"
    assert (await process(upstream.login).get()).value == "secret-1"


async def test_every_script_may_be_sent_twice(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    scripts = process(Upstream().login)._scripts
    for _ in range(2):
        seen = await scripts.look(take_as="me", lock_ttl_s=10)
        assert seen.lock.value == "ours"
    assert (await scripts.look(take_as="another", lock_ttl_s=10)).lock.value == "others"
    for _ in range(2):
        assert await scripts.store("me", Token("secret", "1"), ttl_s=10)
    assert not await scripts.store("another", Token("other", "2"), ttl_s=10)
    for _ in range(2):
        assert not await scripts.drop("1", fresh_s=5, error=BUSY.info(), pauses_s=[0, 3])
        await scripts.release("me")
    assert await redis_client.keys() == [REFUSALS.encode()]
    assert await redis_client.get(REFUSALS) == b"1"


GARBAGE = ["", "x", "-5", "1e400", "nan", "9" * 40, "\xff"]


@pytest.mark.parametrize("beside", [KEY, LOCK, REFUSALS])
@pytest.mark.parametrize("kind", ["string", "hash", "list"])
async def test_key_that_holds_garbage_prevents_no_login(
    process: MakeSource, redis_client: redis.asyncio.Redis, beside: str, kind: str
) -> None:
    """Also if it has no TTL: nothing else would ever remove it."""
    for garbage in GARBAGE:
        await redis_client.flushall()
        if kind == "string":
            await redis_client.set(beside, garbage)
        elif kind == "hash":
            await redis_client.hset(beside, mapping={"gen": garbage, "at_ms": garbage})
        else:
            await redis_client.rpush(beside, garbage)
        upstream = Upstream()
        source = process(upstream.login)
        async with asyncio.timeout(20):
            token = await source.get()
            await source.invalidate(token)
            assert (await source.get()).gen != token.gen
        assert upstream.logins == 2
        if beside == REFUSALS:
            await redis_client.delete(REFUSALS)


async def test_token_that_no_header_can_carry_counts_as_missing(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    fields = {"gen": "1", "at_ms": "1", "token": "a\r\nEvil: header"}
    await redis_client.hset(KEY, mapping=fields)
    await redis_client.expire(KEY, 100)
    assert (await process(Upstream().login).get()).value == "secret-1"


@pytest.mark.parametrize("field", ["count", "retry_at_ms", "error"])
async def test_failed_login_that_is_garbage_ends_with_its_key(
    process: MakeSource, redis_client: redis.asyncio.Redis, field: str
) -> None:
    upstream = Upstream()
    upstream.error = WRONG_PASSWORD
    await failure(process(upstream.login))
    (key,) = [key async for key in redis_client.scan_iter("token:*failed*")]
    for garbage in GARBAGE:
        await redis_client.hset(key, field, garbage)
        with contextlib.suppress(JobError):
            await process(Upstream().login).get()
    await redis_client.delete(key)
    await redis_client.rpush(key, "garbage")
    await redis_client.delete(KEY)
    assert (await process(Upstream().login).get()).value
