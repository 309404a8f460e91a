"""The HTTP port with a broker and a Redis that are present, away or silent."""

import asyncio
import contextlib
import functools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from prometheus_client import CollectorRegistry

from berlin_schemas import names
from berlin_worker.client import queue_depth
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import SettingsError
from berlin_worker.storage import connections
from berlin_worker.telemetry.http_server import serving
from berlin_worker.telemetry.liveness import Liveness
from berlin_worker.telemetry.metrics import registry
from berlin_worker.telemetry.stats import Stats
from berlin_worker.telemetry.status import ProcessGauges, StatusReporter
from tests.support.http import failing, get, scrape, value
from tests.support.waiting import stopped

pytestmark = pytest.mark.contract


@pytest.fixture
def broker(redis_url: str) -> Iterator[Celery]:
    with contextlib.closing(Celery("test", broker=redis_url, set_as_current=False)) as app:
        yield app


class Harness:
    """A status reporter on a port, and the problem that it reports."""

    def __init__(self, redis_url: str, broker: Celery) -> None:
        self.life = Liveness()
        self.stats = Stats()
        self.token: Callable[[], Any] = lambda: None
        self.silent_s = 0.0
        self.url = ""
        self.redis_url = redis_url
        self.queue: Callable[[], Any] = functools.partial(queue_depth.count, broker)

    async def no_token(self) -> str | None:
        problem: str | None = self.token()
        return problem

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        inside = ProcessGauges(
            jobs_in_flight=lambda: 7,
            jobs_quarantined=lambda: 1,
            journal_buffer_bytes=lambda: 11,
            journal_limit_bytes=12,
            store_silent_s=lambda: self.silent_s,
            no_token=self.no_token,
        )
        observer = StatusReporter(
            self.life,
            inside,
            loop=asyncio.get_running_loop(),
            queue=self.queue,
            open_redis=lambda: connections.blocking(self.redis_url, timeout_s=2.0),
            broker_url="rediss://elsewhere",
            lease_s=1.0,
        )
        routes = {"/livez": observer.live, "/readyz": observer.ready}
        beating = asyncio.create_task(self.life.beat_forever(self.stats.loop_lag))
        numbers = registry(self.stats, observer.read)
        try:
            with observer, serving("127.0.0.1", 0, numbers, routes) as port:
                self.url = f"http://127.0.0.1:{port}"
                yield
        finally:
            await stopped(beating)

    async def failing(self, path: str) -> tuple[int, set[str]]:
        """Return status and failed checks of a probe."""
        return await asyncio.to_thread(failing, self.url + path)


@pytest.fixture
def harness(redis_url: str, broker: Celery) -> Harness:
    return Harness(redis_url, broker)


async def test_queue_and_unacknowledged_messages_are_counted(broker, redis_client):
    assert queue_depth.count(broker) == {"waiting": 0, "unacknowledged": 0}
    await redis_client.lpush(names.QUEUE, *map(str, range(3)))
    await redis_client.zadd("unacked_index", {"a": 1, "b": 2})
    assert queue_depth.count(broker) == {"waiting": 3, "unacknowledged": 2}


async def test_broker_that_is_away_is_an_error_and_no_zero():
    url = f"redis://127.0.0.1:{free_port()}/0"
    app = Celery("test", broker=url, set_as_current=False)
    away = (OperationalError, redis.exceptions.ConnectionError, OSError)
    with contextlib.closing(app), pytest.raises(away):
        queue_depth.count(app)


async def test_worker_with_all_dependencies_is_alive_and_ready(harness):
    async with harness.open():
        assert await harness.failing("/livez") == (200, set())
        assert await harness.failing("/readyz") == (200, set())


async def test_scrape_has_queue_dead_letters_and_process(harness, redis_client):
    await redis_client.lpush(names.QUEUE, "1", "2")
    await redis_client.xadd(names.DEAD_LETTERS, {"reason": "a"})
    harness.life.slots = 1000
    async with harness.open():
        found = await asyncio.to_thread(scrape, harness.url)
    assert value(found, "worker_queue_messages", state="waiting", messaging_system="redis") == 2
    assert value(found, "worker_dead_letters") == 1
    assert value(found, "worker_jobs_in_flight") == 7
    assert value(found, "worker_job_slots") == 1000
    assert value(found, "worker_journal_buffer_bytes") == 11
    assert value(found, "worker_check_up") == 6
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert value(found, "worker_build_info", event_loop="asyncio") == 1


async def test_worker_without_a_broker_is_alive_not_ready_and_has_no_queue_gauge(harness):
    def away() -> None:
        raise ConnectionError("redis://secret@host")

    harness.queue = away
    async with harness.open():
        assert await harness.failing("/livez") == (200, set())
        assert await harness.failing("/readyz") == (503, {"broker"})
        assert "secret" not in (await asyncio.to_thread(get, f"{harness.url}/readyz"))[2]
        found = await asyncio.to_thread(scrape, harness.url)
    assert "worker_queue_messages" not in found
    assert value(found, "worker_check_up", check="broker") == 0
    assert value(found, "worker_dead_letters") == 0


async def test_worker_without_redis_is_alive_and_not_ready(harness):
    harness.redis_url = f"redis://127.0.0.1:{free_port()}/0"
    async with harness.open():
        assert await harness.failing("/livez") == (200, set())
        assert await harness.failing("/readyz") == (503, {"redis"})
        found = await asyncio.to_thread(scrape, harness.url)
    assert "worker_dead_letters" not in found


async def test_store_that_has_been_silent_for_long_is_not_ready(harness):
    harness.silent_s = 5.0
    async with harness.open():
        assert await harness.failing("/readyz") == (503, {"redis"})


async def test_failed_login_fails_the_token_check(harness):
    harness.token = lambda: "berlin: auth_failed"
    async with harness.open():
        status, kind, body = await asyncio.to_thread(get, f"{harness.url}/readyz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body)["checks"]["token"] == {"ok": False, "detail": "berlin: auth_failed"}


async def test_draining_status_is_alive_and_not_ready(harness):
    harness.life.draining = True
    async with harness.open():
        assert await harness.failing("/livez") == (200, set())
        assert await harness.failing("/readyz") == (503, {"accepting"})


async def test_blocked_event_loop_fails_livez_while_blocked_and_recovers(harness):
    async with harness.open():
        with ThreadPoolExecutor(1) as probe:
            # Waiting for it blocks the loop, which is what is tested.
            failed = probe.submit(failures_until, f"{harness.url}/livez", 503).result()
        assert failed == {"event_loop"}
        assert await asyncio.to_thread(failures_until, f"{harness.url}/livez", 200) == set()


def failures_until(url: str, status: int) -> set[str]:
    """Return the failed checks once the probe answers with ``status``."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        found, failed = failing(url)
        if found == status:
            return failed
        time.sleep(0.02)
    raise AssertionError(f"never {status}")


def test_used_port_is_an_error_that_names_the_setting():
    with (
        serving("127.0.0.1", 0, CollectorRegistry(), {}) as port,
        pytest.raises(SettingsError, match=f"WORKER_HTTP_PORT.*{port}"),
        serving("127.0.0.1", port, CollectorRegistry(), {}),
    ):
        pass


def test_endpoint_listens_on_ipv6_too():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("a machine without IPv6")
    with serving("::1", 0, CollectorRegistry(), {}) as port:
        assert get(f"http://[::1]:{port}/metrics")[0] == 200
