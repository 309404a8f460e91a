"""Marks of event stores, parked jobs and strays, against a server."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_schemas.shards import shard_of
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import SettingsError, StoreUnavailable
from berlin_worker.jobs.store import QUEUE_EMPTY, Claim
from berlin_worker.storage.sharding.marks import MARK_TTL_S, Marks, check_unmarked
from berlin_worker.storage.sharding.parking import Parking
from berlin_worker.storage.sharding.router import StrayQueue
from berlin_worker.storage.sharding.store import ShardStore
from tests.support.harness import Bell, ScriptedProvider, Worker, cancelled, says
from tests.support.store_helpers import (
    JOB,
    check_keys,
    expire_lease,
    load_scripts,
    make_store,
    record,
)
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.contract

ON_1 = "job-2"


@pytest.fixture
async def other(redis_url) -> AsyncIterator[redis.asyncio.Redis]:
    """A second database."""
    url = redis_url.removesuffix("/0") + "/1"
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushdb()
        yield client


async def test_marks_are_written_and_live_no_longer_than_the_workers(redis_client, other):
    marks = Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")])
    await marks.write()
    await marks.write()
    assert await redis_client.get(names.SHARDS) == b"2"
    assert await redis_client.get(names.SHARD) == b"0/2"
    assert await other.get(names.SHARD) == b"1/2"
    for client in (redis_client, other):
        assert 0 < await client.ttl(names.SHARD) <= MARK_TTL_S
        await check_keys(client)


async def test_a_worker_with_the_shards_in_another_order_does_not_start(redis_client, other):
    await Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")]).write()
    swapped = Marks((redis_client, "home"), [(other, "b"), (redis_client, "a")])
    with pytest.raises(SettingsError, match="the order must be the same everywhere"):
        await swapped.write()


async def test_one_store_under_two_names_is_told(redis_client, redis_url):
    async with redis.asyncio.Redis.from_url(redis_url) as alias:
        with pytest.raises(SettingsError, match="none may stand there twice"):
            await Marks((redis_client, "home"), [(redis_client, "a"), (alias, "b")]).write()


async def test_a_worker_with_more_shards_than_the_others_does_not_start(redis_client, other):
    await Marks((redis_client, "home"), [(redis_client, "a")]).write()
    with pytest.raises(SettingsError, match="WORKER_EVENT_SHARDS names 2"):
        await Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")]).write()


async def test_a_mark_of_another_list_is_not_renewed(redis_client, other):
    await redis_client.set(names.SHARDS, "3", ex=5)
    with pytest.raises(SettingsError, match="marked for 3 event stores"):
        await Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")]).write()
    assert await redis_client.ttl(names.SHARDS) <= 5


@pytest.mark.parametrize(("key", "mark"), [(names.SHARDS, "2"), (names.SHARD, "1/2")])
async def test_a_worker_without_shards_does_not_start_on_one_of_several(redis_client, key, mark):
    await redis_client.set(key, mark, ex=5)
    with pytest.raises(SettingsError, match="spread over 2 event stores"):
        await check_unmarked(redis_client, "here")


async def test_a_worker_without_shards_marks_nothing(redis_client):
    await check_unmarked(redis_client, "here")
    assert await redis_client.keys() == []


async def test_a_store_that_is_away_is_marked_later_and_the_others_now(redis_client):
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with redis.asyncio.Redis.from_url(url) as away:
        await Marks((redis_client, "home"), [(away, "a"), (redis_client, "b")]).write()
        await check_unmarked(away, "here")
    assert await redis_client.get(names.SHARD) == b"1/2"


@pytest.fixture
def bell() -> Bell:
    return Bell()


async def discarded(*_: object) -> None:
    """Nothing is discarded unless a test says so."""
    raise NotImplementedError


def lot(client: redis.asyncio.Redis, bell: Bell) -> Parking:
    return Parking(client, bell, count=2, ttl_s=1000, discard=discarded)


async def test_a_parked_job_comes_back_once_its_shard_is_there(redis_client, bell):
    parking = lot(redis_client, bell)
    away = {1}
    assert await parking.park(1, "job-b", {"messages": []})
    assert await parking.park(0, "job-a", {"messages": []})
    await check_keys(redis_client)
    task = asyncio.create_task(parking.bring_back_forever(lambda shard: shard in away))
    try:
        async with asyncio.timeout(30):
            while bell.rung != ["job-a"]:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0.01)
            away.clear()
            while bell.rung != ["job-a", "job-b"]:  # noqa: ASYNC110  # the same
                await asyncio.sleep(0.01)
    finally:
        await stopped(task)
    assert not await redis_client.exists(names.parked_key(0), names.parked_key(1))


async def test_the_job_that_comes_back_is_the_one_that_was_parked(redis_client):
    jobs: list[object] = []

    class Notes(Bell):
        async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
            jobs.append(json.loads(job))

    job = {"messages": [{"role": "user", "content": "Grüße 🙂 \ud800"}], "deadline_s": 5}
    parking = lot(redis_client, Notes())
    await parking.park(0, "job-a", job)
    await parking.bring_back(0)
    assert jobs == [job]


async def test_a_job_that_could_not_be_sent_stays_parked(redis_client, bell):
    parking = lot(redis_client, bell)
    await parking.park(0, "job-a", {})
    bell.broken = True
    with pytest.raises(ConnectionError):
        await parking.bring_back(0)
    assert await redis_client.zcard(names.parked_key(0)) == 1


async def test_of_several_workers_one_brings_back(redis_client, bell):
    parking = lot(redis_client, bell)
    for n in range(20):
        await parking.park(0, f"job-{n}", {})
    await asyncio.gather(*(lot(redis_client, bell).bring_back(0) for _ in range(5)))
    assert sorted(bell.rung) == sorted(f"job-{n}" for n in range(20))


async def test_what_was_parked_twice_comes_back_twice(redis_client, bell):
    parking = lot(redis_client, bell)
    await parking.park(0, "job-a", {})
    await parking.park(0, "job-a", {})
    await parking.bring_back(0)
    assert bell.rung == ["job-a", "job-a"]


@pytest.mark.parametrize("job", [b"bytes", {1, 2}])
async def test_what_is_no_json_is_not_parked(redis_client, bell, job):
    assert not await lot(redis_client, bell).park(0, "job-a", job)


async def test_nothing_is_parked_where_redis_is_away(bell):
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with redis.asyncio.Redis.from_url(url) as away:
        assert not await lot(away, bell).park(0, "job-a", {})


async def test_a_stray_is_rung_once_and_leaves_no_record(redis_client, bell):
    await load_scripts(redis_client)
    store = make_store(redis_client)
    strays = StrayQueue(bell, store, shard=0, count=2)
    assert shard_of(ON_1, 2) == 1
    await store.claim(ON_1, JOB, call="1", deadline_s=60)
    await expire_lease(redis_client, ON_1)
    overdue = await store.reap(ON_1, again_running_s=1, again_queued_s=1, watermark_ms=QUEUE_EMPTY)
    assert overdue is not None
    await strays.requeue(overdue.job_id, overdue.job)
    assert bell.rung == [ON_1]
    assert await record(redis_client, ON_1) == {}
    assert await redis_client.zscore(names.DUE_JOBS, ON_1) is None


async def test_a_job_is_not_waited_for_once_its_shard_counts_as_away():
    async with redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{free_port()}/0") as client:
        store = ShardStore(
            client, owner="w", lease_s=9, log_ttl_s=9, queue_ttl_s=9, dead_letters_max=9
        )
        claim = partial(store.claim, ON_1, JOB, call="1", deadline_s=9)
        with pytest.raises(ConnectionError):
            await claim()
        store.is_away = lambda: True
        with pytest.raises(StoreUnavailable):
            await claim()
        # What runs here, or is to be cancelled if it waits, is for this process alone to end.
        with pytest.raises(ConnectionError):
            await claim(held_attempt=1)
        with pytest.raises(ConnectionError):
            await claim(only_queued=True)


async def test_a_delivery_that_is_cancelled_while_its_shard_goes_away_ends_as_cancelled(
    redis_client,
):
    asked, answers = asyncio.Event(), asyncio.Event()

    async def claim(*_: object, **__: object) -> Claim:
        asked.set()
        await answers.wait()
        raise StoreUnavailable

    async with Worker(redis_client, ScriptedProvider(says("a"))) as worker:
        worker.store.claim = claim
        task = worker.start()
        await asked.wait()
        async with cancelled(task):
            asyncio.get_running_loop().call_later(0.05, answers.set)


async def test_dead_letters_are_in_one_place_for_all_shards(redis_client, other):
    store = make_store(other, dead_letters=redis_client)
    await store.dead_letter("job-a", "too_many_attempts", call="1", job=JOB)
    assert await redis_client.xlen(names.DEAD_LETTERS) == 1
    assert not await other.exists(names.DEAD_LETTERS)


GARBAGE: list[bytes] = [
    b"",
    b"\xff\xfe",
    b"{",
    b"7",
    b"null",
    b"[]",
    b'["job-1", "nonce", {}]',
    b'["job-1", "nonce", {}, 7]',
    b'["../x", "nonce", {}, ""]',
    b'[["job-1"], "nonce", {}, ""]',
    b"[" * 100_000,
]


@pytest.mark.parametrize("entry", GARBAGE, ids=lambda entry: repr(entry[:24]))
async def test_garbage_among_parked_jobs_is_discarded_and_the_others_come_back(
    redis_client, bell, entry
):
    letters: list[tuple[object, ...]] = []

    async def discard(*letter: object) -> None:
        letters.append(letter)

    parking = Parking(redis_client, bell, count=1, ttl_s=1000, discard=discard)
    await redis_client.zadd(names.parked_key(0), {entry: 1})
    assert await parking.park(0, "job-a", {"messages": []})
    await parking.bring_back(0)
    assert bell.rung == ["job-a"]
    assert [(letter[0], letter[1], letter[3]) for letter in letters] == [
        (None, "invalid_parking", entry)
    ]


@pytest.mark.parametrize("key", [names.parked_key(0), f"{names.parked_key(0)}:turn"])
@pytest.mark.parametrize("redis_url", ["real"], indirect=True)  # fakeredis closes at an error
async def test_key_of_another_type_holds_no_parked_job_up(redis_client, bell, key):
    await redis_client.set(key, "garbage")
    parking = Parking(redis_client, bell, count=1, ttl_s=1000, discard=discarded)
    task = asyncio.create_task(parking.bring_back_forever(lambda shard: False))
    try:
        async with asyncio.timeout(30):
            while not await parking.park(0, "job-a", {"messages": []}):  # noqa: ASYNC110  # Redis has no event
                await asyncio.sleep(0.01)
            while bell.rung != ["job-a"]:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0.01)
    finally:
        await stopped(task)


@pytest.mark.parametrize("mark", [b"", b"x", b"\xff", b"1/x", b"//", b"-1/2", b"9" * 50])
async def test_mark_that_is_garbage_is_replaced(redis_client, other, mark):
    await redis_client.set(names.SHARD, mark)
    await redis_client.set(names.SHARDS, mark)
    await Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")]).write()
    assert await redis_client.get(names.SHARD) == b"0/2"
    assert await redis_client.get(names.SHARDS) == b"2"
    await check_keys(redis_client)


@pytest.mark.parametrize("redis_url", ["real"], indirect=True)  # fakeredis closes at an error
async def test_mark_of_another_type_is_replaced(redis_client, other):
    await redis_client.hset(names.SHARDS, "a", 1)
    await Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")]).write()
    assert await redis_client.get(names.SHARDS) == b"2"


async def test_mark_that_changes_while_a_worker_runs_does_not_end_it(redis_client, other, caplog):
    marks = Marks((redis_client, "home"), [(redis_client, "a"), (other, "b")])
    await marks.write()
    marks.interval_s = 0.01
    await redis_client.set(names.SHARDS, "7", ex=5)
    task = asyncio.create_task(marks.write_forever())
    await until(lambda: "marked for 7 event stores" in caplog.text)
    assert await redis_client.get(names.SHARDS) == b"7"
    await redis_client.delete(names.SHARDS)
    async with asyncio.timeout(30):
        while await redis_client.get(names.SHARDS) != b"2":  # noqa: ASYNC110  # Redis has no event
            await asyncio.sleep(0.01)
    await stopped(task)
