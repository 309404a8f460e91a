"""The control channel over real pub/sub."""

import asyncio
import json

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker.storage import cancel_listener
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.contract


class Listener:
    """A task that listens; it is stopped however the test ends."""

    def __init__(self, client, **how):
        self.asked = []
        self._client = client
        self._how = how

    async def cancel(self, job_id, reason):
        self.asked.append((job_id, reason))

    async def __aenter__(self):
        self.task = asyncio.create_task(
            cancel_listener.listen(self._client, self.cancel, **self._how)
        )
        return self

    async def __aexit__(self, *_):
        await stopped(self.task)


@pytest.fixture
async def listener(redis_client, redis_url):
    async with redis.asyncio.Redis.from_url(redis_url) as client, Listener(client) as listener:
        await _subscribed(redis_client)
        yield listener
        assert not listener.task.done()


async def _subscribed(client):
    async with asyncio.timeout(30):
        while (await client.pubsub_numsub(names.CONTROL_CHANNEL))[0][1] != 1:  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.005)


async def publish(client, message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    await client.publish(names.CONTROL_CHANNEL, data)


async def test_each_message_cancels_its_job_and_garbage_is_ignored(listener, redis_client):
    for message in (
        b"\xff",
        b"",
        [],
        {"cancel": 7},
        {"cancel": "job:{x}"},
        {"cancel": "zero", "fleet": "0"},
        {"cancel": "zero", "fleet": True},
        {"cancel": "zero", "fleet": 0.0},
        {"cancel": "zero", "fleet": []},
        {"cancel": "zero", "fleet": 10**400},
        {"cancel": "one", "reason": "enough"},
        b"[" * 100_000,
        {"cancel": "two"},
    ):
        await publish(redis_client, message)
    await until(lambda: len(listener.asked) == 2)
    assert listener.asked == [("one", "enough"), ("two", "requested")]


async def test_listener_reconnects_after_its_connection_was_killed(real_redis_url):
    async with (
        redis.asyncio.Redis.from_url(real_redis_url) as client,
        redis.asyncio.Redis.from_url(real_redis_url) as other,
        Listener(client) as listener,
    ):
        await _subscribed(other)
        for n in range(3):
            assert await other.client_kill_filter(_type="pubsub") == 1
            # The server may count the killed connection for a while: publish until one receives.
            asked = (f"job-{n}", "requested")
            async with asyncio.timeout(30):
                while asked not in listener.asked:
                    await publish(other, {"cancel": asked[0]})
                    await asyncio.sleep(0.005)


async def test_message_is_for_the_named_fleet_or_the_one_with_the_flag(redis_client, redis_url):
    flagged = cancel_listener.flags(redis_client)
    async with (
        redis.asyncio.Redis.from_url(redis_url) as client,
        Listener(client, fleet=3, flagged=flagged) as listener,
    ):
        await _subscribed(redis_client)
        await redis_client.hset(names.state_key("mine"), "cancel", "1")
        await redis_client.hset(names.state_key("theirs"), "status", "running")
        for message in (
            {"cancel": "theirs"},
            {"cancel": "unknown"},
            {"cancel": "mine", "fleet": 0},
            {"cancel": "theirs", "fleet": 2},
            {"cancel": "theirs", "fleet": None},
            {"cancel": "mine"},
            {"cancel": "theirs", "fleet": 3},
        ):
            await publish(redis_client, message)
        await until(lambda: len(listener.asked) == 2)
    assert [job_id for job_id, _ in listener.asked] == ["mine", "theirs"]


async def test_unreadable_flag_counts_as_missing(redis_url):
    async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0") as away:
        assert not await cancel_listener.flags(away)("mine")
