"""A job store over a Redis, lost replies, records and logs read back."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_schemas import Event, Started, decode, names
from berlin_worker.jobs.job_log import Batch, JobLog
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.store import Claim
from berlin_worker.storage.job_store import SCRIPTS, RedisStore
from berlin_worker.storage.scripts import source

LOG_TTL_S = 100
QUEUE_TTL_S = 1000
JOB = b'{"messages":[{"role":"user","content":"Hello"}]}'


CLUSTERED: Final[set[int]] = set()
"""Ports of the servers of this process that are nodes of a cluster."""


def is_clustered(client: redis.asyncio.Redis) -> bool:
    """Return whether ``client`` is connected to a node of a cluster of the tests."""
    return client.connection_pool.connection_kwargs.get("port") in CLUSTERED


def make_store(
    client: redis.asyncio.Redis,
    *,
    owner: str = "worker-1",
    lease_s: float = 60.0,
    one_slot: bool | None = None,
) -> RedisStore:
    """Return a store whose leases do not expire while a test runs."""
    store = RedisStore(
        client,
        owner=owner,
        lease_s=lease_s,
        log_ttl_s=LOG_TTL_S,
        queue_ttl_s=QUEUE_TTL_S,
        dead_letters_max=5,
        one_slot=is_clustered(client) if one_slot is None else one_slot,
    )
    if isinstance(client, LosesReplies):
        # These connections do not use the client, so they lose replies by themselves.
        for connection in {store._append, store._records, store._renewals}:
            connection.run = client.losing(connection.run)
    return store


async def load_scripts(client: redis.asyncio.Redis) -> None:
    """Load what the store runs: fakeredis breaks a connection that asks for an unknown script."""
    for script in (*SCRIPTS, source("submit")):
        await client.script_load(script)


class LosesReplies(redis.asyncio.Redis):
    """Sends a command; while ``lose`` is set, it then behaves as if its connection had broken."""

    lose: int = 0

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Lose every reply; on a cluster the loss of an index write's reply alone is no error."""
        self.lose = sys.maxsize
        try:
            yield
        finally:
            self.lose = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command; the replies of the next ``lose`` commands are lost."""
        return await self.losing(super().execute_command)(*args, **options)

    def losing(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return ``call``, of which replies are lost as those of commands are."""

        async def lossy(*args: Any, **options: Any) -> Any:
            reply = await call(*args, **options)
            if self.lose:
                self.lose -= 1
                raise RedisConnectionError("the reply was lost")
            return reply

        return lossy


@contextlib.asynccontextmanager
async def loses_replies(url: str) -> AsyncIterator[LosesReplies]:
    """Yield a client of ``url`` that loses replies on demand."""
    async with LosesReplies.from_url(url) as client:
        yield client


class NoStore:
    """For logs that are emptied by hand."""

    async def append(self, batch: list[Batch]) -> list[bool]:
        """Fail: a test must not call it."""
        raise NotImplementedError


def open_log(claim: Claim, *, opened: bool = True) -> JobLog:
    """Return a log for ``claim`` that no writer empties; with ``opened`` it has ``started``."""
    journal = Journal(NoStore(), buffer_bytes=1 << 30)
    log = journal.open(claim, on_fenced=lambda: None)
    if opened:
        log.event(event(log, Started))
    return log


def event(log: JobLog, kind: Any, **fields: Any) -> Any:
    """Return the next event of ``log``."""
    return kind(job_id=log.job_id, seq=log.next_seq, attempt=log.attempt, ts=time.time(), **fields)


async def expire_lease(client: redis.asyncio.Redis, job_id: str, ran_ms: int = 0) -> None:
    """Change the record as if the worker had been silent for longer than the lease.

    Before that the job had run for ``ran_ms``.
    """
    if await client.exists(names.state_key(job_id)):
        times = {"first_lease_ms": 1, "lease_ms": 1 + ran_ms}
        await client.hset(names.state_key(job_id), mapping=times)
    await make_due(client, job_id)


