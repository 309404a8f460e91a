"""The URLs of the settings, read once and strictly (pure).

Each reader returns a URL in one spelling, in which redis-py, kombu and :mod:`berlin_worker.client`
find the same servers, database, login and options. It raises ``SettingsError`` with one line that
names the setting and what to do, and repeats nothing that could belong to a password.
"""

import os
import re
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

from berlin_worker.config import redis_options, url_parts
from berlin_worker.config.redis_options import InvalidOption
from berlin_worker.config.redis_url import RedisURL, Topology
from berlin_worker.config.url_parts import ENCODE, Parts, split
from berlin_worker.errors import SettingsError

_TOPOLOGIES: Final[dict[str, Topology]] = {
    **dict.fromkeys(("redis", "rediss", "unix", "redis+socket"), "single"),
    **dict.fromkeys(("redis+sentinel", "rediss+sentinel"), "sentinel"),
    **dict.fromkeys(("redis+cluster", "rediss+cluster"), "cluster"),
}
"""Meaning of each scheme of a Redis URL."""
_AMQP_SCHEMES: Final = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
_AMQP_OPTIONS: Final[dict[str, tuple[re.Pattern[str], str]]] = {
    "heartbeat": (re.compile(r"[0-9]{1,4}"), "whole seconds, at most 9999"),
    "login_method": (re.compile(r"PLAIN|AMQPLAIN|EXTERNAL"), "PLAIN, AMQPLAIN or EXTERNAL"),
}
"""Options that kombu takes from a URL: a connect_timeout stays a text, which no socket takes."""

_FORMS: Final[dict[Topology, str]] = {
    "single": "redis://host:6379/0, rediss://host:6379/0 or unix:///run/redis.sock",
    "sentinel": "redis+sentinel://host1:26379,host2:26379/mymaster",
    "cluster": "redis+cluster://host1:6379,host2:6379",
}
_REDIS_FORM: Final = ", ".join(_FORMS.values())
_BROKER_FORM: Final = f"redis://host:6379/0, {_FORMS['sentinel']} or amqp://host:5672//"
NO_BROKER: Final = (
    "a Redis Cluster cannot hold the queue: set CELERY_BROKER_URL to another Redis, or to RabbitMQ"
)
_NOT_OF_CLUSTERS: Final = frozenset({"ssl_ca_path", "ssl_password"})
"""Options that redis-py's client of a cluster does not take."""
_LONGEST_SOCKET: Final = 107
"""Bytes of the path of a Unix socket that every system takes."""

PRIMARY: Final = "mymaster"
"""The default name of the primary in Sentinel's own configuration."""


def parse_redis(url: str, setting: str) -> RedisURL:
    """Parse a Redis URL. Raises ``SettingsError``, which names ``setting`` and no secret."""
    scheme = _scheme(url)
    topology = _TOPOLOGIES.get(scheme)
    if topology is None:
        hint = f"; Sentinels are named as {_FORMS['sentinel']}" if scheme == "sentinel" else ""
        raise SettingsError(f"{setting}: it must be of the form {_REDIS_FORM}{hint}; {ENCODE}")
    parts = split(url, setting, _FORMS[topology], several=topology != "single")
    tls = parts.scheme.startswith("rediss")
    try:
        options = redis_options.read(
            parts.query, tls=tls, sentinel=topology == "sentinel", show=parts.show
        )
    except InvalidOption as error:
        message = f"{setting}: {error}"
    else:
        found = RedisURL(
            scheme="rediss" if tls else "redis",
            place=parts.place,
            userinfo=parts.userinfo,
            client_name=options.get("client_name"),
            tls=tuple((name, text) for name, text in options.items() if name.startswith("ssl_")),
            topology=topology,
        )
        return _located(found, parts, options, setting)
    raise SettingsError(message)


def _located(found: RedisURL, parts: Parts, options: dict[str, str], setting: str) -> RedisURL:
    """Return ``found`` with the database, primary or socket that path and options name."""
    if found.topology == "cluster":
        db = _database(parts.path, options, setting)
        if db:
            raise SettingsError(f"{setting}: a cluster has no other database than 0: remove {db}")
        for name in _NOT_OF_CLUSTERS & options.keys():
            raise SettingsError(f"{setting}: the option {name} cannot be used with a cluster")
        return found
    if found.topology == "sentinel":
        name, slash, number = parts.path.removeprefix("/").partition("/")
        if not name:
            raise SettingsError(
                f"{setting}: the name of the primary is missing, as in {_FORMS['sentinel']}"
            )
        names = ("username", "password")
        login = tuple((k, options[f"sentinel_{k}"]) for k in names if f"sentinel_{k}" in options)
        db = _database(slash + number, options, setting)
        return replace(found, db=db, primary=unquote(name), sentinel_login=login)
    if parts.scheme in {"unix", "redis+socket"}:
        place = _socket(parts, setting)
        return replace(found, scheme="unix", place=place, db=_database(None, options, setting))
    return replace(found, db=_database(parts.path, options, setting))


def redis(url: str, setting: str = "REDIS_URL") -> str:
    """Return ``url`` in one spelling; raises as :func:`parse_redis` does."""
    return parse_redis(url, setting).url


def is_redis(url: str) -> bool:
    """Return whether a URL names a Redis, its Sentinels or its cluster."""
    return _scheme(url) in _TOPOLOGIES


def is_cluster(url: str) -> bool:
    """Return whether a URL names a Redis Cluster."""
    return _TOPOLOGIES.get(_scheme(url)) == "cluster"


