"""Two event stores, real servers, real workers: who is where, and what one that is away does."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from berlin_schemas import names
from berlin_schemas.shards import shard_of
from berlin_worker.client import AsyncClient, JobFailed, Options
from berlin_worker.embedded.redis_server import RedisProcess
from berlin_worker.embedded.upstream import upstream_in_thread
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from tests.support.checker import text_of
from tests.support.cli import Stack
from tests.support.fleet import QUICK_LEASES, TERMINAL, Fleet, prompt, recorded
from tests.support.workers import WorkerProcess, wait_until

pytestmark = pytest.mark.integration

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
ENDLESS = "[[endless]] [[drip:0.01]]"


@dataclass
class Shards:
    """A fleet whose events are in two servers, neither of them the one of the queue."""

    fleet: Fleet
    servers: list[RedisProcess]

    def __post_init__(self) -> None:
        self.urls = [server.url for server in self.servers]
        self.fleet.env |= {"WORKER_EVENT_SHARDS": ",".join(self.urls), **QUICK_LEASES}
        self.stores = [redis.Redis.from_url(url) for url in self.urls]
        # What each of them publishes, and holds, as the fleet of one server sees its own.
        self.views = [Fleet(url, self.fleet.upstream) for url in self.urls]

    def view(self, job_id: str) -> Fleet:
        """The store that holds a job."""
        return self.views[shard_of(job_id, 2)]

    def send(self, shard: int, text: str, **fields: Any) -> str:
        """A job on this shard, by a producer that knows nothing of shards."""
        job_id = job_on(shard)
        return self.fleet.send(prompt(text, **fields), task_id=job_id)

    def client(self, *urls: str) -> AsyncClient:
        """A client with these shards; all of them where none is named."""
        settings = Settings(redis_url=self.fleet.env["REDIS_URL"])
        options = Options(wait_for_start_s=20, give_up_after_s=20)
        return AsyncClient(event_shards=urls or self.urls, settings=settings, options=options)


def job_on(shard: int) -> str:
    """A new job ID of this shard."""
    while shard_of(job_id := names.new_job_id(), 2) != shard:
        pass
    return job_id


@pytest.fixture
def shards(fleet: Fleet, redis_server: RedisProcess) -> Iterator[Shards]:
    binary = redis_server._binary
    with RedisProcess(binary, DURABLE) as first, RedisProcess(binary, DURABLE) as second:
        yield Shards(fleet, [first, second])


def job_keys(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter("job:*")}


def test_jobs_are_spread_and_all_that_is_of_a_job_is_on_its_shard(shards):
    fleet = shards.fleet
    with (
        fleet.worker("-c", "20"),
        recorded(shards.views[0]) as first,
        recorded(shards.views[1]) as second,
    ):
        job_ids = [fleet.send(prompt(f"Grüße {n} 🙂")) for n in range(30)]
        for n, job_id in enumerate(job_ids):
            assert text_of(shards.view(job_id).ended(job_id)) == f"echo of Grüße {n} 🙂"
        held = [{job_id for job_id in job_ids if shard_of(job_id, 2) == n} for n in (0, 1)]
        logs = [
            {f"job:{job_id}": view.log(job_id) for job_id in ids}
            for ids, view in zip(held, shards.views, strict=True)
        ]
        wait_until(lambda: [first, second] == logs, "the same bytes on channels and in logs")
    for ids, store in zip(held, shards.stores, strict=True):
        assert ids
        of_jobs = {f"job:{{{job_id}}}:{part}" for job_id in ids for part in ("state", "log")}
        assert job_keys(store) == of_jobs
        assert all(store.ttl(key) > 0 for key in store.scan_iter())
        assert store.zcard("worker:due") == 0
        assert not list(store.scan_iter("token:*"))
    assert job_keys(fleet.redis) == set()
    assert len(list(fleet.redis.scan_iter("token:*"))) > 0


async def test_the_client_finds_each_job(shards):
    with shards.fleet.worker("-c", "20"):
        async with shards.client() as client:
            streams = {job_on(n % 2): f"text {n}" for n in range(10)}
            texts = await asyncio.gather(
                *(
                    _text(client.submit_and_stream(text, job_id=job_id))
                    for job_id, text in streams.items()
                )
            )
            assert texts == [f"echo of {text}" for text in streams.values()]
            for job_id, text in streams.items():
                assert (await client.result(job_id, 20)).text == f"echo of {text}"
                assert (await client.status(job_id)).status == "completed"
    assert job_keys(shards.fleet.redis) == set()


async def test_a_client_follows_many_jobs_over_one_connection_to_each_shard(shards):
    async with shards.client() as client, contextlib.AsyncExitStack() as stack:
        for n in range(10):
            await stack.enter_async_context(client.stream(job_on(n % 2)))
        assert [len(store.client_list(_type="pubsub")) for store in shards.stores] == [1, 1]


async def test_a_shard_that_is_not_used_is_not_connected_to(shards):
    async with shards.client() as client:
        job_id = job_on(0)
        assert (await client.status(job_id)).status == "unknown"
        with pytest.raises(TimeoutError):
            await client.result(job_id, 0.2)
        assert len(shards.stores[0].client_list(_type="pubsub")) == 1
        assert len(shards.stores[1].client_list()) == 1, "the connection that asks"


@pytest.mark.parametrize("shard", [0, 1])
async def test_jobs_are_cancelled_on_every_shard_running_or_waiting(shards, shard):
    async with shards.client() as client:
        waiting = await client.submit("never sent", job_id=job_on(shard))
        await client.cancel(waiting, "not wanted")
        with shards.fleet.worker("-c", "20", WORKER_RENEW_INTERVAL_S="0.9"):
            with pytest.raises(JobFailed, match="cancelled"):
                await client.result(waiting, 20)
            running = await client.submit(ENDLESS, job_id=job_on(shard))
            async with client.stream(running) as stream:
                async for event in stream:
                    if event.type == "chunk":
                        await client.cancel(running, "enough")
                        break
            with pytest.raises(JobFailed, match="cancelled"):
                await client.result(running, 20)
    assert "never sent" not in str(shards.fleet.upstream.calls)


def test_the_jobs_of_a_killed_worker_start_again_on_both_shards(shards):
    jobs = [shards.send(shard, "[[drip:0.05]] one two three four five") for shard in (0, 1)]
    with shards.fleet.worker("-c", "20") as first:
        for job_id in jobs:
            shards.view(job_id).running(job_id)
        first.kill()
        with shards.fleet.worker("-c", "20"):
            for job_id in jobs:
                events = shards.view(job_id).ended(job_id)
                assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
                assert events[-1]["type"] == "completed"
                assert events[-1]["attempt"] > 1


def test_a_shard_that_dies_and_comes_back_holds_up_its_own_jobs_alone(shards):
    """Streams on it go on where they were; jobs that come meanwhile hold no slot."""
    reply = " ".join(f"word{n}" for n in range(150))
    _, second = shards.servers
    with (
        upstream_in_thread(reply=lambda asked: reply, chunk_delay_s=0.05) as upstream,
        shards.fleet.worker("-c", "6", **upstream.environ) as worker,
    ):
        streams = [shards.send(shard, "x") for shard in (0, 0, 1, 1)]
        for job_id in streams:
            shards.view(job_id).running(job_id)
        second.kill()
        well = shards.send(0, "x")
        shards.view(well).running(well)
        worker.wait_for_log("does not answer")
        # More than there are slots: they do not fill them.
        late = [shards.send(1, "x") for _ in range(10)]
        parked = names.parked_key(1)
        wait_until(lambda: shards.fleet.redis.zcard(parked) == 10, "jobs of the dead shard parked")
        still_well = shards.send(0, "x")
        assert text_of(shards.view(well).ended(well)) == reply
        assert text_of(shards.view(still_well).ended(still_well)) == reply
        second.start()
        for job_id in [*streams, *late]:
            events = shards.view(job_id).ended(job_id)
            assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
            assert sum(e["type"] in TERMINAL for e in events) == 1
            assert text_of(events) == reply
        wait_until(lambda: not shards.fleet.redis.exists(parked), "nothing is parked any more")


def test_a_worker_with_another_list_says_so_and_ends(shards):
    first, second = shards.urls
    with shards.fleet.worker():
        for listed, told in {
            f"{second},{first}": "the order must be the same everywhere",
            f"{first}": "WORKER_EVENT_SHARDS names 1",
            "": "spread over 2 event stores",
        }.items():
            other = WorkerProcess(
                "berlin_worker", env=shards.fleet.env | {"WORKER_EVENT_SHARDS": listed}, wait=False
            )
            with other:
                assert other.wait() != 0
                assert told in other.log


async def test_a_client_with_another_list_gets_an_error_and_reads_nothing(shards):
    first, second = shards.urls
    home = shards.fleet.env["REDIS_URL"]
    with shards.fleet.worker():
        for listed in ([second, first], [first], [home], [first, second, home]):
            job_id = job_on(1)
            async with shards.client(*listed) as client:
                for call in (
                    client.submit("x", job_id=job_id),
                    client.status(job_id),
                    client.cancel(job_id),
                    client.result(job_id),
                ):
                    with pytest.raises(SettingsError, match="WORKER_EVENT_SHARDS"):
                        await call
    assert shards.fleet.upstream.calls == []


async def test_jobs_that_were_submitted_with_another_list_run_and_leave_nothing_behind(shards):
    async with shards.client(*reversed(shards.urls)) as client:  # no worker has marked them yet
        jobs = [await client.submit(f"text {n}", job_id=job_on(n % 2)) for n in range(4)]
    with shards.fleet.worker("-c", "20"):
        for n, job_id in enumerate(jobs):
            assert text_of(shards.view(job_id).ended(job_id)) == f"echo of text {n}"
        wait_until(lambda: not any(map(_watched, shards.stores)), "the strays are forgotten")
    for job_id in jobs:
        other = shards.stores[1 - shard_of(job_id, 2)]
        assert not other.exists(names.state_key(job_id), names.log_key(job_id))


def _watched(store: redis.Redis) -> int:
    """How many jobs are watched; what is, is due, as if half a minute had passed."""
    for job_id in store.zrange("worker:due", 0, -1):
        store.zadd("worker:due", {job_id: 1}, xx=True)
    return int(store.zcard("worker:due"))


def test_the_doctor_looks_at_every_shard_and_at_the_order(shards):
    with shards.fleet.worker():
        assert not _told(shards, ",".join(shards.urls), "fail")
        swapped = _told(shards, ",".join(reversed(shards.urls)), "fail")
        assert sum("the order must be the same" in told for told in swapped) == 2
        [told] = _told(shards, "", "fail")
        assert "spread over 2 event stores" in told
    shards.servers[1].kill()
    [told] = _told(shards, ",".join(shards.urls), "fail")
    assert "does not answer" in told


def _told(shards: Shards, listed: str, level: str) -> list[str]:
    said = _berlin(shards, "doctor", "--no-login", "--json", listed=listed)
    lines = [json.loads(line) for line in said.splitlines()]
    return [line["message"] for line in lines if line["level"] == level]


def test_the_command_line_follows_a_job_on_any_shard(shards):
    with shards.fleet.worker():
        for shard in (0, 1):
            job_id = shards.send(shard, "hello")
            events = shards.view(job_id).ended(job_id)
            assert _berlin(shards, "tail", job_id) == "echo of hello\n"
            lines = _berlin(shards, "tail", "--json", job_id).splitlines()
            assert [line.encode() for line in lines] == shards.view(job_id).log(job_id)
            assert len(lines) == len(events)


def _berlin(shards: Shards, *arguments: str, listed: str | None = None) -> str:
    """What the command says on stdout."""
    stack = Stack(shards.fleet.env["REDIS_URL"], shards.fleet.upstream)
    listed = ",".join(shards.urls) if listed is None else listed
    return stack.run(*arguments, env={"WORKER_EVENT_SHARDS": listed})[1]


async def _text(stream: Any) -> str:
    return "".join([event.content async for event in stream if event.type == "chunk"])
