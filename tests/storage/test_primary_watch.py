"""The thread that follows the primary: no fault ends it for good, and no call waits for ever."""

import socket
import threading
from typing import Any

import pytest
import redis

from berlin_worker.config import urls
from berlin_worker.storage import sentinel
from berlin_worker.storage.primary_pool import BlockingPrimaryConnection
from berlin_worker.storage.redis_errors import PrimaryNotFound
from berlin_worker.storage.sentinel import Address, PrimaryWatch

pytestmark = pytest.mark.unit

URL = urls.parse_redis("redis+sentinel://127.0.0.1:1/mymaster", "")
UP = {"is_master": True, "is_sdown": False, "is_odown": False, "ip": "10.0.0.1", "port": 6379}
WAIT_S = 60.0


def find(watch: PrimaryWatch) -> Address:
    return watch._ask().result(WAIT_S)


@pytest.fixture
def masters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The reply of each Sentinel, which a test may change."""
    replies: dict[str, Any] = {"mymaster": UP}
    monkeypatch.setattr(redis.Redis, "sentinel_masters", lambda _: replies)
    monkeypatch.setattr(sentinel, "_IDLE_ROUNDS", 0)  # the thread ends with the last connection
    return replies


class Connection:
    """A connection to a former primary, which ``leave`` ends, or fails to end."""

    host, port = "10.0.0.9", 6379

    def __init__(self, error: Exception | None = None) -> None:
        self.left = threading.Event()
        self._error = error

    def leave(self) -> None:
        self.left.set()
        if self._error is not None:
            raise self._error


def test_connection_that_fails_to_end_holds_up_no_other(masters: dict[str, Any]) -> None:
    watch = PrimaryWatch(URL)
    connections = [Connection(TypeError("closed meanwhile")), Connection()]
    for connection in connections:
        watch.follow(connection)
    assert find(watch) == ("10.0.0.1", 6379)
    for connection in connections:
        assert connection.left.wait(WAIT_S)
    masters["mymaster"] = UP | {"ip": "10.0.0.2"}
    assert find(watch) == ("10.0.0.2", 6379)


@pytest.mark.parametrize(
    "garbage", [{}, UP | {"port": "none"}, UP | {"config-epoch": "x"}, ["a"], None, 7]
)
def test_garbage_of_a_sentinel_is_an_error_of_redis(
    masters: dict[str, Any], garbage: object
) -> None:
    watch = PrimaryWatch(URL)
    masters["mymaster"] = garbage
    for _ in range(2):
        with pytest.raises(PrimaryNotFound):
            find(watch)
    masters["mymaster"] = UP
    assert find(watch) == ("10.0.0.1", 6379)


def test_thread_that_has_ended_is_started_again(
    masters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert masters
    watch = PrimaryWatch(URL)
    with monkeypatch.context() as broken:
        broken.setattr(PrimaryWatch, "_client", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(PrimaryNotFound, match="cannot be asked"):
                find(watch)
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", lambda _: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                find(watch)
    assert find(watch) == ("10.0.0.1", 6379)


def test_connection_may_be_closed_while_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as connected:
        reads = iter([connected, None, None])
        monkeypatch.setattr(
            BlockingPrimaryConnection, "_sock", property(lambda _: next(reads)), raising=False
        )
        BlockingPrimaryConnection.leave(object.__new__(BlockingPrimaryConnection))
        assert list(reads) == [None, None]
