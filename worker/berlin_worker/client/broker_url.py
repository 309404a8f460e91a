"""What kombu wants to be told of the broker beside its URL, taken out of it."""

from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from berlin_worker.errors import SettingsError

_PRIMARY: Final = "mymaster"
"""What Sentinel's own configuration calls the primary, unless it is changed."""
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
    login at the primary. Other URLs stay as they are. Raises ``SettingsError`` for a query that
    says anything else.
    """
    if not broker_url.startswith("sentinel://"):
        return broker_url, {}
    parts = [urlsplit(part) for part in broker_url.split(";")]
    said = dict(pair for part in parts for pair in parse_qsl(part.query, keep_blank_values=True))
    primary = said.pop("master_name", _PRIMARY)
    if said:
        told = f"CELERY_BROKER_URL: Sentinels take master_name alone, not {', '.join(sorted(said))}"
        raise SettingsError(told)
    bare = ";".join(part._replace(query="").geturl() for part in parts)
    return bare, {"master_name": primary, "sentinel_kwargs": dict(_SENTINEL)}