async def make_due(client: redis.asyncio.Redis, job_id: str, score: float | str = 1) -> None:
    """Give the job an index entry that is due by ``score``."""
    key = names.due_key(job_id)
    await client.zadd(key, {job_id: score})
    if await client.ttl(key) < 0:
        await client.expire(key, QUEUE_TTL_S)


async def due_at(client: redis.asyncio.Redis, job_id: str) -> float | None:
    """Return the score of the index entry of the job."""
    score: float | None = await client.zscore(names.due_key(job_id), job_id)
    return score


async def indexed(client: redis.asyncio.Redis) -> set[bytes]:
    """Return the members of all partitions of the index."""
    return {each for key in names.DUE_KEYS for each in await client.zrange(key, 0, -1)}


async def record(client: redis.asyncio.Redis, job_id: str) -> dict[str, str]:
    """Return the record of a job."""
    found: dict[bytes, bytes] = await client.hgetall(names.state_key(job_id))
    return {name.decode(): value.decode() for name, value in found.items()}


async def raw_log(client: redis.asyncio.Redis, job_id: str) -> list[bytes]:
    """Return the bytes of the log of a job; check its IDs and its field."""
    entries = await client.xrange(names.log_key(job_id))
    for n, (entry_id, fields) in enumerate(entries, 1):
        assert entry_id.decode() == f"{n}-0"
        assert list(fields) == [b"event"]
    return [fields[b"event"] for _, fields in entries]


async def read_log(client: redis.asyncio.Redis, job_id: str) -> list[Event]:
    """Return the events of the log of a job; check what holds for every log."""
    events = [decode(data) for data in await raw_log(client, job_id)]
    check_log(events, job_id)
    return events


def check_log(events: list[Event], job_id: str) -> None:
    """Assert what holds for every log by the contract."""
    assert [each.seq for each in events] == list(range(1, len(events) + 1))
    assert {each.job_id for each in events} <= {job_id}
    attempts = [each.attempt for each in events]
    assert attempts == sorted(attempts), "attempts interleave"
    terminal = [each.type in {"completed", "failed", "cancelled"} for each in events]
    assert not any(terminal[:-1]), "something follows the terminal event"


def text_of(events: list[Event]) -> str:
    """Return the text that a reader has at the end: the chunks since the last reset."""
    text = ""
    for each in events:
        if each.type == "chunk":
            text += each.content
        elif each.type == "reset":
            text = ""
    return text


async def check_keys(client: redis.asyncio.Redis) -> None:
    """Assert that the contract names each key, and that all but the dead letters have a TTL."""
    for key in [key.decode() async for key in client.scan_iter()]:
        assert key.startswith(("job:{", "worker:")), f"{key} is no key of the contract"
        if key != names.DEAD_LETTERS:
            assert await client.ttl(key) > 0, f"{key} has no TTL"


class Channel:
    """What is published for a job, as bytes, from the moment it is subscribed."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self.messages: list[bytes] = []

    async def read(self, count: int) -> list[bytes]:
        """Wait for ``count`` messages; return all that have come."""
        async with asyncio.timeout(30):
            while len(self.messages) < count:
                message = await self._pubsub.get_message(timeout=1.0)
                if message is not None:
                    self.messages.append(message["data"])
        return self.messages


@contextlib.asynccontextmanager
async def subscribed(client: redis.asyncio.Redis, job_id: str) -> AsyncIterator[Channel]:
    """Yield the channel of a job, once its subscription is acknowledged."""
    async with client.pubsub() as pubsub:
        if is_clustered(client):
            await pubsub.ssubscribe(names.sharded_channel(job_id))
        else:
            await pubsub.subscribe(names.channel(job_id))
        async with asyncio.timeout(30):
            while True:
                message = await pubsub.get_message(timeout=1.0)
                if message is not None and message["type"] in {"subscribe", "ssubscribe"}:
                    break
        yield Channel(pubsub)


def job_object(**fields: Any) -> dict[str, Any]:
    """Return a valid job object."""
    return {"messages": [{"role": "user", "content": "Hello"}], **fields}


def job_bytes(**fields: Any) -> bytes:
    """Return a valid job object as JSON."""
    return json.dumps(job_object(**fields)).encode()
