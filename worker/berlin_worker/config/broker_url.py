"""Translate the URL of the broker for kombu."""

import ssl
from typing import Any, Final, NamedTuple

from berlin_worker.config import urls
from berlin_worker.config.redis_url import RedisURL

_SENTINELS: Final = "berlin_worker.storage.kombu_sentinel:SentinelTransport"
_BOOLEANS: Final = frozenset({"ssl_check_hostname"})


class KombuBroker(NamedTuple):
    """Arguments of a kombu connection."""

    url: str
    transport_options: dict[str, Any]
    use_ssl: dict[str, Any] | None = None
    """Celery's ``broker_use_ssl``, if the URL cannot hold these options."""
    transport: str | None = None
    """Celery's ``broker_transport``: a module and a class, or ``None`` for kombu's own."""


def for_kombu(broker_url: str) -> KombuBroker:
    """Return the URL as kombu takes it, and what else belongs to it.

    Raises ``SettingsError``, without secrets, for a URL that cannot be used.
    """
    url = urls.broker(broker_url)
    if not urls.is_redis(url):
        return KombuBroker(url, {})
    redis = urls.parse_redis(url, "CELERY_BROKER_URL")
    options: dict[str, Any] = {}
    if redis.client_name is not None:
        options["client_name"] = redis.client_name
    if redis.topology == "single":
        return KombuBroker(redis.kombu_url, options)
    return _sentinels(redis, options)


def _sentinels(redis: RedisURL, options: dict[str, Any]) -> KombuBroker:
    # One Sentinel: our transport asks all. For the next URL kombu would use its own transport.
    first = redis.place.partition(",")[0]
    path = "" if redis.db is None else f"/{redis.db}"
    return KombuBroker(
        f"sentinel://{redis.userinfo}{first}{path}",
        options | {"primary_url": redis.url},
        tls_options(redis) or None,
        _SENTINELS,
    )


def tls_options(redis: RedisURL) -> dict[str, Any]:
    """Return the options of TLS with the types that redis-py takes; none without TLS."""
    if not redis.uses_tls:
        return {}
    found: dict[str, Any] = {
        name: value == "true" if name in _BOOLEANS else value for name, value in redis.tls
    }
    words = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
    return found | {"ssl_cert_reqs": words[found.get("ssl_cert_reqs", "required")]}
