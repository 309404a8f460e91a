"""The IDs of the newest jobs, for completion: within 0.3 s, or none.

redis-py takes longer to import than a user waits for TAB, so this module uses hiredis directly.
It supports `redis://`, `rediss://` and `unix://`, and returns no jobs for other URLs.
"""

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

if TYPE_CHECKING:
    import ssl

TIMEOUT_S: Final = 0.3
THREAD: Final = "recent-jobs"
_MOST: Final = 50
_JOBS: Final = "worker:jobs"
"""Value of ``berlin_schemas.names.JOBS``, whose package takes 0.25 s to import."""


def recent_jobs(environ: Mapping[str, str]) -> list[str]:
    """Return up to 50 job IDs, newest first, or none if Redis does not answer in time."""
    found: list[str] = []
    # In a thread, because DNS and a TLS handshake do not keep to a timeout.
    thread = threading.Thread(target=_collect, args=(environ, found), name=THREAD, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return list(found)


def _collect(environ: Mapping[str, str], found: list[str]) -> None:
    with contextlib.suppress(Exception):  # completion shows no errors
        found.extend(_newest(environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"))


def _newest(url: str) -> list[str]:
    connection, commands = _connect(url)
    with connection:
        commands.append(("ZREVRANGE", _JOBS, "0", str(_MOST - 1)))
        for command in commands:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # the stub allows tuples of one word only
        reader = hiredis.Reader()
        for left in range(len(commands), 0, -1):
            while (reply := reader.gets()) is False:
                data = connection.recv(65536)
                if not data:
                    return []
                reader.feed(data)
            if isinstance(reply, hiredis.ReplyError):
                return []
            if left == 1:
                return [member.decode("ascii", "replace") for member in reply]
    return []


def _connect(url: str) -> tuple[socket.socket, list[tuple[str, ...]]]:
    """Return a connection and its first commands. Raises ``ValueError`` for other schemes."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme == "unix":
        connection = _opened(socket.AF_UNIX, unquote(parts.path))
        database = query.get("db", "")
    elif parts.scheme in {"redis", "rediss"}:
        host, port = parts.hostname or "localhost", parts.port or 6379
        context = _tls(query) if parts.scheme == "rediss" else None
        connection = _connected(host, port, context)
        database = query.get("db") or parts.path.strip("/")
    else:
        raise ValueError(parts.scheme)
    commands: list[tuple[str, ...]] = []
    if parts.password:
        login = (unquote(parts.username),) if parts.username else ()
        commands.append(("AUTH", *login, unquote(parts.password)))
    if database not in {"", "0"}:
        commands.append(("SELECT", database))
    return connection, commands


def _tls(query: Mapping[str, str]) -> "ssl.SSLContext":
    import ssl

    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
    if query.get("ssl_cert_reqs", "").lower().removeprefix("cert_") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _connected(host: str, port: int, context: "ssl.SSLContext | None") -> socket.socket:
    """Connect to the first address of the host that answers. Raises ``OSError``."""
    failure = OSError(f"{host} has no address")
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return _opened(family, place, context, host)
        except OSError as error:
            failure = error
    raise failure


def _opened(
    family: int, place: Any, context: "ssl.SSLContext | None" = None, host: str | None = None
) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(TIMEOUT_S)
        if context is not None:
            # Wrapped before it connects: a reset in between would leak the socket.
            connection = context.wrap_socket(connection, server_hostname=host)
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection
