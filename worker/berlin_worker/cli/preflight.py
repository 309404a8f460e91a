"""Check once, with short timeouts, whether Redis and the broker answer."""

from collections.abc import Mapping
from typing import Any, Final

from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from berlin_worker.client import AsyncClient
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.config.checked_urls import redis_address
from berlin_worker.settings import Settings
from berlin_worker.storage import connections, supported_servers
from berlin_worker.storage.blocking_cluster import ping
from berlin_worker.storage.redis_errors import refusal, reply_of

TIMEOUT_S: Final = 3.0


def load_settings(*, needs_broker: bool = False) -> Settings:
    """Return the settings of the environment. Raises ``SettingsError`` for an invalid one."""
    return Settings.from_env(needs_broker=needs_broker)


def open_client(*, submits: bool = False) -> AsyncClient:
    """Return a client with the settings of the environment; raises as :func:`load_settings`."""
    return AsyncClient(settings=load_settings(needs_broker=submits))


def open_redis(url: str) -> Redis:
    """Return a client with short timeouts. Raises ``SettingsError`` for an invalid URL."""
    return connections.blocking(
        redis_address(url, "REDIS_URL", {}),
        timeout_s=TIMEOUT_S,
        decode_responses=True,
        encoding_errors="replace",  # a dead letter may hold any bytes
    )


def redis_problem(url: str) -> str | None:
    """Return one line without secrets if Redis cannot be used, ``None`` if it can."""
    at = address(url)
    try:
        with open_redis(url) as client:
            ping(client)
            cluster = urls.is_cluster(url)
            # A cluster is asked node by node (cli/doctor/topology.py).
            info = {} if cluster else server_info(client)
            message = supported_servers.problem(info, cluster=cluster)
    except AuthenticationError as error:
        return f"Redis at {at} answers, but refuses the login: {reason(error)}"
    except (RedisError, OSError, ValueError) as error:
        message = refusal(error) or f"does not answer: {reason(error)}"
    return message and f"Redis at {at} {message}"


def server_info(redis: Redis) -> dict[str, Any]:
    """Return INFO of server and cluster, or an empty object if Redis refuses INFO."""
    try:
        return {**_section(redis, "server"), **_section(redis, "cluster")}
    except (RedisError, OSError):  # fakeredis closes the connection after an error
        redis.connection_pool.disconnect()
        return {}


def allowed_info(redis: Redis, section: str) -> Mapping[str, Any]:
    """Return a section of INFO, or an empty object if the server refuses it.

    Raises redis-py's errors if the server does not answer.
    """
    try:
        return _section(redis, section)
    except ResponseError:  # an ACL, or fakeredis, which closes the connection after an error
        redis.connection_pool.disconnect()
        return {}


def _section(redis: Redis, section: str) -> Mapping[str, Any]:
    found: Any = redis.info(section)
    return found if isinstance(found, Mapping) else {}


def broker_problem(settings: Settings) -> str | None:
    """Return one line without secrets if a separate broker does not answer."""
    url = settings.broker_url
    if url == settings.redis_url:
        return None
    if not url:
        return urls.NO_BROKER
    if urls.is_redis(url):
        message = redis_problem(url)
        return message and f"the broker: {message}"
    try:
        with Connection(  # type: ignore[no-untyped-call]  # kombu
            for_kombu(url).url, connect_timeout=TIMEOUT_S
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_S)
    except AMQPError as error:  # not of kombu: a wrong password, or an unknown virtual host
        return f"the broker at {address(url)} answers, but refuses: {reason(error)}"
    except (KombuError, OSError, KeyError, ImportError, ValueError) as error:
        return f"the broker at {address(url)} does not answer: {reason(error)}"
    return None


def reason(error: BaseException) -> str:
    """Return the reason in a few words, without URLs, which a ``ValueError`` may hold."""
    if isinstance(error, ValueError):
        return "the URL is not valid"
    return reply_of(error).splitlines()[0].rstrip(".")
