"""Check at the start of a worker that each Redis can be used; waiting would not make it usable."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from berlin_schemas import names
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from berlin_worker.storage import connections, nodes, redis_errors, supported_servers
from berlin_worker.storage.connections import Command

logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0

# Each command changes nothing, and a worker cannot do without the right to it.
_EVENT_STORE: Final[tuple[Command, ...]] = (
    ("TIME",),
    ("EVAL", "return 1", 1, names.FLEET),
    ("ZCARD", names.FLEET),
    ("EVAL", "return 1", 1, names.DUE_KEYS[0]),
    ("ZCARD", names.DUE_KEYS[0]),
)
_BROKER: Final[tuple[Command, ...]] = (
    ("EVAL", "return 1", 1, names.QUEUE),
    ("LLEN", names.QUEUE),
)


@dataclass(slots=True)
class _Use:
    """The use of one server by a worker: the settings that name it, and commands to try."""

    settings: list[str] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)


async def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """Check each server of the settings, and log a warning for each misspelt variable.

    Raises ``SettingsError`` if a server is not supported, or refuses the login or a basic command.
    A server that cannot be reached is no error here: the worker waits for it later. A running
    worker waits for a refused login, too, since passwords are rotated.
    """
    for warning in settings.misspelt(environ):
        logger.warning("%s", warning)
    uses = sorted(_uses(settings).items())
    problems = await asyncio.gather(*(_problem(url, use) for url, use in uses))
    if message := next(filter(None, problems), None):
        raise SettingsError(message)


def _uses(settings: Settings) -> dict[str, _Use]:
    found: dict[str, _Use] = {}

    def add(url: str, setting: str, commands: tuple[Command, ...]) -> None:
        use = found.setdefault(url, _Use())
        use.settings.append(setting)
        use.commands += commands

    add(settings.redis_url, "REDIS_URL", _EVENT_STORE)
    if urls.is_redis(settings.broker_url):
        own = settings.broker_url != settings.redis_url
        add(settings.broker_url, "CELERY_BROKER_URL" if own else "REDIS_URL", _BROKER)
    return found


async def _problem(url: str, use: _Use) -> str | None:
    """Return the first problem of the servers behind ``url``, or ``None``."""
    at, cluster = address(url), urls.is_cluster(url)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found = await nodes.nodes_of(url)
    except AuthenticationError as error:
        return f"{redis_errors.describe(at, error)}; correct {use.settings[0]}"
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        message = redis_errors.refusal(error)
        return message and f"Redis at {at} {message}"
    problems = await asyncio.gather(*(_problem_of(node.url, use, cluster) for node in found))
    return next(filter(None, problems), None)


async def _problem_of(url: str, use: _Use, cluster: bool) -> str | None:
    at = address(url)
    try:
        async with asyncio.timeout(_PATIENCE_S), connections.commands(url) as client:
            await client.ping()
            message = supported_servers.problem(await _info(client), cluster=cluster)
            if not message:
                await _try(client, use.commands)
    except (AuthenticationError, NoPermissionError) as error:
        return (
            f"{redis_errors.describe(at, error)}; correct {use.settings[0]}, or its user in Redis"
        )
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        message = redis_errors.refusal(error)
    return message and f"Redis at {at} {message}"


async def _try(client: Redis, commands: list[Command]) -> None:
    """Raise ``NoPermissionError`` for the first command that this user may not run."""
    for reply in await connections.ask(client, commands):
        if isinstance(reply, NoPermissionError):
            raise reply


async def _info(client: Redis) -> dict[str, Any]:
    """Return fields of INFO; none if this user may not run it, or the server has no INFO."""
    try:
        found = dict(await client.info("server"))
        return found | dict(await client.info("cluster"))
    except (RedisError, OSError):
        return {}
