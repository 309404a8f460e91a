"""The token shared over Redis: two stores on two connections stand for two processes."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import redis
import redis.asyncio
from cryptography.fernet import Fernet
from pydantic import SecretStr

from berlin_schemas import ErrorCode, names
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.base import Token
from berlin_worker.providers.tokens.policy import FREE_REFUSALS
from berlin_worker.settings import Settings
from berlin_worker.storage.shared_tokens import RedisSource, RedisTokens
from tests.support.login import Upstream

pytestmark = pytest.mark.contract

ACCOUNT = "someone@example.org"
PASSWORD = "a password"
SETTINGS = Settings(login_timeout_s=5, login_backoff_max_s=60, token_ttl_s=100)
KEY = names.token_key("berlin", ACCOUNT)
LOCK = f"token:{{{KEY}}}:lock"
REFUSALS = f"token:{{{KEY}}}:refusals"


WRONG_PASSWORD = JobError(ErrorCode.AUTH_FAILED, "the login was refused", upstream_status=401)
BUSY = JobError(
    ErrorCode.UPSTREAM_ERROR, "busy", retryable=True, upstream_status=503, retry_after_s=20
)

MakeSource = Callable[..., RedisSource]


@pytest.fixture(autouse=True)
def every_key_has_a_ttl(redis_url: str) -> Iterator[None]:
    """Whatever a test did: under ``token:``, and nowhere else, keys that expire."""
    yield
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter():
            assert key.startswith(b"token:")
            assert client.pttl(key) > 0, key


@pytest.fixture
async def process(redis_url: str) -> AsyncIterator[MakeSource]:
    """Makes the source of one more process, with a connection pool of its own."""
    async with AsyncExitStack() as stack:

        def make(
            login: Callable[[], Awaitable[str]],
            settings: Settings = SETTINGS,
            password: str = PASSWORD,
            **options: object,
        ) -> RedisSource:
            client = redis.asyncio.Redis.from_url(redis_url, **options)
            stack.push_async_callback(client.aclose)
            return RedisTokens(client, settings).source("berlin", ACCOUNT, login, password=password)

        yield make


async def failure(source: RedisSource) -> JobError:
    with pytest.raises(JobError) as caught:
        await source.get()
    return caught.value


# One login


async def test_all_callers_of_two_processes_share_one_login(process: MakeSource) -> None:
    upstream = Upstream()
    sources = [process(upstream.login), process(upstream.login)]
    tokens = await asyncio.gather(*(source.get() for source in sources for _ in range(50)))
    assert {token.value for token in tokens} == {"secret-1"}
    assert len({token.gen for token in tokens}) == 1
    assert upstream.logins == 1


async def test_a_token_in_use_costs_no_round_trip(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    source = process(Upstream().login)
    token = await source.get()
    await redis_client.flushall()
    assert await source.get() is token


async def test_a_token_is_not_used_beyond_the_ttl_that_it_has_in_redis(
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


# A token refused


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


async def test_a_late_401_on_an_old_token_leaves_the_newer_one(process: MakeSource) -> None:
    upstream = Upstream()
    quick, late = process(upstream.login), process(upstream.login)
    old = await quick.get()
    assert await late.get() == old
    await quick.invalidate(old)
    new = await quick.get()
    await late.invalidate(old)
    assert await late.get() == new
    assert upstream.logins == 2


async def test_a_search_that_began_before_the_401_does_not_bring_the_refused_token(
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


async def test_tokens_that_are_refused_at_once_time_after_time_do_not_hammer_the_login(
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


async def test_tokens_that_were_good_for_a_while_may_be_refused_any_number_of_times(
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


# Dead, slow and cancelled logins


async def test_the_others_go_on_when_the_holder_of_the_lock_is_dead(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    await redis_client.set(LOCK, "a worker that was killed", px=300)
    upstream = Upstream()
    source = process(upstream.login)
    tokens = await asyncio.gather(*(source.get() for _ in range(10)))
    assert {token.value for token in tokens} == {"secret-1"}
    assert upstream.logins == 1


async def test_a_login_that_lost_its_lock_does_not_replace_a_newer_token(
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


async def test_a_failure_that_lost_its_lock_does_not_hold_up_the_others(
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


async def test_a_login_that_takes_too_long_fails_before_its_lock_expires(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.gate.clear()
    source = process(upstream.login, SETTINGS.model_copy(update={"login_timeout_s": 0.2}))
    error = await failure(source)
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_TIMEOUT, True)
    assert not await redis_client.exists(LOCK)


async def test_a_cancelled_caller_leaves_the_login_to_the_others(process: MakeSource) -> None:
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


async def test_a_login_that_nobody_waits_for_is_cancelled_and_frees_the_lock(
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


async def test_cancelling_at_any_moment_harms_neither_connection_nor_lock(
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


async def test_a_login_that_is_cancelled_from_within_is_a_failure_and_not_a_cancelled_job(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    upstream.error = asyncio.CancelledError()
    error = await failure(process(upstream.login))
    assert (error.code, error.retryable) == (ErrorCode.INTERNAL, True)


# Failures


@pytest.mark.parametrize(
    ("code", "retryable", "status"),
    [(ErrorCode.AUTH_FAILED, False, 401), (ErrorCode.UPSTREAM_ERROR, True, 503)],
)
async def test_a_failed_login_is_told_to_all_and_tried_again_by_none(
    process: MakeSource, code: ErrorCode, retryable: bool, status: int
) -> None:
    upstream = Upstream()
    # At the longest back-off, so that it cannot be over before the test is.
    upstream.error = raised = JobError(
        code, "told by the upstream", retryable=retryable, upstream_status=status, retry_after_s=60
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


async def test_a_retry_after_of_the_upstream_counts_up_to_the_longest_back_off(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    upstream.error = BUSY
    assert (await failure(process(upstream.login))).retry_after_s == 20
    await end_back_off(redis_client)
    upstream.error = JobError(ErrorCode.RATE_LIMITED, "slow down", retry_after_s=86400)
    assert (await failure(process(upstream.login))).retry_after_s == 60


async def test_a_new_password_does_not_wait_for_the_failures_of_the_old_one(
    process: MakeSource,
) -> None:
    refusing, accepting = Upstream(), Upstream()
    refusing.error = BUSY
    old = process(refusing.login)
    await failure(old)
    token = await process(accepting.login, password="a new password").get()
    assert await old.get() == token


async def test_a_bug_in_a_login_backs_off_too_and_its_text_is_kept_back(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    upstream.error = KeyError(PASSWORD)
    error = await failure(process(upstream.login))
    assert error.code is ErrorCode.INTERNAL
    assert PASSWORD not in f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert error.retry_after_s


async def test_a_failure_written_by_another_version_is_told_in_general_terms(
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


async def test_an_empty_token_is_a_failure(process: MakeSource) -> None:
    async def login() -> str:
        return ""

    assert (await failure(process(login))).code is ErrorCode.UPSTREAM_ERROR


# Redis away or odd


async def test_without_redis_the_error_is_clear_and_nobody_logs_in() -> None:
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


async def test_a_401_that_redis_could_not_be_told_is_told_once_for_all_and_told_again(
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


async def test_a_refused_token_that_redis_still_holds_is_not_used_again(
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
async def test_what_nobody_of_ours_wrote_counts_as_no_token(
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


# Encryption


def with_keys(*keys: bytes) -> Settings:
    return SETTINGS.model_copy(update={"token_keys": SecretStr(b",".join(keys).decode())})


async def test_an_encrypted_token_is_shared_and_not_readable_in_redis(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream, settings = Upstream(), with_keys(Fernet.generate_key())
    token = await process(upstream.login, settings).get()
    assert await process(upstream.login, settings).get() == token
    assert b"secret" not in await redis_client.dump(KEY)
    assert b"token" not in await redis_client.hgetall(KEY)


async def test_keys_rotate_without_a_login(process: MakeSource) -> None:
    upstream = Upstream()
    old, new = Fernet.generate_key(), Fernet.generate_key()
    token = await process(upstream.login, with_keys(old)).get()
    rotated = process(upstream.login, with_keys(new, old))
    assert await rotated.get() == token
    await rotated.invalidate(token)
    newer = await rotated.get()
    assert await process(upstream.login, with_keys(new)).get() == newer
    assert upstream.logins == 2


@pytest.mark.parametrize("before", ["plain", "other key", "tampered"])
async def test_a_token_that_cannot_be_read_counts_as_none(
    process: MakeSource, redis_client: redis.asyncio.Redis, before: str
) -> None:
    upstream, settings = Upstream(), with_keys(Fernet.generate_key())
    if before == "plain":
        await process(upstream.login).get()
    elif before == "other key":
        await process(upstream.login, with_keys(Fernet.generate_key())).get()
    else:
        await process(upstream.login, settings).get()
        await redis_client.hset(KEY, "fernet", b"\xff not a token")
    assert (await process(upstream.login, settings).get()).value == "secret-2"
    assert (await process(upstream.login, settings).get()).value == "secret-2"


async def test_without_keys_an_encrypted_token_is_not_taken_for_a_plain_one(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    await process(upstream.login, with_keys(Fernet.generate_key())).get()
    assert (await process(upstream.login).get()).value == "secret-2"


async def test_a_bad_key_is_named_by_its_place_and_never_repeated(process: MakeSource) -> None:
    with pytest.raises(SettingsError, match="key 2 of 2") as caught:
        process(Upstream().login, with_keys(Fernet.generate_key(), b"not-a-fernet-key"))
    assert "not-a-fernet-key" not in f"{caught.value!r} {caught.value.__cause__!r}"


# What a probe hears


async def test_a_look_at_the_token_never_logs_in_and_never_takes_the_lock(
    process: MakeSource, redis_client: redis.asyncio.Redis
) -> None:
    upstream = Upstream()
    assert await process(upstream.login).problem() is None
    assert upstream.logins == 0
    assert await redis_client.keys() == []


async def test_a_token_that_is_there_is_no_problem_whoever_got_it(process: MakeSource) -> None:
    upstream = Upstream()
    one, other = process(upstream.login), process(upstream.login)
    await one.get()
    assert [await one.problem(), await other.problem()] == [None, None]
    assert upstream.logins == 1


@pytest.mark.parametrize(("error", "after_backoff"), [(WRONG_PASSWORD, True), (BUSY, False)])
async def test_a_failed_login_is_a_problem_for_all_and_one_that_was_refused_stays_one(
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


# Keys that others have written


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


async def test_token_that_no_header_can_carry_is_none(
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
