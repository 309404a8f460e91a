"""Tokens encrypted in Redis, and the rotation of keys."""

import pytest
import redis
import redis.asyncio
from cryptography.fernet import Fernet
from pydantic import SecretStr

from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from tests.support.login import Upstream
from tests.support.shared_tokens import KEY, SETTINGS, MakeSource

pytestmark = pytest.mark.contract


def with_keys(*keys: bytes) -> Settings:
    return SETTINGS.model_copy(update={"token_keys": SecretStr(b",".join(keys).decode())})


async def test_encrypted_token_is_shared_and_not_readable_in_redis(
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
async def test_unreadable_token_counts_as_missing(
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


async def test_encrypted_token_without_keys_counts_as_missing(
    process: MakeSource,
) -> None:
    upstream = Upstream()
    await process(upstream.login, with_keys(Fernet.generate_key())).get()
    assert (await process(upstream.login).get()).value == "secret-2"


async def test_bad_key_is_named_by_its_place_and_never_repeated(process: MakeSource) -> None:
    with pytest.raises(SettingsError, match="key 2 of 2") as caught:
        process(Upstream().login, with_keys(Fernet.generate_key(), b"not-a-fernet-key"))
    assert "not-a-fernet-key" not in f"{caught.value!r} {caught.value.__cause__!r}"
