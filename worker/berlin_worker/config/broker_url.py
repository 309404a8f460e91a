"""Split the URL of the broker into a URL and transport options for kombu."""

from typing import Any, Final

from berlin_worker.config import urls

_SENTINEL: Final[dict[str, Any]] = {
    # The first Sentinel may have died with the primary: ask each one once and briefly.
    # By default redis-py asks each eleven times, up to 5 s a time.
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
    "retry": None,
}


def parted(broker_url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL as kombu takes it, and the transport options that belong to it.

    ``sentinel://a:26379/0;sentinel://b:26379/0?master_name=queue`` lists Sentinels; the query of
    any of them names the primary (by default ``mymaster``). The login before the ``@`` is that of
    the primary. A Redis URL is translated from redis-py's spelling to kombu's. Raises
    ``SettingsError``, without secrets, for a URL that cannot be used.
    """
    url = urls.broker(broker_url)
    if url.startswith("sentinel:"):
        bare, primary = urls.sentinels(url)
        return bare, {"master_name": primary, "sentinel_kwargs": dict(_SENTINEL)}
    if not urls.is_redis(url):
        return url, {}
    redis = urls.parse_redis(url, "CELERY_BROKER_URL")
    options = {} if redis.client_name is None else {"client_name": redis.client_name}
    return redis.kombu_url, options
