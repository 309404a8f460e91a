"""The status of the login, as a probe reads it."""

import pytest
import redis
import redis.asyncio

from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import JobError
from berlin_worker.storage.shared_tokens import RedisTokens
from tests.support.login import Upstream
from tests.support.shared_tokens import ACCOUNT, BUSY, SETTINGS, WRONG_PASSWORD, MakeSource, failure

pytestmark = pytest.mark.contract


async def test_status_check_never_logs_in_and_never_takes_the_lock(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    assert await process(upstream.login).problem() is None
    assert upstream.logins == 0
    assert await redis_client.keys() == []


async def test_shared_token_is_no_problem_for_any_process(process: MakeSource) -> None:
    upstream = Upstream()
    one, other = process(upstream.login), process(upstream.login)
    await one.get()
    assert [await one.problem(), await other.problem()] == [None, None]
    assert upstream.logins == 1


@pytest.mark.parametrize(("error", "after_backoff"), [(WRONG_PASSWORD, True), (BUSY, False)])
async def test_failed_login_is_a_problem_for_all_and_a_refused_one_outlasts_the_back_off(
    process: MakeSource,
    redis_client: redis.asyncio.Redis,
    error: JobError,
    after_backoff: bool,
) -> None:
    upstream = Upstream()
    upstream.error = error
    one, other = process(upstream.login), process(upstream.login)
    await failure(one)
    assert await other.problem() == await one.problem() == f"berlin: {error.code.value}"
    [key] = [key async for key in redis_client.scan_iter("*:failed:*")]
    await redis_client.hset(key, "retry_at_ms", 0)
    assert (await other.problem() is not None) == after_backoff
    upstream.error = None
    await one.get()
    assert await other.problem() is None


async def test_without_redis_there_is_no_token(process: MakeSource) -> None:
    client = redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{free_port()}/0")
    source = RedisTokens(client, SETTINGS).source("berlin", ACCOUNT, Upstream().login)
    assert await source.problem() == "berlin: internal"
    await client.aclose()
