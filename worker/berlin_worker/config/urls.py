"""The URLs of the settings, read once and strictly (pure).

Each reader returns a URL in one spelling, in which redis-py, kombu and :mod:`berlin_worker.client`
find the same server, database, login and options. It raises ``SettingsError`` with one line that
names the setting and what to do. No line repeats anything that could belong to a password: a
special character that is not percent-encoded moves a part of it to another place of the URL.
"""

import os
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from berlin_worker.config import redis_options
from berlin_worker.config.redis_options import InvalidOption
from berlin_worker.errors import SettingsError

REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "unix", "redis+socket"})
_AMQP_SCHEMES: Final = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
_AMQP_OPTIONS: Final = frozenset({"heartbeat", "connect_timeout", "login_method"})
_CLUSTER_SCHEMES: Final = frozenset({"redis+cluster", "rediss+cluster"})
_SENTINEL_SCHEMES: Final = frozenset({"redis+sentinel", "rediss+sentinel", "sentinel"})

_REDIS_FORM: Final = "redis://host:6379/0, rediss://host:6379/0 or unix:///run/redis.sock"
_BROKER_FORM: Final = "redis://host:6379/0, sentinel://host:26379/0 or amqp://host:5672//"
_ENCODE: Final = (
    "special characters of a password must be percent-encoded (/ as %2F, # as %23, ? as %3F, "
    "@ as %40, : as %3A, % as %25, a comma as %2C, a space as %20)"
)

# RFC 3986, appendix B. urlsplit would raise errors that repeat parts of the URL.
_PARTS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?")
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:@%\s\\<>\"]*)(?::([0-9]{1,5}))?"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LIST: Final = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_HIGHEST_PORT: Final = 65535
_LONGEST_SOCKET: Final = 107
"""Bytes of the path of a Unix socket that every system takes."""

PRIMARY: Final = "mymaster"
"""The default name of the primary in Sentinel's own configuration."""


@dataclass(frozen=True, slots=True)
class RedisURL:
    """A Redis: where it is, as whom, which database, and how to connect."""

    scheme: str
    """``redis``, ``rediss`` or ``unix``."""
    place: str
    """Host and port as they were written, or the path of a socket."""
    userinfo: str = field(repr=False)
    """User and password before the ``@``, percent-encoded; with the ``@``, or empty."""
    db: int | None = None
    client_name: str | None = None
    tls: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """The options of redis-py whose names begin with ``ssl_``."""

    @property
    def url(self) -> str:
        """The URL as redis-py takes it."""
        options = list(self.tls)
        if self.client_name is not None:
            options.append(("client_name", self.client_name))
        if self.scheme == "unix" and self.db is not None:
            options.append(("db", str(self.db)))
        return f"{self.scheme}://{self.userinfo}{self._path()}{_query(options)}"

    @property
    def kombu_url(self) -> str:
        """The URL as kombu takes it, for which the name of the client is a transport option."""
        if self.scheme == "unix":
            db = [] if self.db is None else [("virtual_host", str(self.db))]
            return f"redis+socket://{self.userinfo}{self._path()}{_query(db)}"
        # Without an option of TLS kombu would connect in plain text.
        needed = [("ssl_cert_reqs", "required")] if self.scheme == "rediss" else []
        options = needed if not any(name == "ssl_cert_reqs" for name, _ in self.tls) else []
        return f"{self.scheme}://{self.userinfo}{self._path()}{_query([*options, *self.tls])}"

    def _path(self) -> str:
        if self.scheme == "unix":
            return quote(self.place)
        return self.place if self.db is None else f"{self.place}/{self.db}"


@dataclass(frozen=True, slots=True)
class _Parts:
    scheme: str
    userinfo: str
    host: str
    path: str
    query: list[tuple[str, str]]
    show: bool
    """Whether the text after the host cannot be a part of a password."""


