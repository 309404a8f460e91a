"""Slots that move: ASK, TRYAGAIN and MOVED on each path of a job."""

import asyncio
import functools
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.crc import key_slot

from berlin_schemas import Chunk, Event, names
from berlin_worker.client import AsyncClient
from berlin_worker.client.stream import Stream
from berlin_worker.embedded.topology import Cluster
from berlin_worker.jobs.store import Progress
from berlin_worker.storage.connections import connect
from berlin_worker.storage.job_store import RedisStore
from tests.support.cluster import half_moved, owners, slots_of_first
from tests.support.store_helpers import JOB, event, make_store, open_log
from tests.support.workers import wait_until

if TYPE_CHECKING:
    from berlin_worker.storage.cluster import AsyncCluster

pytestmark = pytest.mark.contract


def slot_of(job_id: str) -> int:
    return int(key_slot(names.state_key(job_id).encode()))


def job_of_first(cluster: Cluster) -> str:
    """A job ID in a slot of the first primary."""
    slots = slots_of_first(cluster)
    return next(
        job_id for n in itertools.count() if slot_of(job_id := f"{names.new_job_id()}-{n}") in slots
    )


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[RedisStore]:
    async with connect(cluster.url) as client:
        made = make_store(client, owner="owner", lease_s=6, one_slot=True)
        yield made
        await made.aclose()


async def test_job_in_a_moving_slot_is_submitted_claimed_renewed_reaped_and_cancelled(
    cluster: Cluster, store: RedisStore, real_redis_url: str
) -> None:
    job_id = job_of_first(cluster)
    async with AsyncClient(cluster.url, real_redis_url) as client:
        with half_moved(cluster, slot_of(job_id)):
            await client.submit("text", job_id=job_id)
            # Over several connections at once: ASKING and its command need the same one.
            found = await asyncio.gather(*(client.status(job_id) for _ in range(20)))
            assert {status.status for status in found} == {"queued"}
            await client.cancel(job_id)
            assert await store.reap(job_id, again_running_s=1, again_queued_s=1) is None
            await store.keep_cancel_flag(job_id)
            assert await store.renew([(job_id, "owner")]) == ["lost"]
            # Two keys, of which none is at the former node, and one at the new one: TRYAGAIN.
            waiting = asyncio.create_task(store.claim(job_id, b"", call="call", deadline_s=60))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            # A job of another slot of that node does not wait for it.
            claim = await store.claim(job_of_first(cluster), b"{}", call="x", deadline_s=60)
            assert claim.status == "claimed"
            assert not waiting.done()
        claim = await waiting
        assert (claim.status, claim.cancel_reason) == ("claimed", "requested")
        held = [(job_id, claim.owner)]
        assert await store.renew(held) == ["requested"]  # another connection: MOVED
        assert (await client.status(job_id)).status == "running"
        await store.release(job_id, claim.owner)


async def test_script_on_keys_of_which_one_has_moved_runs_after_the_others(
    cluster: Cluster, store: RedisStore
) -> None:
    job_id = job_of_first(cluster)
    await store.claim(job_id, b"{}", call="call", deadline_s=60)  # it has no log yet: TRYAGAIN
    with half_moved(cluster, slot_of(job_id)):
        waiting = asyncio.create_task(store.claim(job_id, b"{}", call="other", deadline_s=60))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
    assert (await waiting).status == "leased"


async def test_events_of_a_job_in_a_moving_slot_hold_up_no_other(
    cluster: Cluster, store: RedisStore
) -> None:
    batches = []
    while len({slot_of(batch.log.job_id) for batch in batches}) < 2:
        claim = await store.claim(job_of_first(cluster), JOB, call="call", deadline_s=60)
        log = open_log(claim)
        log.event(event(log, Chunk, content="text"))
        batches.append(log.take())
    moves = batches[0]
    with half_moved(cluster, slot_of(moves.log.job_id)):
        others = [
            batch for batch in batches if slot_of(batch.log.job_id) != slot_of(moves.log.job_id)
        ]
        found = await store.append([moves, *others])
        assert found == [None, *[True] * len(others)]
    assert await store.append([moves]) == [True]


