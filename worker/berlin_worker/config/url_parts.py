"""Split a URL strictly into its parts (pure).

No error repeats anything that could belong to a password: a special character that is not
percent-encoded moves a part of it to another place of the URL.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from berlin_worker.errors import SettingsError

ENCODE: Final = (
    "special characters of a password must be percent-encoded (/ as %2F, # as %23, ? as %3F, "
    "@ as %40, : as %3A, % as %25, a comma as %2C, a space as %20)"
)

# RFC 3986, appendix B. urlsplit would raise errors that repeat parts of the URL.
_PARTS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?")
_HOST: Final = re.compile(
    r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:@%,\s\\<>\"]*)(?::([0-9]{1,5}))?"
)
_PLAIN_HOST: Final = re.compile(r"(?!.*xn--)[a-z0-9._-]+", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_LIST: Final = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_HIGHEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a URL."""

    scheme: str
    """In lower case."""
    userinfo: str
    """User and password, percent-encoded; with the ``@``, or empty."""
    hosts: tuple[str, ...]
    """Each host, with its port if one was written."""
    path: str
    query: list[tuple[str, str]]
    show: bool
    """Whether the text after the host cannot be a part of a password."""

    @property
    def place(self) -> str:
        """The hosts as they were written."""
        return ",".join(self.hosts)


def split(url: str, setting: str, form: str, *, several: bool = False) -> Parts:
    """Return the parts of a URL, which names one host, or with ``several`` one or more.

    ``form`` is the form that an error asks for. Raises ``SettingsError``, which names ``setting``.
    """
    text = url.strip()
    match = _PARTS.fullmatch(text)
    if match is None or _CONTROL.search(text):
        raise SettingsError(f"{setting}: it must be of the form {form}; {ENCODE}")
    scheme, authority, path, query, fragment = match.groups(default="")
    login, at, place = authority.rpartition("@")
    hosts = tuple(place.split(",")) if several else (place,)
    # If a password has an unencoded "/", "?" or "#", the "@" that ends the login comes after it.
    if fragment or "@" in path + query or not all(map(_is_host, hosts)):
        raise SettingsError(f"{setting}: it cannot be read as {form}; {ENCODE}")
    # An "@" in the login may end the login of the first of several hosts.
    if several and ("@" in login or not all(host.partition(":")[0] for host in hosts)):
        raise SettingsError(
            f"{setting}: it cannot be read as {form}, with one login for all hosts; {ENCODE}"
        )
    user, colon, password = login.partition(":")
    userinfo = f"{encoded(user)}{colon}{encoded(password)}{at}"
    pairs = parse_qsl(query, keep_blank_values=True)
    return Parts(scheme.lower(), userinfo, hosts, path, pairs, "%40" not in text)


def split_list(urls: str) -> list[str]:
    """Return the URLs of a list in which semicolons separate them."""
    return _LIST.split(urls.strip())


def node(host: str, default_port: int) -> tuple[str, int]:
    """Return the name or address, without brackets, and the port of one of :attr:`Parts.hosts`."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, str(default_port)
    return name.removeprefix("[").removesuffix("]"), int(port)


def names_host(url: str) -> bool:
    """Return whether the standard library, and yarl for aiohttp, find a host in the URL."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return False
        if _PLAIN_HOST.fullmatch(parts.hostname):
            return True
        from yarl import URL  # noqa: PLC0415  # 20 ms, of which clients and readers need nothing

        return bool(URL(url).host)
    except ValueError:
        return False


def encoded(text: str) -> str:
    """Return ``text``, which may be percent-encoded, percent-encoded as a whole."""
    return quote(unquote(text), safe="")


def query(options: Iterable[tuple[str, Any]]) -> str:
    """Return a query with its ``?``, or nothing if there are no options."""
    # A semicolon separates the brokers of a list.
    pairs = [f"{name}={quote(str(value), safe='/')}" for name, value in options]
    return "?" + "&".join(pairs) if pairs else ""


def _is_host(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return (
        found is not None
        and int(found[2] or 1) in range(1, _HIGHEST_PORT + 1)
        and _is_name(found[1])
    )


def _is_name(name: str) -> bool:
    """Return whether the name can be looked up; an empty one is the library's default."""
    try:
        if name.startswith("["):
            ipaddress.IPv6Address(name[1:-1])
        else:
            name.encode("idna")
            urlsplit(f"//{name}")  # refuses characters that stand for a delimiter, such as "\u2100"
    except ValueError:
        return False
    return True
