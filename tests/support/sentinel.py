"""A primary, its replica, and a Sentinel that watches them; the primary can be killed."""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from berlin_worker.embedded.redis_server import RedisProcess, free_port
from tests.support.replication import caught_up
from tests.support.workers import wait_until


class SentinelPair:
    """The primary is ``name``. ``port`` is that of the Sentinel, ``dead_port`` nobody's."""

    def __init__(self, binary: Path, name: str = "queue") -> None:
        self.name = name
        self.port, self.dead_port = free_port(), free_port()
        self._binary = binary
        self._stack = ExitStack()
        self._servers = [
            RedisProcess(binary, {"repl-diskless-sync-delay": "0"}) for _ in ("primary", "replica")
        ]

    @property
    def url(self) -> str:
        """URL for workers and clients; the first Sentinel in it is dead."""
        dead, alive = (f"sentinel://127.0.0.1:{port}/0" for port in (self.dead_port, self.port))
        return f"{dead};{alive}?master_name={self.name}"

    def primary(self) -> tuple[str, int]:
        """Whom the Sentinel takes for the primary."""
        with redis.Redis(port=self.port) as sentinel:
            found: tuple[str, int] = sentinel.sentinel_get_master_addr_by_name(self.name)
        return found

    def kill_primary(self) -> None:
        """SIGKILL, and wait until the Sentinel has promoted the replica."""
        self._servers[0].kill()
        new = self._servers[1].port
        wait_until(lambda: self.primary()[1] == new, "the replica is promoted")

    def caught_up(self) -> bool:
        """Whether the replica has all that the primary has written."""
        with ExitStack() as stack:
            primary, replica = (
                stack.enter_context(redis.Redis.from_url(server.url)) for server in self._servers
            )
            return caught_up(primary, replica)

    def __enter__(self) -> Self:
        primary, replica = map(self._stack.enter_context, self._servers)
        with redis.Redis.from_url(replica.url) as client:
            client.replicaof("127.0.0.1", primary.port)
        wait_until(self.caught_up, "the replica follows")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "sentinel.conf"  # which the Sentinel rewrites
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {self.name} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {self.name} 500\n"
            f"sentinel failover-timeout {self.name} 2000\n"
        )
        log = self._stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [self._binary, config, "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        wait_until(self._knows_the_replica, "the Sentinel knows the replica")
        return self

    def _knows_the_replica(self) -> bool:
        try:
            with redis.Redis(port=self.port) as sentinel:
                return bool(sentinel.sentinel_slaves(self.name))
        except redis.RedisError:
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stack.close()
