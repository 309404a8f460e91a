"""What clients and Celery's producers write to Redis is valid by the schemas of the contract."""

import base64
import json
from typing import Any

import jsonschema
import pytest
import redis.asyncio
from celery import Celery

from berlin_schemas import documents, names
from berlin_worker.client import AsyncClient

pytestmark = pytest.mark.contract


def assert_valid(value: object, name: str) -> None:
    schema = documents.json_schema(name, documents.ADAPTERS[name])
    # Draft 2020-12 has tuples (prefixItems) for JSON arrays.
    jsonschema.Draft202012Validator(schema).validate(value)


async def entries(client: redis.asyncio.Redis) -> list[Any]:
    return [json.loads(data) for data in await client.lrange(names.QUEUE, 0, -1)]


async def test_messages_and_records_are_valid(real_redis_url: str) -> None:
    job = {"messages": [{"role": "user", "content": "Hello"}]}
    async with (
        AsyncClient(real_redis_url) as ours,
        redis.asyncio.Redis.from_url(real_redis_url, decode_responses=True) as client,
        client.pubsub() as control,
    ):
        await control.subscribe(names.CONTROL_CHANNEL)
        with Celery(broker=real_redis_url, set_as_current=False) as bare:
            bare.send_task(names.TASK, args=[job], queue=names.QUEUE, task_id="bare")
        await ours.submit("Hello", job_id="ours")
        assert_valid(await client.hgetall(names.state_key("ours")), "record")
        await ours.cancel("ours", "a reason")
        assert_valid(await client.hgetall(names.state_key("ours")), "record")
        queued = await entries(client)
        assert len(queued) == 2
        for message in queued:
            assert_valid(message, "message")
            assert_valid(json.loads(base64.b64decode(message["body"])), "call")
        published = await anext(
            each async for each in control.listen() if each["type"] == "message"
        )
        assert_valid(json.loads(published["data"]), "control")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("control", {}),
        ("control", {"cancel": "no job ID"}),
        ("record", {"status": "lost"}),
        ("call", [[], {}, {}]),
        ("call", [[{"messages": []}], {}, {}]),
        ("call", [[{"messages": [{"role": "user"}]}], {"more": 1}, {}]),
        ("call", [[{"messages": [{"role": "user"}]}], {}, {"chain": [{}]}]),
        ("message", {"body": "", "headers": {}, "properties": {}}),
    ],
)
def test_other_values_are_invalid(name: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        assert_valid(value, name)