def parse_redis(url: str, setting: str) -> RedisURL:
    """Parse a Redis URL. Raises ``SettingsError``, which names ``setting`` and no secret."""
    _check_scheme(url, setting, _REDIS_FORM, REDIS_SCHEMES)
    parts = _split(url, setting, _REDIS_FORM)
    unix = parts.scheme in {"unix", "redis+socket"}
    try:
        options = redis_options.read(parts.query, tls=parts.scheme == "rediss", show=parts.show)
    except InvalidOption as error:
        message = f"{setting}: {error}"
    else:
        place = _socket(parts, setting) if unix else parts.host
        return RedisURL(
            scheme="unix" if unix else parts.scheme,
            place=place,
            userinfo=parts.userinfo,
            db=_database(None if unix else parts.path, options, setting),
            client_name=options.get("client_name"),
            tls=tuple((name, text) for name, text in options.items() if name.startswith("ssl_")),
        )
    raise SettingsError(message)


def redis(url: str, setting: str = "REDIS_URL") -> str:
    """Return ``url`` as redis-py takes it; raises as :func:`parse_redis` does."""
    return parse_redis(url, setting).url


def is_redis(url: str) -> bool:
    """Return whether a URL, in the spelling of this module, names a Redis and no Sentinel."""
    return url.partition("://")[0] in REDIS_SCHEMES


def broker(url: str, setting: str = "CELERY_BROKER_URL") -> str:
    """Return the URL of the queue in one spelling, for :func:`config.broker_url.parted`.

    Raises ``SettingsError``, which names ``setting`` and no secret.
    """
    url = url.strip()
    scheme = url.partition("://")[0].lower()
    if scheme == "memory":  # kombu's queue within one process, for tests
        return url
    if scheme in REDIS_SCHEMES:
        return redis(url, setting)
    if scheme == "sentinel":
        bare, primary = sentinels(url, setting)
        return bare if primary == PRIMARY else f"{bare}?master_name={quote(primary, safe='')}"
    if scheme in _AMQP_SCHEMES:
        return ";".join(_amqp(part, setting) for part in _LIST.split(url))
    _check_scheme(url, setting, _BROKER_FORM, frozenset())
    raise AssertionError("every scheme that is supported has been read by now")


def sentinels(url: str, setting: str = "CELERY_BROKER_URL") -> tuple[str, str]:
    """Return a list of Sentinels without its query, and the name of their primary.

    Raises ``SettingsError``, which names ``setting`` and no secret.
    """
    found: dict[str, str] = {}
    bare = []
    for text in _LIST.split(url.strip()):
        parts = _split(text, setting, _BROKER_FORM)
        if parts.scheme != "sentinel":
            raise SettingsError(f"{setting}: each URL of a list must begin with sentinel://")
        db = _database(parts.path, {}, setting)
        path = "" if db is None else f"/{db}"
        bare.append(f"sentinel://{parts.userinfo}{parts.host}{path}")
        for name, value in parts.query:
            if name != "master_name" or not value:
                named = f", not {name}" if parts.show and name.isidentifier() else ""
                raise SettingsError(f"{setting}: Sentinels take master_name alone{named}")
            found[name] = value
    return ";".join(bare), found.get("master_name", PRIMARY)


def http(url: str, setting: str, *, login: bool) -> str:
    """Return the URL of an upstream or a proxy, unchanged; with ``login`` it may hold a login.

    Raises ``SettingsError``, which names ``setting`` and no secret.
    """
    form = "http://host:port" if login else "https://host"
    parts = _split(url, setting, form)
    if parts.scheme not in {"http", "https"} or not parts.host or not _standard(url):
        raise SettingsError(f"{setting}: it must be of the form {form}; {_ENCODE}")
    if parts.userinfo and not login:
        raise SettingsError(f"{setting}: it must be of the form {form}, without a login")
    return url


def api(url: str, setting: str) -> str:
    """Return the base URL of an API, without a slash at its end; raises as :func:`http` does."""
    url = http(url.strip(), setting, login=False)
    if "?" in url:
        raise SettingsError(f"{setting}: it must be of the form https://host/v1, without a query")
    return url.rstrip("/")


