"""Two fleets on two databases of one server: channels are one for both, and nothing is mixed up."""

import asyncio
import json

import pytest
import redis
import redis.asyncio

from berlin_schemas import Cancelled, Chunk, Completed, decode, encode, names
from berlin_worker.cli.doctor import shared_server
from berlin_worker.client import AsyncClient, Client, Options
from berlin_worker.settings import Settings
from berlin_worker.storage.databases import database_of, other_fleets
from tests.support.client_helpers import next_message
from tests.support.harness import ScriptedProvider, Worker, cancelled, says
from tests.support.job_writer import TIMINGS
from tests.support.store_helpers import raw_log, subscribed

pytestmark = pytest.mark.contract

OPTIONS = Options(reread_after_s=0.2, wait_for_start_s=5)


@pytest.fixture
def urls(real_redis_url: str) -> list[str]:
    """Databases 0, 1 and 5."""
    return [real_redis_url.removesuffix("/0") + f"/{n}" for n in (0, 1, 5)]


def text(events) -> str:
    return "".join(event.content for event in events if isinstance(event, Chunk))


@pytest.mark.parametrize("places", [(0, 1), (1, 2)])
async def test_readers_of_one_job_id_in_two_fleets_get_their_own_text(urls, places):
    pair = [urls[place] for place in places]

    def slowly(name: str):
        async def stream(job, report):
            for n in range(30):
                yield [f"{name}{n} "]
                await asyncio.sleep(0.005)

        return stream

    async def fleet(url: str, name: str) -> str:
        async with (
            redis.asyncio.Redis.from_url(url) as server,
            Worker(server, ScriptedProvider(slowly(name))) as worker,
            AsyncClient(url, settings=Settings(), options=OPTIONS) as client,
            client.stream("order-1") as stream,
        ):
            task = worker.start("order-1")
            events = [event async for event in stream]
            await task
            assert events == await worker.log("order-1")
            return text(events)

    found = await asyncio.gather(fleet(pair[0], "prod"), fleet(pair[1], "test"))
    for name, said in zip(("prod", "test"), found, strict=True):
        assert said == "".join(f"{name}{n} " for n in range(30))


async def test_channel_and_log_have_the_same_bytes_which_name_the_database(urls):
    for url, database in zip(urls, (0, 1, 5), strict=True):
        async with (
            redis.asyncio.Redis.from_url(url) as server,
            Worker(server, ScriptedProvider(says("a", "b"))) as worker,
            subscribed(server, "mine") as channel,
        ):
            assert database_of(server) == database
            await worker.run("mine")
            log = await raw_log(server, "mine")
            assert await channel.read(len(log)) == log
            assert [decode(data).db for data in log] == [database] * 4
            assert [b'"db"' in data for data in log] == [database > 0] * 4


async def test_reader_takes_no_end_and_no_later_event_of_another_fleet(urls):
    head = {"job_id": "mine", "attempt": 1, "ts": 1.0, "db": 1}
    foreign = [
        encode(Cancelled(**head, seq=2, reason="theirs")),
        encode(Completed(**head, seq=2, finish_reason="stop", timings=TIMINGS)),
        encode(Chunk(**head, seq=99, content="theirs")),
        b"not JSON",
        b'{"v": 2}',
    ]
    async with (
        redis.asyncio.Redis.from_url(urls[0]) as server,
        Worker(server, ScriptedProvider(says("own", hangs=True))) as worker,
        AsyncClient(urls[0], settings=Settings(), options=OPTIONS) as client,
        client.stream("mine") as stream,
    ):
        for data in foreign:
            await server.publish(names.channel("mine"), data)
        task = worker.start("mine")
        assert [(await anext(stream)).type for _ in range(2)] == ["started", "chunk"]
        for data in foreign:
            await server.publish(names.channel("mine"), data)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.5)
        async with cancelled(task):
            pass


async def test_reader_finds_its_own_events_while_another_fleet_never_pauses(urls):
    chunk = Chunk(job_id="mine", attempt=1, ts=1.0, db=1, seq=99, content="theirs")
    async with (
        redis.asyncio.Redis.from_url(urls[0]) as server,
        AsyncClient(urls[0], settings=Settings(), options=OPTIONS) as client,
    ):
        await server.hset(names.state_key("mine"), "status", "queued")
        async with client.stream("mine") as stream:

            async def never_pauses() -> None:
                while True:
                    await server.publish(names.channel("mine"), encode(chunk))
                    await asyncio.sleep(0.01)

            noise = asyncio.create_task(never_pauses())
            # Its own message is lost on the way: only the log has it.
            end = Cancelled(job_id="mine", attempt=1, ts=1.0, seq=1, reason="x")
            await server.xadd(names.log_key("mine"), {"event": encode(end)}, id="1-0")
            assert await asyncio.wait_for(anext(stream), 30) == end
            noise.cancel()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_control_message_names_the_database_if_it_is_not_0(urls, kind):
    async with redis.asyncio.Redis.from_url(urls[0]) as server, server.pubsub() as control:
        await control.subscribe(names.CONTROL_CHANNEL)
        await next_message(control)
        for url in urls[:2]:
            if kind == "async":
                async with AsyncClient(url, settings=Settings()) as client:
                    await client.cancel("mine")
            else:
                with Client(url, settings=Settings()) as client:
                    await asyncio.to_thread(client.cancel, "mine")
        heard = [json.loads((await next_message(control))["data"]) for _ in range(2)]
    assert heard == [{"cancel": "mine"}, {"cancel": "mine", "fleet": 1}]


def test_other_fleets_of_a_server_are_found_by_their_keys(urls):
    def open_database(number: int) -> redis.Redis:
        return redis.Redis.from_url(urls[0].removesuffix("/0") + f"/{number}")

    with open_database(0) as own:
        own.set("anything", 1)
        assert other_fleets(own, {0}) == []
        for number, key in ((1, names.FLEET), (2, "another:service"), (5, names.DUE_KEYS[63])):
            with open_database(number) as other:
                other.zadd(key, {"x": 1})
        assert other_fleets(own, {0}) == [1, 5]
        assert other_fleets(own, {0, 5}) == [1]
        [found] = shared_server.examine(own)
        assert (found.level, found.message) == (
            "warn",
            "another fleet uses databases 1, 5 of this server",
        )
