"""URLs of Redis and of the broker in one spelling, checked with the certificates that they name."""

from berlin_worker.config import certificates, urls


def redis_address(url: str, setting: str) -> str:
    """Return the URL of a Redis in one spelling; an error names ``setting``.

    Raises :class:`SettingsError` for a URL, or a certificate that it names, that cannot be used.
    """
    parsed = urls.parse_redis(url, setting)
    certificates.check(dict(parsed.tls), setting)
    return parsed.url


def broker_address(url: str, setting: str) -> str:
    """Return the URL of a broker in one spelling; raises as :func:`redis_address` does."""
    found = urls.broker(url, setting)
    if urls.is_redis(found):
        return redis_address(found, setting)
    return found
