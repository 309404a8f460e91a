"""The IDs of the newest jobs, for completion: within a third of a second, or none.

redis-py takes longer to import than a user waits for TAB, so this speaks the protocol itself, by
hiredis. It knows `redis://`, `rediss://` and `unix://`; for anything else nothing is completed.
"""

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

TIMEOUT_S: Final = 0.3
THREAD: Final = "recent-jobs"
_MOST: Final = 50
_JOBS: Final = "worker:jobs"
"""``berlin_schemas.names.JOBS``, whose package takes a quarter of a second to import."""


def recent_jobs(environ: Mapping[str, str]) -> list[str]:
    """Return up to 50 job IDs, newest first; none if Redis does not answer in time."""
    found: list[str] = []
    # A thread, since neither the look-up of a name nor a TLS handshake keeps to a timeout.
    thread = threading.Thread(target=_collect, args=(environ, found), name=THREAD, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return list(found)


def _collect(environ: Mapping[str, str], found: list[str]) -> None:
    shards = filter(
        None, (url.strip() for url in environ.get("WORKER_EVENT_SHARDS", "").split(","))
    )
    urls = list(shards) or [environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"]
    listed: list[tuple[float, str]] = []
    for url in urls:
        try:
            listed += _newest(url)
        except Exception:  # noqa: BLE001, S112  # whatever is wrong, a TAB shows no error
            continue
    listed.sort(reverse=True)
    found.extend(job_id for _, job_id in listed[:_MOST])


def _newest(url: str) -> list[tuple[float, str]]:
    connection, commands = _connect(url)
    with connection:
        commands.append(("ZREVRANGE", _JOBS, "0", str(_MOST - 1), "WITHSCORES"))
        for command in commands:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub takes one word alone
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
                return _pairs(reply)
    return []


def _pairs(reply: Sequence[bytes]) -> list[tuple[float, str]]:
    names = (member.decode("ascii", "replace") for member in reply[::2])
    return [(float(score), name) for name, score in zip(names, reply[1::2], strict=True)]


def _connect(url: str) -> tuple[socket.socket, list[tuple[str, ...]]]:
    """Connect; returns the commands that come first. Raises ``ValueError`` for another scheme."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    connection: Any
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(unquote(parts.path))
        except OSError:
            connection.close()
            raise
        database = query.get("db", "")
    elif parts.scheme in {"redis", "rediss"}:
        place = (parts.hostname or "localhost", parts.port or 6379)
        connection = socket.create_connection(place, TIMEOUT_S)
        if parts.scheme == "rediss":
            import ssl

            context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
            if query.get("ssl_cert_reqs", "").lower().removeprefix("cert_") == "none":
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(connection, server_hostname=place[0])
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