class Job:
    """A running job, its worker's store, and a client; both may know the cluster as it was."""

    def __init__(self, cluster: Cluster, store: RedisStore, client: AsyncClient) -> None:
        self.cluster, self.store, self.client = cluster, store, client
        self.id = job_of_first(cluster)
        self.slot = slot_of(self.id)
        self.source = owners(cluster)[self.slot]

    async def begin(self) -> None:
        """Submit it, claim it, and publish its first event."""
        await self.client.submit("text", job_id=self.id)
        claim = await self.store.claim(self.id, JOB, call="call", deadline_s=60)
        self.log = open_log(claim)
        assert await self.store.append([self.log.take()]) == [True]

    def forget_the_move(self) -> None:
        """Make both send to the node that had the slot at the beginning."""
        for found in (self.store._redis, self.client._store.redis):
            nodes = cast("AsyncCluster", found).nodes_manager
            nodes.slots_cache[self.slot] = [nodes.nodes_cache[f"127.0.0.1:{self.source.port}"]]

    async def claim(self) -> object:
        return (await self.store.claim(self.id, JOB, call="other", deadline_s=60)).status

    async def append(self) -> object:
        self.log.event(event(self.log, Chunk, content="text"))
        batch = self.log.take()
        while (found := await self.store.append([batch])) == [None]:
            pass  # the store has waited for a moment
        return found

    async def renew(self) -> object:
        return await self.store.renew([(self.id, self.log.owner)])

    async def reap(self) -> object:
        return await self.store.reap(self.id, again_running_s=1, again_queued_s=1)

    async def save_progress(self) -> object:
        return await self.store.save_progress(
            self.id, self.log.owner, Progress(usage={}, fallback=0)
        )

    async def clear_failure(self) -> object:
        return await self.store.clear_failure(self.id, self.log.owner, failed_attempts=0, at_most=9)

    async def submit(self) -> object:
        return await self.client.submit("text", job_id=self.id)

    async def cancel(self) -> object:
        return await self.client.cancel(self.id)

    async def status(self) -> object:
        return (await self.client.status(self.id)).status

    async def read(self) -> object:
        async with self.client.stream(self.id) as events:
            return [event.seq async for event in first_of(events)]


async def first_of(events: Stream) -> AsyncIterator[Event]:
    async for each in events:
        yield each
        return


PATHS: dict[Callable[[Job], Awaitable[object]], object] = {
    Job.renew: ["renewed"],
    Job.reap: None,
    Job.save_progress: None,
    Job.clear_failure: True,
    Job.submit: ...,
    Job.status: "running",
    Job.read: [1],
    Job.cancel: None,
    Job.claim: "leased",
    Job.append: [True],
}
"""The result of each path, wherever its slot is; after `cancel` that of `renew` is another one."""

OF_BOTH_KEYS = (Job.claim, Job.append)
OF_THE_LOG = (Job.read,)


def redirections(job: Job) -> Counter[str]:
    """How often the nodes have replied with each redirection so far."""
    found: Counter[str] = Counter()
    for server in job.cluster.servers:
        with server.client() as client:
            stats: dict[str, Any] = client.info("errorstats")
        for name, counts in stats.items():
            found[name.removeprefix("errorstat_")] += counts["count"]
    return found


def put_off(job: Job, before: Counter[str]) -> bool:
    """Whether a node has replied with TRYAGAIN since ``before``."""
    return (redirections(job) - before)["TRYAGAIN"] > 0


@pytest.mark.parametrize("moved", ["record", "log", "both"])
async def test_each_path_of_a_job_in_a_moving_slot_waits_or_follows_and_goes_on(
    cluster: Cluster, store: RedisStore, real_redis_url: str, moved: str
) -> None:
    keys = {"record": names.state_key, "log": names.log_key}
    async with AsyncClient(cluster.url, real_redis_url) as client:
        job = Job(cluster, store, client)
        await job.begin()
        first = [key(job.id) for name, key in keys.items() if moved in (name, "both")]
        waiting = {}
        with half_moved(cluster, job.slot, first=first):
            for path, expected in PATHS.items():
                job.forget_the_move()
                before = redirections(job)
                doing = asyncio.ensure_future(path(job))
                if path in OF_BOTH_KEYS and moved != "both":
                    await asyncio.to_thread(wait_until, functools.partial(put_off, job, before))
                    assert not doing.done()
                    waiting[path] = doing
                    continue
                assert expected in (..., await doing), path
                asked = (redirections(job) - before)["ASK"]
                assert bool(asked) == (moved in ("both", "log" if path in OF_THE_LOG else "record"))
            assert await store.renew([(job.id, job.log.owner)]) == ["requested"]
        for path, doing in waiting.items():
            assert await doing == PATHS[path]
        for path, expected in PATHS.items():
            job.forget_the_move()
            before = redirections(job)
            found = await path(job)
            assert expected in (..., found) or found == ["requested"], path
            assert (redirections(job) - before)["MOVED"], path
        async with client.stream(job.id, after=1) as events:
            assert [(await anext(events)).seq for _ in range(2)] == [2, 3]
