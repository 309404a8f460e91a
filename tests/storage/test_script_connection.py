"""Scripts over one connection: each caller gets its own reply, even if the connection fails."""

import asyncio

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from berlin_worker.storage.script_connection import ScriptConnection, SharedScriptConnection

pytestmark = pytest.mark.contract

ECHO = "return ARGV[1]"
FAIL = "return redis.error_reply('no')"
COUNT = "return redis.call('INCR', KEYS[1])"


@pytest.fixture
def shared(redis_client):
    return SharedScriptConnection(ScriptConnection(redis_client.connection_pool, ECHO, FAIL, COUNT))


@pytest.fixture
async def real(real_redis_url):
    # fakeredis closes the connection after an error reply.
    async with redis.asyncio.Redis.from_url(real_redis_url) as client:
        yield client


async def test_concurrent_callers_each_get_their_reply(shared):
    replies = await asyncio.gather(*(shared.call(ECHO, [], [number]) for number in range(250)))
    assert replies == [b"%d" % number for number in range(250)]


async def test_callers_of_one_moment_share_a_round_trip(shared, monkeypatch):
    rounds = []
    run = ScriptConnection.run

    async def watched(self, calls):
        rounds.append(len(calls))
        return await run(self, calls)

    monkeypatch.setattr(ScriptConnection, "run", watched)
    await asyncio.gather(*(shared.call(ECHO, [], [number]) for number in range(30)))
    assert rounds == [30]


async def test_error_reaches_only_the_caller_that_caused_the_failure(real):
    shared = SharedScriptConnection(ScriptConnection(real.connection_pool, ECHO, FAIL))
    good, bad, after = await asyncio.gather(
        *(shared.call(ECHO, [], ["a"]), shared.call(FAIL, [], []), shared.call(ECHO, [], ["b"])),
        return_exceptions=True,
    )
    assert (good, after) == (b"a", b"b")
    assert isinstance(bad, ResponseError)


async def test_caller_that_is_cancelled_leaves_no_reply_to_the_next(shared):
    calls = [asyncio.create_task(shared.call(ECHO, [], [number])) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    assert await calls[0] == b"0"
    assert await calls[2] == b"2"
    assert await shared.call(ECHO, [], ["next"]) == b"next"


async def test_abandoned_run_stops_and_the_next_caller_is_served(shared):
    for _ in range(20):
        calls = [asyncio.create_task(shared.call(ECHO, [], [number])) for number in range(3)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert await shared.call(ECHO, [], ["next"]) == b"next"
    assert shared._batcher._task is None


async def test_connection_that_was_closed_meanwhile_is_made_anew(shared):
    assert await shared.call(COUNT, ["count"], []) == 1
    await shared._connection._connection.disconnect(nowait=True)
    assert await shared.call(COUNT, ["count"], []) == 2


async def test_scripts_that_the_server_forgot_are_loaded_again(real):
    shared = SharedScriptConnection(ScriptConnection(real.connection_pool, ECHO))
    assert await shared.call(ECHO, [], ["a"]) == b"a"
    await real.script_flush()
    with pytest.raises(ResponseError):
        await shared.call(ECHO, [], ["b"])
    assert await shared.call(ECHO, [], ["c"]) == b"c"


async def test_server_that_is_away_is_an_error_of_every_caller():
    pool = redis.asyncio.ConnectionPool.from_url("redis://127.0.0.1:1/0")
    shared = SharedScriptConnection(ScriptConnection(pool, ECHO))
    errors = await asyncio.gather(
        *(shared.call(ECHO, [], [number]) for number in range(3)), return_exceptions=True
    )
    assert all(isinstance(error, redis.exceptions.ConnectionError) for error in errors)
