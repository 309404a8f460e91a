"""A RabbitMQ of the tests' own: its own node, ports, port mapper and data, as the caller's user."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from berlin_worker.embedded.redis_server import free_port

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_START_TIMEOUT_S = 60.0
_FOLDERS = (Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin"))


def find_rabbitmq() -> Path | None:
    """Return the server's start script; that of Debian in /usr/sbin requires root and its home."""
    for folder in _FOLDERS:
        if (folder / "rabbitmq-server").is_file():
            return folder / "rabbitmq-server"
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


class RabbitProcess:
    """A node on free loopback ports. It can be killed and started again with the same data."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._home = Path(tempfile.mkdtemp(prefix="berlin-rabbit-"))
        self.port, distribution_port, mapper_port = (free_port() for _ in range(3))
        self._process: subprocess.Popen[bytes] | None = None
        self._env = os.environ | {
            "HOME": str(self._home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper_port),
            "RABBITMQ_NODENAME": f"berlin{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self._home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
        }
        (self._home / "plugins").write_text("[].")
        # The default limit of RabbitMQ 4; the default of 3.8 to 3.13 is 128 MiB.
        (self._home / "rabbitmq.conf").write_text(f"max_message_size = {MAX_MESSAGE_BYTES}\n")

    @property
    def url(self) -> str:
        """``amqp://`` URL; the account is the one that RabbitMQ gives to the loopback alone."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> Self:
        """Start and wait until it takes connections; raises ``AssertionError`` with its log."""
        log = self._home / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._binary],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        give_up = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise AssertionError(f"rabbitmq-server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """SIGKILL; the data stays."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the node and its port mapper, which is a daemon, and remove the data."""
        self.kill()
        if epmd := shutil.which("epmd"):
            # The port mapper can be ended once no node is registered, so once the node has ended.
            give_up = time.monotonic() + 5
            while (
                subprocess.run([epmd, "-kill"], env=self._env, capture_output=True, check=False)
                .stdout.startswith(b"Killing not allowed")
                and time.monotonic() < give_up
            ):  # fmt: skip
                time.sleep(0.05)
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        # No version of AMQP begins so: RabbitMQ replies with the version that it supports.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as peer,
        ):
            peer.sendall(b"AMQP\x00\x00\x00\x00")
            return peer.recv(4) == b"AMQP"
        return False