def _standard(url: str) -> bool:
    """Return whether the standard library can read the URL, too."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _split(url: str, setting: str, form: str) -> _Parts:
    text = url.strip()
    match = _PARTS.fullmatch(text)
    if match is None or _CONTROL.search(text):
        raise SettingsError(f"{setting}: it must be of the form {form}; {_ENCODE}")
    scheme, authority, path, query, fragment = match.groups(default="")
    login, at, place = authority.rpartition("@")
    host = _HOST.fullmatch(place)
    # What follows an unencoded "/", "?" or "#" in a password holds the "@" that ends it.
    if (
        host is None
        or fragment
        or "@" in path + query
        or int(host[1] or 1) not in range(1, _HIGHEST_PORT + 1)
    ):
        raise SettingsError(f"{setting}: it cannot be read as {form}; {_ENCODE}")
    user, colon, password = login.partition(":")
    userinfo = f"{_encoded(user)}{colon}{_encoded(password)}{at}"
    pairs = parse_qsl(query, keep_blank_values=True)
    return _Parts(scheme.lower(), userinfo, place, path, pairs, "%40" not in text)


def _check_scheme(url: str, setting: str, form: str, supported: frozenset[str]) -> None:
    """Raise ``SettingsError`` for a scheme that is not ``supported``."""
    scheme, separator, _ = url.strip().partition("://")
    scheme = scheme.lower()
    if separator and scheme in supported:
        return
    if separator and scheme in _CLUSTER_SCHEMES:
        message = f"a Redis Cluster is not supported yet; it must be of the form {form}"
    elif separator and scheme in _SENTINEL_SCHEMES:
        message = (
            f"{scheme}:// is not supported yet; Sentinels are supported for the queue alone, "
            "as CELERY_BROKER_URL=sentinel://host:26379/0?master_name=mymaster"
        )
    else:
        message = f"it must be of the form {form}; {_ENCODE}"
    raise SettingsError(f"{setting}: {message}")


def _socket(parts: _Parts, setting: str) -> str:
    """Return the path of a Unix socket."""
    path = unquote(parts.path)
    form = "the path of the socket must be absolute, as in unix:///run/redis.sock"
    if parts.host or len(path) <= 1:
        shown = parts.show and not parts.userinfo and ":" not in parts.host
        named = f", not {parts.host + path!a}" if shown and parts.host + path else ""
        raise SettingsError(f"{setting}: {form}{named}")
    if len(os.fsencode(path)) > _LONGEST_SOCKET or "\x00" in path:
        raise SettingsError(f"{setting}: the path of a socket has at most {_LONGEST_SOCKET} bytes")
    return path


def _database(path: str | None, options: dict[str, str], setting: str) -> int | None:
    """Return the number of the database. An option comes before the path, as in redis-py."""
    named = {int(options[name]) for name in ("db", "virtual_host") if name in options}
    if len(named) > 1:
        raise SettingsError(f"{setting}: the options db and virtual_host differ: keep one")
    if path not in {None, "", "/"}:
        number = str(path)[1:].removesuffix("/")
        if not re.fullmatch(r"[0-9]{1,9}", number):
            raise SettingsError(
                f"{setting}: the path must be the number of a database, as in redis://host:6379/0"
            )
        named = named or {int(number)}
    return next(iter(named), None)


def _amqp(url: str, setting: str) -> str:
    parts = _split(url, setting, _BROKER_FORM)
    if parts.scheme not in _AMQP_SCHEMES or ";" in parts.path:
        raise SettingsError(f"{setting}: each URL of a list must begin with amqp://; {_ENCODE}")
    for name, value in parts.query:
        if name not in _AMQP_OPTIONS or not value:
            named = f"the option {name}" if parts.show and name.isidentifier() else "an option"
            listed = ", ".join(sorted(_AMQP_OPTIONS))
            raise SettingsError(f"{setting}: {named} cannot be used with RabbitMQ, only {listed}")
    return f"{parts.scheme}://{parts.userinfo}{parts.host}{parts.path}{_query(parts.query)}"


def _encoded(text: str) -> str:
    return quote(unquote(text), safe="")


def _query(options: list[tuple[str, Any]]) -> str:
    # A comma separates event stores, a semicolon the brokers of a list.
    pairs = (f"{name}={quote(str(value), safe='/')}" for name, value in options)
    return "?" + "&".join(pairs) if options else ""
