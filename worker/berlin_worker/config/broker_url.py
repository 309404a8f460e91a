"""What kombu needs beside the URL of the broker: transport options, taken out of the URL."""

from typing import Any, Final

from berlin_worker.config import urls

_SENTINEL: Final[dict[str, Any]] = {
    # The first of them has often died with the primary: ask it once, for a moment, then the next.
    # By default redis-py asks eleven times, up to 5 s each.
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
    "retry": None,
}


def parted(broker_url: str) -> tuple[str, dict[str, Any]]:
    """The URL as kombu takes it, and transport options that go with it.

    ``sentinel://a:26379/0;sentinel://b:26379/0?master_name=queue`` lists Sentinels; the query of
    any of them names the primary (by default ``mymaster``). What stands before the ``@`` is the
    login at the primary. A Redis URL is translated from redis-py's spelling to kombu's. Raises
    ``SettingsError`` for a URL that makes no sense; it repeats no secret.
    """
    url = urls.broker(broker_url)
    scheme = url.partition("://")[0]
    if scheme == "sentinel":
        bare, primary = urls.sentinels(url)
        return bare, {"master_name": primary, "sentinel_kwargs": dict(_SENTINEL)}
    if scheme not in urls.REDIS_SCHEMES:
        return url, {}
    redis = urls.parse_redis(url, "CELERY_BROKER_URL")
    options = {} if redis.client_name is None else {"client_name": redis.client_name}
    return redis.kombu_url, options
