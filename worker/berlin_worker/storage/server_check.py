"""What ends the start of a worker: a server that cannot be used, however long one waits."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from berlin_worker.storage import connections, supported_servers

logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0


async def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """Ask each server of the settings, and log a warning for each misspelt variable.

    Raises ``SettingsError`` if one is no server that is supported, or refuses for good. A server
    that is away, or that does not take the login now, is waited for elsewhere.
    """
    for warning in settings.misspelt(environ):
        logger.warning("%s", warning)
    problems = await asyncio.gather(*map(_problem, sorted(_servers(settings))))
    if message := next(filter(None, problems), None):
        raise SettingsError(message)


def _servers(settings: Settings) -> set[str]:
    found = {settings.redis_url, *settings.shards}
    if settings.broker_url.partition("://")[0] in urls.REDIS_SCHEMES:
        found.add(settings.broker_url)
    return found


async def _problem(url: str) -> str | None:
    at = address(url)
    try:
        async with asyncio.timeout(_PATIENCE_S), connections.commands(url) as client:
            await client.ping()
            message = supported_servers.problem(await _info(client))
    except AuthenticationError as error:
        logger.error("%s; it is asked again until it does", connections.trouble(at, error))  # noqa: TRY400  # says all there is
        return None
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        message = connections.refusal(error)
    return message and f"Redis at {at} {message}"


async def _info(client: Redis) -> dict[str, Any]:
    """What INFO says; empty if this user may not ask, or the server has no INFO."""
    try:
        found = dict(await client.info("server"))
        return found | dict(await client.info("cluster"))
    except (RedisError, OSError):
        return {}
