"""A primary that does not answer: jobs of other nodes go on, and its own jobs when it is back."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from berlin_schemas import Started, names
from berlin_worker.cli import preflight
from berlin_worker.cli.doctor import topology
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.client import AsyncClient, Unavailable
from berlin_worker.client.fleet_reader import read
from berlin_worker.embedded.topology import Cluster, Member
from berlin_worker.jobs.job_log import JobLog
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.store_retry import retry_until_available
from berlin_worker.settings import Settings
from berlin_worker.storage.cluster import AsyncCluster
from berlin_worker.storage.connections import connect
from berlin_worker.storage.fleet import Fleet
from berlin_worker.storage.job_store import RedisStore
from tests.support.cluster import first_primary_stopped, primaries, primary_stopped
from tests.support.store_helpers import make_store
from tests.support.waiting import until

pytestmark = pytest.mark.contract

CHUNKS = 20


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncCluster]:
    async with connect(cluster.url) as made:
        assert isinstance(made, AsyncCluster)
        await made.initialize()
        yield made


@pytest.fixture
async def store(client: AsyncCluster) -> AsyncIterator[RedisStore]:
    made = make_store(client, owner="owner", lease_s=6, one_slot=True)
    yield made
    await made.aclose()


@pytest.fixture
async def journal(store: RedisStore) -> AsyncIterator[Journal]:
    assert store.nodes is not None
    made = Journal(store, buffer_bytes=30_000, node_of=store.nodes.node_of)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait({running})


def job_at(client: AsyncCluster, node: str, *, index: str = "") -> str:
    """A job ID whose keys are at a node, and its index entry at the node ``index``."""
    for number in itertools.count():
        job_id = f"{names.new_job_id()}-{number}"
        if client.node_of(names.state_key(job_id)) == node and index in {
            "",
            client.node_of(names.due_key(job_id)),
        }:
            return job_id
    raise AssertionError


async def begun(store: RedisStore, journal: Journal, job_id: str) -> JobLog:
    claim = await store.claim(job_id, b"{}", call="call", deadline_s=60)
    log = journal.open(claim, on_fenced=lambda: None)
    log.event(Started(job_id=job_id, seq=log.next_seq, attempt=claim.attempt, ts=1.0))
    await log.flush()
    return log


async def test_jobs_of_other_nodes_are_claimed_streamed_renewed_cancelled_and_read(
    cluster: Cluster, real_redis_url: str, client: AsyncCluster, store: RedisStore, journal: Journal
) -> None:
    dead, *living = [f"127.0.0.1:{server.public_port}" for server in primaries(cluster)]
    waiting = await begun(store, journal, job_at(client, dead))
    logs = [await begun(store, journal, job_at(client, node)) for node in living]
    async with AsyncClient(cluster.url, real_redis_url) as reader, asyncio.timeout(60):
        streams = [reader.stream(log.job_id) for log in (waiting, *logs)]
        for stream in streams:
            assert (await anext(stream)).type == "started"
        with first_primary_stopped(cluster):
            waiting.chunk(["x" * 40_000])  # more than the buffer of a node, and of all of them
            held_up = asyncio.create_task(
                retry_until_available(lambda: store.renew([(waiting.job_id, waiting.owner)]))
            )
            for _ in range(CHUNKS):
                for log, stream in zip(logs, streams[1:], strict=True):
                    assert not log.writer.full
                    log.chunk(["a"])
                    assert (await anext(stream)).type == "chunk"
            held = [(log.job_id, log.owner) for log in logs]
            assert await store.renew(held) == ["renewed", "renewed"]
            assert store.nodes is not None
            await store.nodes.answers()
            for log in logs:
                assert (await reader.status(log.job_id)).status == "running"
                await reader.cancel(log.job_id)
            assert await store.renew(held) == ["requested"] * 2
            late = job_at(client, living[0], index=dead)
            claim = await store.claim(late, b"{}", call="late", deadline_s=60)
            assert claim.status == "claimed"
            assert waiting.writer.full
            assert not held_up.done()
        await waiting.flush()
        assert (await anext(streams[0])).type == "chunk"
        assert await held_up == ["renewed"]
        await store.update_index()
        assert await client.zscore(names.due_key(late), late) is not None
        for stream in streams:
            await stream.aclose()


def split(cluster: Cluster, dead: str) -> tuple[Member, str, list[str]]:
    """The primary at ``dead``, its place, and those of the others."""
    places = {f"127.0.0.1:{server.public_port}": server for server in primaries(cluster)}
    return places[dead], dead, [place for place in places if place != dead]


def others_jobs(client: AsyncCluster, dead: str, living: Sequence[str]) -> list[str]:
    """Jobs of living nodes, with an index entry at each node."""
    return [job_at(client, node, index=index) for node in living for index in (dead, *living)]


async def test_jobs_of_other_nodes_are_submitted_and_claimed_though_index_entries_are_lost(
    cluster: Cluster, real_redis_url: str, client: AsyncCluster, store: RedisStore
) -> None:
    stopped, dead, living = split(cluster, client.node_of(names.JOBS))
    async with (
        AsyncClient(cluster.url, real_redis_url) as producer,
        AsyncClient(cluster.url, real_redis_url) as late,
        asyncio.timeout(60),
    ):
        await producer.submit("before", job_id=job_at(client, dead))
        with primary_stopped(cluster, stopped):
            at_dead = [job_at(client, dead) for _ in range(70)]  # more than are sent at once
            stuck = [asyncio.create_task(late.submit("stuck", job_id=job)) for job in at_dead]
            for submitter in (producer, late):
                jobs = others_jobs(client, dead, living)
                await asyncio.gather(*(submitter.submit("x", job_id=job_id) for job_id in jobs))
                for job_id in jobs:
                    assert (await submitter.status(job_id)).status == "queued"
                    claim = await store.claim(job_id, b"{}", call="c", deadline_s=60)
                    assert claim.status == "claimed"
            assert not any(task.done() for task in stuck)
        outcomes = await asyncio.gather(*stuck, return_exceptions=True)
        assert all(isinstance(each, str | Unavailable) for each in outcomes)
        await store.update_index()
        for job_id in jobs:
            assert await client.zscore(names.due_key(job_id), job_id) is not None


class Queue:
    """A queue of jobs that takes each."""

    def __init__(self) -> None:
        self.requeued: list[str] = []

    async def requeue(
        self, job_id: str, job: bytes, trace: bytes = b""
    ) -> None:  # the queue's signature
        self.requeued.append(job_id)

    async def depth(self) -> int:
        return 0


async def discard(*letter: object) -> None:
    raise AssertionError(letter)


async def test_expired_leases_of_other_nodes_are_found(
    cluster: Cluster, client: AsyncCluster
) -> None:
    store = make_store(client, owner="dead worker", lease_s=0.5, one_slot=True)
    queue = Queue()
    stopped, dead, living = split(cluster, client.node_of(names.DUE_TURN))
    at_dead = [job_at(client, dead) for _ in range(5)]
    jobs = [job_at(client, node, index=entry) for node in living for entry in living]
    lost = [job_at(client, node, index=dead) for node in living]  # their entries are away
    leases = Leases(
        store,
        lease_s=0.5,
        renew_interval_s=1.0,
        reap_interval_s=0.05,
        job_queue=queue,
        discard=discard,
        nodes=store.nodes,
    )
    async with asyncio.timeout(60):
        with primary_stopped(cluster, stopped):
            reaping = asyncio.create_task(leases.reap_forever())
            for job_id in (*jobs, *lost):
                await store.claim(job_id, b"{}", call="c", deadline_s=60)
            late = [
                asyncio.create_task(store.claim(job_id, b"{}", call="c", deadline_s=60))
                for job_id in at_dead
            ]
            await until(lambda: {*jobs, *lost} <= set(queue.requeued))
            assert leases.silent_s < 5.0
        await asyncio.wait(late)
        await until(lambda: {*jobs, *lost, *at_dead} <= set(queue.requeued))
    assert not reaping.done()
    reaping.cancel()
    await asyncio.wait({reaping})
    await store.aclose()


async def test_what_other_nodes_have_is_listed_and_shown(
    cluster: Cluster, real_redis_url: str, client: AsyncCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(topology, "TIMEOUT_S", 1.0)
    settings = Settings(redis_url=cluster.url, broker_url=real_redis_url)
    stopped, dead, living = split(cluster, client.node_of(names.FLEET))
    assert client.node_of(names.JOBS) in living
    async with AsyncClient(cluster.url, real_redis_url) as reader, asyncio.timeout(120):
        jobs = [await reader.submit("x", job_id=job_at(client, node)) for node in (dead, *living)]
        letters = await client.xlen(names.DEAD_LETTERS)  # other tests may leave some
        with primary_stopped(cluster, stopped):
            fleet, checks = await asyncio.to_thread(shown, settings)
            assert (fleet.unread, fleet.dead_letters) == (("workers",), letters)
            assert fleet.unread_text.startswith("the workers cannot be read: ")
            assert any(each.level != "ok" and dead in each.message for each in checks)
            listed = await reader.list()
            found = {each.job_id: each.status for each in listed if each.job_id in jobs}
            assert found == dict.fromkeys(jobs, "queued") | {jobs[0]: "unknown"}
            queued = {each.job_id for each in await reader.list(status="queued")}
            assert queued & set(jobs) == set(jobs[1:])


def shown(settings: Settings) -> tuple[Fleet, list[CheckResult]]:
    """What `berlin top` and `berlin doctor` show."""
    with preflight.open_redis(settings.redis_url) as redis:
        fleet = Fleet.of(read(redis, settings))
    assert preflight.redis_problem(settings.redis_url) is None
    return fleet, list(topology.examine(settings.redis_url))
