"""Server-sent events of both clients: the job's own bytes, after a browser's last event."""

import asyncio
import json
import re

import pytest

from berlin_schemas import Chunk, encode
from berlin_worker.client import Client, CursorExpired, Options, sse
from berlin_worker.client.raw_events import RawEvent
from berlin_worker.settings import Settings
from tests.support.job_writer import JobWriter
from tests.support.store_helpers import raw_log

pytestmark = pytest.mark.contract

JOB = "job-1"
OPTIONS = Options(reread_after_s=0.2, wait_for_start_s=0.2)


@pytest.fixture
def client_options():
    return OPTIONS


def parsed(body: bytes) -> list[dict[str, str]]:
    """Read the frames as a browser does (HTML standard, "Interpreting an event stream")."""
    found = []
    for block in re.split(r"\n\n|\r\n\r\n|\r\r", body.decode()):
        fields: dict[str, str] = {}
        for line in re.split(r"\r\n|\r|\n", block):
            name, _, value = line.partition(":")
            if name:
                value = value.removeprefix(" ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        if "data" in fields:
            found.append(fields)
    return found


async def test_each_event_is_a_frame_with_seq_type_and_its_own_bytes(client, redis_client):
    writer = JobWriter(redis_client, JOB)
    await writer.started()
    await writer.chunk("line\nbreak \u2028 €")
    extra = {"v": 1, "job_id": JOB, "seq": 3, "attempt": 1, "ts": 1.0, "type": "chunk"}
    own = json.dumps({**extra, "content": "x", "later": {"a": 1}}).encode()
    await writer.append_raw(own)
    await writer.append_raw(json.dumps({**extra, "seq": 4, "type": "thought"}).encode())
    await writer.completed()
    frames = [frame async for frame in client.sse(JOB)]
    found = parsed(b"".join(frames))
    log = await raw_log(redis_client, JOB)
    assert [each["data"].encode() for each in found] == [*log[:3], log[4]]
    assert [(each["id"], each["event"]) for each in found] == [
        ("1", "started"),
        ("2", "chunk"),
        ("3", "chunk"),
        ("5", "completed"),
    ]
    assert [parsed(frame) for frame in frames] == [[each] for each in found]


async def test_live_events_have_their_own_bytes_too(client, redis_client):
    writer = JobWriter(redis_client, JOB)
    await writer.started()
    frames = client.sse(JOB)
    assert b"event: started\n" in await anext(frames)
    await writer.chunk("live")
    assert parsed(await anext(frames))[0]["data"].encode() == (await raw_log(redis_client, JOB))[1]
    await frames.aclose()


@pytest.mark.parametrize(
    ("last", "first"),
    [
        (None, 1), ("", 1), (" ", 1), ("-1", 1), ("0", 1), ("1", 2), (" 2 ", 3), ("02", 3),
        ("4", None),         ("junk", 1), ("1.5", 1), ("1e3", 1), ("²", 1), ("\u0661", 1),
        ("0x1", 1), ("1-0", 1), ("9" * 400, 1),
        ("+1", 1), ("1;DROP", 1), ("\x00", 1),
    ],
)  # fmt: skip
async def test_browser_goes_on_after_its_last_event(client, redis_client, last, first):
    await JobWriter(redis_client, JOB).whole("a", "b")
    found = parsed(b"".join([frame async for frame in client.sse(JOB, last)]))
    assert [each["id"] for each in found] == ([] if first is None else list("1234")[first - 1 :])


async def test_comment_comes_while_there_is_no_event_and_none_is_lost(
    client, redis_client, monkeypatch
):
    monkeypatch.setattr(sse, "PING_S", 0.05)
    writer = JobWriter(redis_client, JOB)
    await writer.started()
    seen, pings = [], 0

    async def write() -> None:
        for n in range(10):
            await asyncio.sleep(0.02)
            await writer.chunk(str(n))
        await asyncio.sleep(0.15)
        await writer.completed()

    writing = asyncio.create_task(write())
    async for frame in client.sse(JOB):
        if frame == sse.PING:
            pings += 1
        else:
            seen += parsed(frame)
    await writing
    assert pings >= 1
    assert [int(each["id"]) for each in seen] == list(range(1, 13))
    assert parsed(sse.PING + sse.PING) == []


async def test_sse_of_an_unknown_job_raises_as_a_stream_does(client):
    with pytest.raises(CursorExpired):
        await anext(client.sse("nobody"))
    with pytest.raises(ValueError, match="job ID"):
        client.sse("a b")


def test_bytes_of_several_lines_stay_one_event():
    event = Chunk(job_id=JOB, seq=1, attempt=1, ts=1.0, content="x")
    pretty = json.dumps(json.loads(encode(event)), indent=2).replace("\n", "\r\n").encode()
    [found] = parsed(sse.frame(RawEvent(1, "chunk", pretty)))
    assert json.loads(found["data"]) == json.loads(pretty)


async def test_sync_client_yields_the_same_frames(redis_url, client, redis_client):
    await JobWriter(redis_client, JOB).whole("a", "b")
    frames = [frame async for frame in client.sse(JOB, "1")]

    def read() -> list[bytes]:
        with Client(redis_url, settings=Settings(), options=OPTIONS) as other:
            early = other.sse(JOB)
            next(early)
            early.close()
            return list(other.sse(JOB, "1"))

    assert await asyncio.to_thread(read) == frames
