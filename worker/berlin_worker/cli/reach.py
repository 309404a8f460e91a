"""Whether Redis and the broker answer, asked once and quickly."""

from typing import Final

from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.transport import resolve_transport
from kombu.utils.url import parse_url as parse_broker_url
from redis import Redis
from redis.asyncio.connection import parse_url
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from berlin_worker.client import AsyncClient
from berlin_worker.client.addresses import address
from berlin_worker.client.broker_url import parted
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

TIMEOUT_S: Final = 3.0


def load_settings() -> Settings:
    """The settings; raises ``SettingsError`` also for a URL that none of the clients takes."""
    settings = Settings.from_env()
    urls = {"REDIS_URL": (settings.redis_url,), "WORKER_EVENT_SHARDS": settings.shards}
    for variable, each in urls.items():
        try:
            for url in each:
                parse_url(url)
        except ValueError:
            raise SettingsError(f"{variable} must be of the form redis://host:6379/0") from None
    if settings.broker_url != settings.redis_url:
        try:
            first = parted(settings.broker_url)[0].partition(";")[0]
            resolve_transport(parse_broker_url(first)["transport"])
        except (KeyError, ImportError, ValueError):
            told = "CELERY_BROKER_URL must be of the form redis://, sentinel:// or amqp://"
            raise SettingsError(told) from None
    return settings


def open_client() -> AsyncClient:
    """A client with the settings of the environment."""
    return AsyncClient(settings=load_settings())


def open_redis(url: str) -> Redis:
    """A client that gives up after a few seconds; raises ``ValueError`` for what is no URL."""
    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        encoding_errors="replace",  # a dead letter may hold anything
    )


def redis_problem(url: str) -> str | None:
    """One line without secrets, where Redis does not answer, or not to this user."""
    try:
        with open_redis(url) as client:
            client.ping()
    except AuthenticationError as error:
        return f"Redis at {address(url)} answers, but refuses the login: {reason(error)}"
    except (RedisError, OSError, ValueError) as error:
        return f"Redis at {address(url)} does not answer: {reason(error)}"
    return None


def broker_problem(settings: Settings) -> str | None:
    """Likewise for the broker, where that is not the same Redis."""
    url = settings.broker_url
    if url == settings.redis_url:
        return None
    timeouts = {"socket_connect_timeout": TIMEOUT_S, "socket_timeout": TIMEOUT_S}
    kombu_url, options = parted(url)
    if url.startswith(("redis", "sentinel")):
        options |= timeouts
    try:
        with Connection(  # type: ignore[no-untyped-call]  # kombu
            kombu_url, connect_timeout=TIMEOUT_S, transport_options=options
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_S)
    except (KombuError, OSError, KeyError, ImportError, ValueError) as error:
        return f"the broker at {address(url)} does not answer: {reason(error)}"
    return None


def reason(error: BaseException) -> str:
    """Why, in a few words; the text of a ``ValueError`` may repeat a URL, so it is left out."""
    if isinstance(error, ValueError):
        return "the URL makes no sense"
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
