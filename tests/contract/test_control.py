"""The control channel over real pub/sub."""

import asyncio
import json

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker import control
from tests.support.waiting import stopped, until


class Listener:
    """A task that listens; it is stopped however the test ends."""

    def __init__(self, client):
        self.asked = []
        self._client = client

    async def cancel(self, job_id, reason):
        self.asked.append((job_id, reason))

    async def __aenter__(self):
        self.task = asyncio.create_task(control.listen(self._client, self.cancel))
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


async def test_each_message_cancels_its_job_and_garbage_harms_nothing(listener, redis_client):
    for message in (
        b"\xff",
        b"",
        [],
        {"cancel": 7},
        {"cancel": "job:{x}"},
        {"cancel": "one", "reason": "enough"},
        b"[" * 100_000,
        {"cancel": "two"},
    ):
        await publish(redis_client, message)
    await until(lambda: len(listener.asked) == 2)
    assert listener.asked == [("one", "enough"), ("two", "requested")]


async def test_a_listener_whose_connection_was_killed_listens_again(real_redis_url):
    async with (
        redis.asyncio.Redis.from_url(real_redis_url) as client,
        redis.asyncio.Redis.from_url(real_redis_url) as other,
        Listener(client) as listener,
    ):
        await _subscribed(other)
        for n in range(3):
            assert await other.client_kill_filter(_type="pubsub") == 1
            # The server may count the killed connection for a while yet: ask until it is heard.
            asked = (f"job-{n}", "requested")
            async with asyncio.timeout(30):
                while asked not in listener.asked:
                    await publish(other, {"cancel": asked[0]})
                    await asyncio.sleep(0.005)
