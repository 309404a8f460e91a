"""Failed logins: all processes share the failure and its back-off."""

import asyncio

import pytest
import redis
import redis.asyncio

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from tests.support.login import Upstream
from tests.support.shared_tokens import BUSY, KEY, PASSWORD, WRONG_PASSWORD, MakeSource, failure

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("code", "retryable", "status"),
    [(ErrorCode.AUTH_FAILED, False, 401), (ErrorCode.UPSTREAM_ERROR, True, 503)],
)
async def test_failed_login_reaches_all_callers_and_no_caller_retries(
    process: MakeSource, code: ErrorCode, retryable: bool, status: int
) -> None:
    upstream = Upstream()
    # At the longest back-off, so that it cannot be over before the test is.
    upstream.error = raised = JobError(
        code,
        "refused by the upstream",
        retryable=retryable,
        upstream_status=status,
        retry_after_s=60,
    )
    sources = [process(upstream.login), process(upstream.login)]
    errors = await asyncio.gather(*(failure(source) for source in sources for _ in range(20)))
    assert upstream.logins == 1
    assert len({id(error) for error in errors}) == 40
    for error in [*errors, await failure(process(upstream.login))]:
        assert error.info() == raised.info()
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 60
    assert upstream.logins == 1


async def test_back_offs_grow_over_the_fleet_and_a_success_clears_them(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.error = WRONG_PASSWORD
    pauses = []
    for _ in range(6):
        error = await failure(process(upstream.login))
        assert error.retry_after_s is not None
        pauses.append(error.retry_after_s)
        await end_back_off(redis_client)
    for turn, pause in enumerate(pauses):
        assert 0.25 * 2**turn <= pause <= 0.5 * 2**turn
    upstream.error = None
    source = process(upstream.login)
    token = await source.get()
    assert await redis_client.keys() == [KEY.encode()]
    await source.invalidate(token)
    upstream.error = WRONG_PASSWORD
    assert (await failure(source)).retry_after_s == pytest.approx(0.375, abs=0.13)


async def end_back_off(client: redis.asyncio.Redis) -> None:
    """Let the time of the back-off pass, without waiting for it."""
    [key] = await client.keys("token:*:failed:*")
    await client.hset(key, "retry_at_ms", 1)


async def test_retry_after_of_the_upstream_counts_up_to_the_longest_back_off(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.error = BUSY
    assert (await failure(process(upstream.login))).retry_after_s == 20
    await end_back_off(redis_client)
    upstream.error = JobError(ErrorCode.RATE_LIMITED, "slow down", retry_after_s=86400)
    assert (await failure(process(upstream.login))).retry_after_s == 60


async def test_new_password_does_not_wait_for_the_failures_of_the_old_one(
    process: MakeSource,
) -> None:
    refusing, accepting = Upstream(), Upstream()
    refusing.error = BUSY
    old = process(refusing.login)
    await failure(old)
    token = await process(accepting.login, password="a new password").get()
    assert await old.get() == token


async def test_bug_in_a_login_backs_off_too_and_its_text_is_not_shared(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    upstream.error = KeyError(PASSWORD)
    error = await failure(process(upstream.login))
    assert error.code is ErrorCode.INTERNAL
    assert PASSWORD not in f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert error.retry_after_s


async def test_failure_of_another_version_is_reported_in_general_terms(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.error = BUSY
    source = process(upstream.login)
    await failure(source)
    [key] = await redis_client.keys("token:*:failed:*")
    await redis_client.hset(key, "error", '{"code": "not_known_yet", "message": "?"}')
    error = await failure(source)
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    assert upstream.logins == 1


async def test_empty_token_is_a_failure(process: MakeSource) -> None:
    async def login() -> str:
        return ""

    assert (await failure(process(login))).code is ErrorCode.UPSTREAM_ERROR
