"""The purge of a queue whose messages kombu delivers, without RabbitMQ."""

import base64
import json
import uuid
import zlib
from unittest.mock import AsyncMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, compression

from berlin_schemas import names
from berlin_worker.broker import amqp_decoding, purge

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def ended():
    """IDs of the jobs that a purge has ended, in no store."""
    found = []

    async def end(_store, _journal, job_id):
        found.append(job_id)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purge, "_open_store", AsyncMock(return_value=(AsyncMock(), None)))
        patch.setattr(purge, "_end", end)
        patch.setattr(amqp_decoding, "install", Mock())
        yield found


@pytest.fixture(scope="module")
def connection():
    with Connection("memory://") as opened:
        channel = opened.default_channel
        channel.queue_declare(names.QUEUE)
        yield opened
        channel.queue_delete(names.QUEUE)


def payload(body=b"[[], {}, {}]", **fields):
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": names.QUEUE},
        },
        **fields,
    }


def purged(connection, ended, *payloads):
    """Purge these between two jobs; return the number of messages and the IDs between the two."""
    ended.clear()
    jobs = [payload(headers={"id": name}) for name in ("first", "last")]
    for each in (jobs[0], *payloads, jobs[1]):
        connection.default_channel._put(names.QUEUE, each)
    count = purge.purge_amqp(connection)
    assert connection.default_channel._size(names.QUEUE) == 0
    assert {"first", "last"} <= set(ended)
    return count, set(ended) - {"first", "last"}


@pytest.mark.parametrize("name", ["rot13", "", 7, ["application/x-gzip"], {}, "zstd", "gzip"])
def test_purge_goes_on_after_any_compression(connection, ended, name):
    named = payload(headers={"compression": name, "id": "job-1"})
    nameless = payload(headers={"compression": name})
    assert purged(connection, ended, named, nameless) == (4, {"job-1"})


def test_purge_opens_no_bomb(connection, ended, monkeypatch):
    bomb = zlib.compress(b'{"id": "bomb"}' + b" " * 50_000_000)
    small = zlib.compress(b'{"id": "small", "task": "worker.generate", "args": []}')
    headers = {"compression": "application/x-gzip"}
    monkeypatch.setattr(compression, "_decoders", {})  # kombu's own have no limit
    found = purged(connection, ended, *(payload(body, headers=headers) for body in (bomb, small)))
    assert found == (4, {"small"})


@pytest.mark.parametrize("body", ["x", 7, ["x"], {"a": 1}])
def test_message_that_kombu_cannot_read_is_removed_with_a_line(connection, ended, caplog, body):
    purged(connection, ended, payload() | {"body": body})
    assert len(caplog.messages) == 1
    assert "cannot be read was removed" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {}, optional={"id": JSON, "compression": JSON | st.sampled_from(["gzip", "bzip2", "lzma"])}
)
BODIES = JSON.map(lambda value: base64.b64encode(json.dumps(value).encode()).decode())
KINDS = st.sampled_from(["application/json", "application/x-yaml", "application/data"])


@given(
    garbage=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "body": JSON | BODIES,
                "headers": JSON | HEADERS,
                "content-type": JSON | KINDS,
                "content-encoding": JSON,
            },
        ),
        max_size=5,
    )
)
def test_purge_goes_on_after_any_message(connection, ended, garbage):
    purged(connection, ended, *(payload() | each for each in garbage))


@given(encoding=JSON)
def test_purge_goes_on_after_any_body_encoding(connection, ended, encoding):
    invalid = payload()
    invalid["properties"]["body_encoding"] = encoding
    purged(connection, ended, invalid)
