"""A Redis, its Sentinels or its cluster, as a URL names them (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Self
from urllib.parse import quote, unquote

from berlin_worker.config import url_parts

Topology = Literal["single", "sentinel", "cluster"]

DEFAULT_PORTS: Final[dict[Topology, int]] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_OWN_CERTIFICATE: Final = frozenset({"ssl_certfile", "ssl_keyfile"})


@dataclass(frozen=True, slots=True)
class RedisURL:
    """A Redis: its address, login and database, and the options of a connection."""

    scheme: str
    """``redis``, ``rediss`` or ``unix``: how each server is reached, Sentinels included."""
    place: str
    """Host and port as they were written, the path of a socket, or hosts separated by commas."""
    userinfo: str = field(repr=False)
    """User and password before the ``@``, percent-encoded; with the ``@``, or empty."""
    db: int | None = None
    client_name: str | None = None
    tls: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """The options of redis-py whose names begin with ``ssl_``."""
    topology: Topology = "single"
    """Kind of ``place``: one server, Sentinels of a primary, or nodes of a cluster."""
    primary: str = ""
    """The name of the primary in the configuration of the Sentinels."""
    sentinel_login: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """``username`` and ``password`` for the Sentinels; ``userinfo`` is for the primary."""

    @property
    def url(self) -> str:
        """The URL in one spelling; for a single server, as redis-py takes it."""
        if self.topology == "single":
            return self.at(self.place)
        path = f"/{quote(self.primary, safe='')}" if self.topology == "sentinel" else ""
        if self.db is not None:
            path += f"/{self.db}"
        options = [*self._options(), *((f"sentinel_{k}", text) for k, text in self.sentinel_login)]
        begin = f"{self.scheme}+{self.topology}://{self.userinfo}{self.place}"
        return f"{begin}{path}{url_parts.query(options)}"

    def at(self, place: str) -> str:
        """Return the URL of one server at ``place``, as redis-py takes it, with all options."""
        options = self._options()
        if self.scheme == "unix" and self.db is not None:
            options.append(("db", str(self.db)))
        return f"{self.scheme}://{self.userinfo}{self._path(place)}{url_parts.query(options)}"

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each server that the URL names; not for a socket."""
        port = DEFAULT_PORTS[self.topology]
        return tuple(url_parts.node(host, port) for host in self.place.split(","))

    @property
    def uses_tls(self) -> bool:
        """Whether every connection is encrypted."""
        return self.scheme == "rediss"

    @property
    def kombu_url(self) -> str:
        """The URL of a single server as kombu takes it, without the name of the client."""
        if self.scheme == "unix":
            db = [] if self.db is None else [("virtual_host", str(self.db))]
            return f"redis+socket://{self.userinfo}{self._path(self.place)}{url_parts.query(db)}"
        # Without an option of TLS kombu would connect in plain text.
        needed = [("ssl_cert_reqs", "required")] if self.uses_tls else []
        options = needed if not any(name == "ssl_cert_reqs" for name, _ in self.tls) else []
        query = url_parts.query([*options, *self.tls])
        return f"{self.scheme}://{self.userinfo}{self._path(self.place)}{query}"

    def with_tls(self, options: Mapping[str, str]) -> Self:
        """Return this URL with the ``ssl_`` options that it lacks; without TLS as it is.

        A certificate and its key belong together: if the URL names its own certificate, neither is
        taken from ``options``.
        """
        if not self.uses_tls:
            return self
        own = dict(self.tls)
        taken = _OWN_CERTIFICATE if "ssl_certfile" in own else frozenset()
        added = {name: path for name, path in options.items() if name not in taken}
        if "ssl_ca_path" in own:
            added.pop("ssl_ca_certs", None)
        return replace(self, tls=tuple({**added, **own}.items()))

    @property
    def login(self) -> tuple[str, str]:
        """User and password, decoded; empty if not given."""
        user, _, password = self.userinfo.removesuffix("@").partition(":")
        return unquote(user), unquote(password)

    def _options(self) -> list[tuple[str, str]]:
        named = [] if self.client_name is None else [("client_name", self.client_name)]
        return [*self.tls, *named]

    def _path(self, place: str) -> str:
        if self.scheme == "unix":
            return quote(place)
        return place if self.db is None else f"{place}/{self.db}"