def broker(url: str, setting: str = "CELERY_BROKER_URL") -> str:
    """Return the URL of the queue in one spelling, for :func:`config.broker_url.for_kombu`.

    Raises ``SettingsError``, which names ``setting`` and no secret.
    """
    url = url.strip()
    scheme = _scheme(url)
    if scheme == "memory":  # kombu's queue within one process, for tests
        return url
    if is_cluster(url):
        raise SettingsError(
            f"{setting}: a Redis Cluster cannot hold the queue: name another Redis, or RabbitMQ"
        )
    if is_redis(url):
        return redis(url, setting)
    if scheme == "sentinel":
        return _kombu_sentinels(url, setting).url
    if scheme in _AMQP_SCHEMES:
        return ";".join(_amqp(part, setting) for part in url_parts.split_list(url))
    raise SettingsError(f"{setting}: it must be of the form {_BROKER_FORM}; {ENCODE}")


def broker_of(redis_url: str, setting: str = "REDIS_URL") -> str:
    """Return the URL of the queue if none is set: that of the Redis itself.

    Raises ``SettingsError`` if it names a cluster, for which kombu has no transport.
    """
    if is_cluster(redis_url):
        raise SettingsError(f"{setting}: {NO_BROKER}")
    return redis_url


def _kombu_sentinels(url: str, setting: str) -> RedisURL:
    """Parse kombu's list of Sentinels: ``sentinel://a:26379/0;sentinel://b?master_name=queue``.

    The login before the ``@``, and the database, are those of the primary; kombu takes the first.
    """
    hosts: list[str] = []
    userinfos: list[str] = []
    databases: list[int] = []
    primaries = [PRIMARY]
    for text in url_parts.split_list(url):
        parts = split(text, setting, _BROKER_FORM)
        if parts.scheme != "sentinel":
            raise SettingsError(f"{setting}: each URL of a list must begin with sentinel://")
        db = _database(parts.path, {}, setting)
        hosts.append(parts.place or "127.0.0.1")
        userinfos += [parts.userinfo] if parts.userinfo else []
        databases += [] if db is None else [db]
        for name, value in parts.query:
            if name != "master_name" or not value:
                named = f", not {name}" if parts.show and name.isidentifier() else ""
                raise SettingsError(
                    f"{setting}: sentinel:// takes master_name alone{named}; for everything else "
                    f"write {_FORMS['sentinel']}"
                )
            primaries.append(value)
    if len({*userinfos}) > 1 or len({*databases}) > 1:
        raise SettingsError(f"{setting}: the Sentinels of a list need one login and one database")
    return RedisURL(
        scheme="redis",
        place=",".join(hosts),
        userinfo=next(iter(userinfos), ""),
        db=next(iter(databases), None),
        topology="sentinel",
        primary=primaries[-1],
    )


def http(url: str, setting: str, *, login: bool) -> str:
    """Return the URL of an upstream or a proxy, unchanged; with ``login`` it may hold a login.

    Raises ``SettingsError``, which names ``setting`` and no secret.
    """
    form = "http://host:port" if login else "https://host"
    parts = split(url, setting, form)
    if parts.scheme not in {"http", "https"} or not url_parts.names_host(url):
        raise SettingsError(f"{setting}: it must be of the form {form}; {ENCODE}")
    if parts.userinfo and not login:
        raise SettingsError(f"{setting}: it must be of the form {form}, without a login")
    return url


def api(url: str, setting: str) -> str:
    """Return the base URL of an API, without a slash at its end; raises as :func:`http` does."""
    url = http(url.strip(), setting, login=False)
    if "?" in url:
        raise SettingsError(f"{setting}: it must be of the form https://host/v1, without a query")
    return url.rstrip("/")


def _scheme(url: str) -> str:
    """Return the scheme in lower case, or nothing if the URL has none."""
    scheme, separator, _ = url.strip().partition("://")
    return scheme.lower() if separator else ""


def _socket(parts: Parts, setting: str) -> str:
    """Return the path of a Unix socket."""
    path = unquote(parts.path)
    form = "the path of the socket must be absolute, as in unix:///run/redis.sock"
    if parts.place or len(path) <= 1:
        shown = parts.show and not parts.userinfo and ":" not in parts.place
        named = f", not {parts.place + path!a}" if shown and parts.place + path else ""
        raise SettingsError(f"{setting}: {form}{named}")
    if len(os.fsencode(path)) > _LONGEST_SOCKET or "\x00" in path:
        raise SettingsError(f"{setting}: the path of a socket has at most {_LONGEST_SOCKET} bytes")
    return path


def _database(path: str | None, options: dict[str, str], setting: str) -> int | None:
    """Return the number of the database. An option overrides the path, as in redis-py."""
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
    parts = split(url, setting, _BROKER_FORM)
    if parts.scheme not in _AMQP_SCHEMES or ";" in parts.path:
        raise SettingsError(f"{setting}: each URL of a list must begin with amqp://; {ENCODE}")
    for name, value in parts.query:
        if name not in _AMQP_OPTIONS:
            named = f"the option {name}" if parts.show and name.isidentifier() else "an option"
            listed = ", ".join(sorted(_AMQP_OPTIONS))
            raise SettingsError(f"{setting}: {named} cannot be used with RabbitMQ, only {listed}")
        pattern, expected = _AMQP_OPTIONS[name]
        if not pattern.fullmatch(value):
            raise SettingsError(f"{setting}: the option {name} must be {expected}")
    return (
        f"{parts.scheme}://{parts.userinfo}{parts.place}{parts.path}{url_parts.query(parts.query)}"
    )
