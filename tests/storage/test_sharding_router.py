"""Jobs go to the part of the process that works with their event store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from berlin_schemas.shards import shard_of
from berlin_worker.config.recovery_times import CUT_OFF_S
from berlin_worker.errors import StoreUnavailable
from berlin_worker.storage.sharding.router import Router, ShardRuntime, StrayQueue

pytestmark = pytest.mark.unit

ON_0, ON_1 = "job-1", "job-2"


@dataclass
class Part:
    """Journal, leases and runner of one shard, which note what they are asked."""

    silent_s: float = 0.0
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    hangs: asyncio.Event | None = None
    fails: int = 0

    async def run(self, *asked: Any, redelivered: bool) -> None:
        """Note it, and find the shard away as often as told to."""
        self.asked.append(("run", *asked) + ("came back",) * redelivered)
        if self.fails:
            self.fails -= 1
            self.silent_s = CUT_OFF_S + 1
            raise StoreUnavailable

    async def cancel(self, job_id: str, reason: str, *, only_queued: bool) -> None:
        """Note it, then hang if told to."""
        self.asked.append(("cancel", job_id, reason, only_queued))
        if self.hangs is not None:
            await self.hangs.wait()

    async def discard(self, *asked: Any) -> None:
        """Note it."""
        self.asked.append(("discard", *asked))
        if self.fails:
            raise StoreUnavailable


class Lot:
    """A parking lot that may be closed."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self.parked: list[tuple[int, str, Any]] = []

    async def park(self, shard: int, job_id: str, job: Any) -> bool:
        """Note it, if it is open."""
        if self.is_open:
            self.parked.append((shard, job_id, job))
        return self.is_open


def routed(*parts: Part, lot: Lot | None = None) -> Router:
    return Router([ShardRuntime(part, part, part) for part in parts], lot)  # type: ignore[arg-type]  # stand-ins


def test_the_jobs_of_these_tests_are_on_different_shards():
    assert [shard_of(job_id, 2) for job_id in (ON_0, ON_1)] == [0, 1]


async def test_what_is_to_be_done_with_a_job_is_done_by_its_shard():
    parts = Part(), Part()
    router = routed(*parts, lot=Lot())
    for job_id in (ON_0, ON_1):
        await router.run(job_id, [{}], {})
        await router.discard(job_id, "reason", "told", b"")
        await router.cancel(job_id, "why", only_queued=False)
    await asyncio.sleep(0)
    for part, job_id in zip(parts, (ON_0, ON_1), strict=True):
        assert part.asked == [
            ("run", job_id, [{}], {}),
            ("discard", job_id, "reason", "told", b""),
            ("cancel", job_id, "why", False),
        ]


@pytest.mark.parametrize("job_id", ["no job id", "", None, 5])
async def test_what_has_no_usable_id_is_buried_by_any_shard(job_id):
    part = Part()
    await routed(part, Part()).discard(job_id, "reason", "told", b"")
    assert part.asked == [("discard", job_id, "reason", "told", b"")]


async def test_a_job_whose_shard_is_away_is_parked_and_the_others_run():
    parts, lot = (Part(), Part(silent_s=CUT_OFF_S + 1)), Lot()
    router = routed(*parts, lot=lot)
    await router.run(ON_1, [{"messages": []}], {})
    await router.run(ON_0, [{}], {})
    assert lot.parked == [(1, ON_1, {"messages": []})]
    assert [part.asked for part in parts] == [[("run", ON_0, [{}], {})], []]


@pytest.mark.parametrize(
    ("lot", "args", "kwargs"),
    [
        (Lot(is_open=False), [{}], {}),
        (Lot(), [], {}),
        (Lot(), [{}, {}], {}),
        (Lot(), [{}], {"x": 1}),
        (None, [{}], {}),
    ],
)
async def test_what_cannot_be_parked_waits_for_its_shard(lot, args, kwargs):
    part = Part(silent_s=CUT_OFF_S + 1)
    await routed(Part(), part, lot=lot).run(ON_1, args, kwargs)
    assert part.asked == [("run", ON_1, args, kwargs)]


async def test_a_job_that_waits_to_begin_when_its_shard_goes_away_is_parked():
    part, lot = Part(fails=1), Lot()
    await routed(Part(), part, lot=lot).run(ON_1, [{}], {})
    assert lot.parked == [(1, ON_1, {})]


async def test_a_job_that_cannot_be_parked_is_tried_until_its_shard_is_there():
    part = Part(fails=2)
    await routed(Part(), part, lot=Lot(is_open=False)).run(ON_1, [{}], {})
    assert part.asked == 3 * [("run", ON_1, [{}], {})]


async def test_a_message_cannot_be_discarded_while_its_shard_is_away():
    with pytest.raises(TimeoutError):
        await routed(Part(), Part(fails=1)).discard(ON_1, "reason", "told", b"")


def test_the_process_is_cut_off_only_where_every_shard_is_silent():
    near, far = Part(silent_s=0.5), Part(silent_s=100.0)
    assert routed(near, far).silent_s == 0.5
    assert routed(far).silent_s == 100.0


async def test_a_cancellation_that_hangs_at_one_shard_holds_up_none_of_the_others():
    hangs = asyncio.Event()
    stuck, well = Part(hangs=hangs), Part()
    router = routed(stuck, well)
    await router.cancel(ON_0, "why")
    await router.cancel(ON_1, "why")
    await asyncio.sleep(0)
    assert well.asked == [("cancel", ON_1, "why", True)]
    hangs.set()


async def test_a_shard_that_is_away_is_not_asked_to_cancel():
    part = Part(silent_s=CUT_OFF_S + 1)
    await routed(part, Part()).cancel(ON_0, "why")
    await asyncio.sleep(0)
    assert part.asked == []


class Bell:
    """A job queue that notes the jobs that are requeued."""

    def __init__(self, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.rung: list[str] = []
        self._before = before

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Note it."""
        if self._before:
            await self._before()
        self.rung.append(job_id)

    async def depth(self) -> int:
        """Some."""
        return 7


class Records:
    """Records that note which of them are forgotten."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget(self, job_id: str) -> None:
        """Note it."""
        self.forgotten.append(job_id)


async def test_a_job_of_another_shard_is_rung_and_then_forgotten():
    bell, records = Bell(), Records()
    strays = StrayQueue(bell, records, shard=0, count=2)
    await strays.requeue(ON_0, b"{}")
    await strays.requeue(ON_1, b"{}")
    assert bell.rung == [ON_0, ON_1]
    assert records.forgotten == [ON_1]
    assert await strays.depth() == 7


async def test_a_stray_that_could_not_be_rung_is_not_forgotten():
    async def away() -> None:
        raise ConnectionError("broker: away")

    records = Records()
    with pytest.raises(ConnectionError):
        await StrayQueue(Bell(away), records, shard=0, count=2).requeue(ON_1, b"{}")
    assert records.forgotten == []


@pytest.mark.parametrize("parts", [1, 2])
async def test_that_a_message_came_back_is_passed_on(parts):
    all_parts = [Part() for _ in range(parts)]
    await routed(*all_parts).run(ON_1, [{}], {}, redelivered=True)
    assert all_parts[-1].asked == [("run", ON_1, [{}], {}, "came back")]
