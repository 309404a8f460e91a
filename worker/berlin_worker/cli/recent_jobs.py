"""The IDs of the newest jobs, for completion: within 0.3 s, or none.

redis-py, and the parser of all other URLs, take longer to import than a user waits for TAB. So this
module uses hiredis directly, and returns no jobs for a URL that it cannot read.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
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


class _Target(NamedTuple):
    """The parts of a URL. ``places``: host and port each, or the path of a socket."""

    topology: str
    places: "list[tuple[str, int] | str]"
    hello: list[tuple[str, ...]]
    """Commands of a new connection."""
    sentinel_hello: list[tuple[str, ...]]
    primary: str
    tls: "ssl.SSLContext | None"


def _collect(environ: Mapping[str, str], found: list[str]) -> None:
    with contextlib.suppress(Exception):  # completion shows no errors
        found.extend(_newest(_target(environ)))


def _newest(target: _Target) -> list[str]:
    command = ("ZREVRANGE", _JOBS, "0", str(_MOST - 1))
    if target.topology == "sentinel":
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.primary)
        host, port = next(_answers(target, [*target.sentinel_hello, question]))
        target = target._replace(places=[(host.decode(), int(port))])
    reply = next(_answers(target, [*target.hello, command]))
    return [member.decode("ascii", "replace") for member in reply]


def _answers(target: _Target, commands: Sequence[tuple[str, ...]]) -> Iterator[Any]:
    """Yield the reply to the last command of each place that answers it."""
    for place in target.places:
        with contextlib.suppress(OSError):
            reply = _ask(place, commands, target)
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("MOVED "):
                host, _, port = str(reply).split()[2].rpartition(":")
                # A reply without a host means the server that sent it.
                reply = _ask((host or place[0], int(port)), commands, target)
            if isinstance(reply, list):
                yield reply


def _ask(place: "tuple[str, int] | str", commands: Sequence[tuple[str, ...]], of: _Target) -> Any:
    """Return the reply to the last command; ``None`` if an earlier one is refused."""
    timeout_s = TIMEOUT_S / len(of.places)
    with _connected(place, of.tls, timeout_s) as connection:
        for command in commands:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # the stub allows tuples of one word only
        reader = hiredis.Reader()
        for left in range(len(commands), 0, -1):
            while (reply := reader.gets()) is False:
                data = connection.recv(65536)
                if not data:
                    return None
                reader.feed(data)
            if left == 1:
                return reply
            if isinstance(reply, hiredis.ReplyError):
                return None
    return None


def _target(environ: Mapping[str, str]) -> _Target:
    """Read ``REDIS_URL`` and the settings of TLS. Raises ``ValueError`` for other schemes."""
    parts = urlsplit(environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    scheme, _, topology = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss", "unix"} or topology not in {"", "sentinel", "cluster"}:
        raise ValueError(parts.scheme)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    default = 26379 if topology == "sentinel" else 6379
    before, _, behind = parts.path.strip("/").partition("/")
    primary, database = (before, behind) if topology == "sentinel" else ("", before)
    database = query.get("db") or ("" if scheme == "unix" else database)
    user, _, password = userinfo.partition(":")
    hello = _login(unquote(user), unquote(password))
    if database not in {"", "0"}:
        hello.append(("SELECT", database))
    return _Target(
        topology,
        [unquote(parts.path)]
        if scheme == "unix"
        else [_place(h, default) for h in hosts.split(",")],
        hello,
        _login(query.get("sentinel_username", ""), query.get("sentinel_password", "")),
        unquote(primary),
        _tls(query, environ) if scheme == "rediss" else None,
    )


def _place(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or default


def _login(user: str, password: str) -> list[tuple[str, ...]]:
    return [("AUTH", *((user,) if user else ()), password)] if password else []


def _tls(query: Mapping[str, str], environ: Mapping[str, str]) -> "ssl.SSLContext":
    import ssl

    cafile = query.get("ssl_ca_certs") or environ.get("WORKER_REDIS_CA") or None
    context = ssl.create_default_context(cafile=cafile)
    if query.get("ssl_cert_reqs", "").lower().removeprefix("cert_") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    own = (query.get("ssl_certfile"), query.get("ssl_keyfile"))
    certificate, key = (
        own if own[0] else map(environ.get, ("WORKER_REDIS_CERT", "WORKER_REDIS_KEY"))
    )
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


def _connected(
    place: "tuple[str, int] | str", context: "ssl.SSLContext | None", timeout_s: float
) -> socket.socket:
    """Connect to a socket file, or the first address of a host that answers. Raises ``OSError``."""
    if isinstance(place, str):
        return _opened(socket.AF_UNIX, place, timeout_s)
    host, port = place
    failure = OSError(f"{host} has no address")
    for family, _, _, _, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return _opened(family, found, timeout_s, context, host)
        except OSError as error:
            failure = error
    raise failure


def _opened(
    family: int,
    place: Any,
    timeout_s: float,
    context: "ssl.SSLContext | None" = None,
    host: str | None = None,
) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(timeout_s)
        if context is not None:
            # Wrap before connecting: a reset between the two would leak the socket.
            connection = context.wrap_socket(connection, server_hostname=host)
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection
