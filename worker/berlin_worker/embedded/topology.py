"""Sentinels and a cluster of one machine, for the demo and the tests.

All servers are of one binary, on free loopback ports. With ``tls``, directives of the server such
as ``tls-cert-file``, each has a second port, which the URL names; the first stays plain.
"""

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from berlin_worker.embedded.redis_server import RedisProcess, free_port
from berlin_worker.errors import Unavailable

_READY_TIMEOUT_S: Final = 60.0
_SLOTS: Final = 16384
_NODE_TIMEOUT_MS: Final = 2000
# A node of a cluster names no replica before the first ping of replication: after 10 s by default.
_REPLICATION: Final = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
_SENTINEL_PERIODS_MS: Final = {"publish-period": 200, "info-period": 1000, "ask-period": 200}
"""How often Sentinels exchange their state. With the default periods, up to 10 s, a failover takes
11 s in place of 2, and a former primary becomes a replica after 10 s in place of 1."""


class Member(RedisProcess):
    """A server of a topology; ``public_port`` is the one that it announces."""

    def __init__(
        self,
        binary: Path,
        config: Mapping[str, str | tuple[str, ...]],
        tls: Mapping[str, str],
        password: str = "",
    ) -> None:
        self.public_port = 0
        given = dict(config)
        if tls:
            self.public_port = free_port()
            given |= {**tls, "tls-port": str(self.public_port), "tls-replication": "yes"}
        if password:
            given |= {"requirepass": password}
        super().__init__(binary, given)
        self.public_port = self.public_port or self.port
        self._password = password

    def client(self) -> redis.Redis:
        """Return a blocking client of this server alone."""
        return redis.Redis(port=self.port, password=self._password or None, decode_responses=True)


class Sentinel(Member):
    """A Sentinel; it rewrites its own file of settings, and reads it after a restart."""

    def __init__(self, binary: Path, tls: Mapping[str, str], password: str = "") -> None:
        super().__init__(binary, {}, tls, password)
        self._file = Path(self._data.name, "sentinel.conf")

    def monitor(self, name: str, port: int, quorum: int, *, password: str, down_ms: int) -> None:
        """Write the settings: the primary at ``port`` is watched as ``name``."""
        listen = {"port": self.port, "bind": "127.0.0.1", "dir": self._data.name}
        words = {**listen, **{k: v for k, v in self._config.items() if v and k != "appendonly"}}
        lines = [f"{key} {value}" for key, value in words.items()]
        lines += [
            f"sentinel monitor {name} 127.0.0.1 {port} {quorum}",
            f"sentinel down-after-milliseconds {name} {down_ms}",
            f"sentinel failover-timeout {name} 5000",
        ]
        if password:
            lines.append(f"sentinel auth-pass {name} {password}")
        self._file.write_text("\n".join(lines) + "\n")

    def start(self) -> Self:
        """Start it, with periods that suit one machine."""
        super().start()
        with self.client() as client:
            for name, period_ms in _SENTINEL_PERIODS_MS.items():
                client.execute_command("SENTINEL DEBUG", name, period_ms)
        return self

    def _arguments(self) -> list[str]:
        return [str(self._file), "--sentinel"]


class _Topology:
    """Servers that start and end together; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.servers: list[Member] = []

    def _start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stack.close()


class SentinelSet(_Topology):
    """A primary, its replica, and three Sentinels that watch them."""

    name: Final = "mymaster"

    def __init__(
        self,
        binary: Path,
        *,
        password: str = "",
        sentinel_password: str = "",
        tls: Mapping[str, str] | None = None,
        down_ms: int = 2000,
    ) -> None:
        super().__init__()
        config = {**_REPLICATION, **({"masterauth": password} if password else {})}
        self._password, self._down_ms = password, down_ms
        self._login = f":{password}@" if password else ""
        self._query = f"?sentinel_password={sentinel_password}" if sentinel_password else ""
        self._scheme = "rediss" if tls else "redis"
        self.servers = [Member(binary, config, tls or {}, password) for _ in range(2)]
        self.sentinels = [Sentinel(binary, tls or {}, sentinel_password) for _ in range(3)]

    @property
    def url(self) -> str:
        """``redis+sentinel://`` URL of database 0."""
        hosts = ",".join(f"127.0.0.1:{sentinel.public_port}" for sentinel in self.sentinels)
        return f"{self._scheme}+sentinel://{self._login}{hosts}/{self.name}/0{self._query}"

    def primary(self) -> Member:
        """Return the server that a running Sentinel names as the primary."""
        ports = {server.public_port: server for server in self.servers}
        for sentinel in self.sentinels:
            if sentinel.pid is not None:
                with sentinel.client() as client:
                    _, port = client.sentinel_get_master_addr_by_name(self.name)
                    return ports[int(port)]
        raise Unavailable("no Sentinel runs")

    def _start(self) -> None:
        first, second = map(self._stack.enter_context, self.servers)
        with second.client() as client:
            client.replicaof("127.0.0.1", str(first.public_port))
        wait_for(lambda: _follows(second), "the replica follows the primary")
        for sentinel in self.sentinels:
            quorum = len(self.sentinels) // 2 + 1
            sentinel.monitor(
                self.name,
                first.public_port,
                quorum,
                password=self._password,
                down_ms=self._down_ms,
            )
            self._stack.enter_context(sentinel)
        wait_for(lambda: all(map(self._knows_all, self.sentinels)), "the Sentinels know each other")

    def _knows_all(self, sentinel: Sentinel) -> bool:
        with sentinel.client() as client:
            state: Any = client.sentinel_master(self.name)
        others = len(self.sentinels) - 1
        return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == others)


class Cluster(_Topology):
    """Three primaries with a third of the slots each, and a replica for each of them, or none."""

    def __init__(
        self,
        binary: Path,
        *,
        password: str = "",
        tls: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        replicas: bool = True,
    ) -> None:
        super().__init__()
        self._login = f":{password}@" if password else ""
        self._scheme = "rediss" if tls else "redis"
        directives = {
            **_REPLICATION,
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(_NODE_TIMEOUT_MS),
            # Else a primary whose last slot has moved becomes a replica by itself.
            "cluster-allow-replica-migration": "no",
            **({"tls-cluster": "yes"} if tls else {}),
            **({"masterauth": password} if password else {}),
            **(config or {}),
        }
        self._member = functools.partial(Member, binary, directives, tls or {}, password)
        self.servers = [self._member() for _ in range(6 if replicas else 3)]

    @property
    def url(self) -> str:
        """``redis+cluster://`` URL that names each node."""
        hosts = ",".join(f"127.0.0.1:{server.public_port}" for server in self.servers)
        return f"{self._scheme}+cluster://{self._login}{hosts}"

    def add(self) -> Member:
        """Start a further node, which has no slots yet, and return it."""
        node = self._stack.enter_context(self._member())
        self.servers.append(node)
        self._meet()
        wait_for(lambda: _info(node)["cluster_state"] == "ok", "the node that joins serves")
        return node

    def _start(self) -> None:
        for server in self.servers:
            self._stack.enter_context(server)
        self._meet()
        primaries, replicas = self.servers[:3], self.servers[3:]
        for place, server in enumerate(primaries):
            begin, end = (_SLOTS * part // len(primaries) for part in (place, place + 1))
            with server.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", begin, end - 1)
        for primary, replica in zip(primaries, replicas, strict=False):
            with primary.client() as client:
                node_id = client.execute_command("CLUSTER MYID")
            with replica.client() as client:
                client.execute_command("CLUSTER REPLICATE", node_id)
        wait_for(lambda: all(map(_follows, replicas)), "the replicas follow")
        wait_for(self._is_ready, "the cluster serves all slots")

    def _meet(self) -> None:
        with self.servers[0].client() as client:
            for server in self.servers[1:]:  # to meet a known node changes nothing
                bus = server.directive("cluster-port")
                client.execute_command("CLUSTER MEET", "127.0.0.1", server.public_port, bus)
        wait_for(
            lambda: all(
                _info(s)["cluster_known_nodes"] == str(len(self.servers)) for s in self.servers
            ),
            "the nodes know each other",
        )

    def _is_ready(self) -> bool:
        def sees_all(server: Member) -> bool:
            with server.client() as client:
                ranges: Any = client.execute_command("CLUSTER SLOTS")
            # A node lists a replica once it has received its offset.
            replicas = sum(len(replicas) for _, _, _, *replicas in ranges)
            return _info(server)["cluster_state"] == "ok" and replicas == len(self.servers) - 3

        return all(map(sees_all, self.servers))


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Poll until ``done``; raises ``Unavailable`` after a minute."""
    give_up = time.monotonic() + _READY_TIMEOUT_S
    while not _is_done(done):
        if time.monotonic() > give_up:
            raise Unavailable(f"not reached within a minute: {what}")
        time.sleep(0.05)


def _is_done(done: Callable[[], bool]) -> bool:
    try:
        return done()
    except (redis.RedisError, KeyError):
        return False


def _follows(replica: Member) -> bool:
    with replica.client() as client:
        found: Any = client.info("replication")
    return bool(found["role"] == "slave" and found["master_link_status"] == "up")


def _info(server: Member) -> dict[str, Any]:
    with server.client() as client:
        found: dict[str, Any] = client.execute_command("CLUSTER INFO")
    return found
