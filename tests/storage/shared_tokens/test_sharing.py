"""One login for all callers of all processes, and a token that is read once."""

import asyncio

import pytest
import redis
import redis.asyncio

from tests.support.login import Upstream
from tests.support.shared_tokens import ACCOUNT, KEY, MakeSource

pytestmark = pytest.mark.contract


async def test_all_callers_of_two_processes_share_one_login(process: MakeSource) -> None:
    upstream = Upstream()
    sources = [process(upstream.login), process(upstream.login)]
    tokens = await asyncio.gather(*(source.get() for source in sources for _ in range(50)))
    assert {token.value for token in tokens} == {"secret-1"}
    assert len({token.gen for token in tokens}) == 1
    assert upstream.logins == 1


async def test_token_in_use_costs_no_round_trip(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    source = process(Upstream().login)
    token = await source.get()
    await redis_client.flushall()
    assert await source.get() is token


async def test_token_is_not_used_beyond_the_ttl_that_it_has_in_redis(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    await process(upstream.login).get()
    await redis_client.expire(KEY, 50)
    user = process(upstream.login)
    await user.get()
    assert user._use_until <= asyncio.get_running_loop().time() + 50
    user._use_until -= 50  # a later time, without waiting for it
    await redis_client.delete(KEY)
    assert (await user.get()).value == "secret-2"


async def test_replies_as_text_are_understood_as_well(process: MakeSource) -> None:
    upstream = Upstream()
    token = await process(upstream.login, decode_responses=True).get()
    assert await process(upstream.login, decode_responses=True).get() == token


async def test_accounts_do_not_appear_in_keys(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    await process(Upstream().login).get()
    assert await redis_client.keys() == [KEY.encode()]
    assert await redis_client.hget(KEY, "token") == b"secret-1"
    assert ACCOUNT not in KEY
