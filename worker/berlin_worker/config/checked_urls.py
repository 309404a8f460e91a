"""URLs of Redis and the broker whose certificates have been read."""

from collections.abc import Mapping

from berlin_worker.config import certificates, urls


def redis_address(url: str, setting: str, tls: Mapping[str, str]) -> str:
    """Return the URL of a Redis in one spelling; an error names ``setting``.

    With TLS it has the options ``tls`` that it lacks, see ``Settings.redis_tls``. Raises
    ``SettingsError`` for a URL, or a certificate that it names, that cannot be used.
    """
    parsed = urls.parse_redis(url, setting).with_tls(tls)
    certificates.check(dict(parsed.tls), setting)
    return parsed.url


def broker_address(url: str, setting: str, tls: Mapping[str, str]) -> str:
    """Return the URL of a broker in one spelling; raises as :func:`redis_address` does."""
    found = urls.broker(url, setting)
    if urls.is_redis(found):
        return redis_address(found, setting, tls)
    return found


def queue_address(url: str, redis_url: str, tls: Mapping[str, str], *, needed: bool) -> str:
    """Return the URL of the queue in one spelling: ``url``, or else ``redis_url``.

    A cluster cannot hold the queue. If ``redis_url`` names one, return "", or raise
    ``SettingsError`` if a queue is ``needed``. Raises as :func:`redis_address` does.
    """
    if url:
        return broker_address(url, "CELERY_BROKER_URL", tls)
    return "" if urls.is_cluster(redis_url) and not needed else urls.broker_of(redis_url)
