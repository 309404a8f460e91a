"""The hint that no worker runs."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_schemas import names
from berlin_worker.cli import no_worker

pytestmark = pytest.mark.unit


class FakeRedis:
    """A Redis with a number of workers, or one that raises an error."""

    def __init__(self, workers):
        self.workers, self.closed = workers, 0

    async def time(self):
        if isinstance(self.workers, Exception):
            raise self.workers
        return 1_000, 2_000

    async def zcount(self, key, lowest, highest):
        assert (key, lowest, highest) == (names.FLEET, 1_000_002, "+inf")
        return self.workers

    async def aclose(self):
        self.closed += 1


@pytest.fixture
def fleet(monkeypatch):
    """Set the number of workers; the hint comes almost at once."""
    monkeypatch.setattr(no_worker, "PATIENCE_S", 0.01)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    def of(workers):
        made = FakeRedis(workers)
        monkeypatch.setattr(no_worker.connections, "commands", lambda _: made)
        return made

    return of


@pytest.mark.parametrize("workers", [0, 3])
async def test_workers_are_counted(fleet, monkeypatch, workers):
    monkeypatch.setattr(no_worker, "PATIENCE_S", 60)
    made = fleet(workers)
    assert await no_worker.count_workers() == workers
    assert made.closed == 1


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), TimeoutError(), OSError()])
async def test_number_is_unknown_without_an_answer(fleet, error):
    made = fleet(error)
    assert await no_worker.count_workers() is None
    assert made.closed == 1


def test_hint_states_the_number_of_workers():
    assert "no worker is running" in no_worker.hint(0)
    assert "one of 3 workers" in no_worker.hint(3)
    assert "berlin doctor" in no_worker.hint(None)


async def test_late_job_gets_the_hint(fleet, monkeypatch, capsys):
    async def two():
        return 2

    monkeypatch.setattr(no_worker, "count_workers", two)
    fleet(2)
    await no_worker.hint_if_late()
    assert "one of 2 workers" in capsys.readouterr().err


async def test_hint_comes_once_and_only_without_progress(fleet, monkeypatch, capsys):
    fleet(0)
    counts, steps = iter([1, 0]), iter([1, 2, 2, 2, 2, 2, 2])

    async def count():
        return next(counts)

    monkeypatch.setattr(no_worker, "count_workers", count)
    async with asyncio.timeout(60):
        await no_worker.hint_once(lambda: next(steps))
    assert capsys.readouterr().err.count("no worker is running") == 1
    assert next(counts, None) is None
