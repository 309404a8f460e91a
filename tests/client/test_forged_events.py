"""Forged events on a job's channel: no reader gets a whole answer that has one of them."""

import asyncio

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from berlin_schemas import Cancelled, Chunk, Completed, Event, Reset, Started, encode, names
from berlin_worker.client.entries import Entry
from berlin_worker.client.replay import JobSnapshot, Need, Replay
from berlin_worker.errors import CursorExpired
from tests.support.job_writer import TIMINGS, JobWriter
from tests.support.selection import examples

pytestmark = pytest.mark.contract

JOB = "job-1"


def head(seq: int) -> dict[str, object]:
    return {"job_id": JOB, "seq": seq, "attempt": 1, "ts": 0.0}


LIFE: list[Event] = [
    Started(**head(1)),
    *(Chunk(**head(seq), content=f"<{seq}>") for seq in range(2, 9)),
    Completed(**head(9), finish_reason="stop", timings=TIMINGS),
]


def forged(seq: int, kind: str) -> Event:
    match kind:
        case "chunk":
            return Chunk(**head(seq), content="forged")
        case "reset":
            return Reset(**head(seq), reason="forged")
        case "cancelled":
            return Cancelled(**head(seq), reason="forged")
        case _:
            return Completed(**head(seq), finish_reason="length", timings=TIMINGS)


def entries(events: list[Event], after: int) -> list[Entry]:
    return [
        (b"%d-0" % event.seq, {b"event": encode(event)}) for event in events if event.seq > after
    ]


class Model:
    """A log, a channel, and a reader of both; what it has delivered."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.inbox: list[bytes] = []
        self.replay = Replay(JOB)
        self.delivered: list[Event] = []

    def step(self) -> None:
        replay = self.replay
        if replay.need is Need.PAGE:
            self.delivered += replay.page(entries(self.log, replay.confirmed))
        elif replay.need is Need.SNAPSHOT:
            last = self.log[-1] if self.log else None
            status = last.type if last is not None and last.type == "completed" else "running"
            page = entries(self.log, 0)
            seen = JobSnapshot(status, last.seq if last else 0, page[-1] if page else None)
            replay.snapshot(seen, may_wait=True)
        elif self.inbox:
            batch, self.inbox = self.inbox, []
            self.delivered += replay.messages(batch)
        else:
            replay.idle()


own = st.sampled_from(["heard", "lost"])
forgeries = st.tuples(
    st.integers(1, 10), st.sampled_from(["chunk", "reset", "cancelled", "completed"])
)


@settings(max_examples=examples(600), deadline=None)
@given(st.lists(own | forgeries | st.just("read"), max_size=40))
def test_end_is_delivered_only_after_exactly_the_events_of_the_log(script):
    model, to_come = Model(), list(LIFE)
    forgery_taken = False
    try:
        for move in [*script, *["heard"] * len(LIFE), *["read"] * 40]:
            if move == "read":
                model.step()
            elif isinstance(move, tuple):
                model.inbox.append(encode(forged(*move)))
            elif to_come:
                model.log.append(to_come.pop(0))
                if move == "heard":
                    model.inbox.append(encode(model.log[-1]))
    except CursorExpired:
        forgery_taken = True
    ends = [event for event in model.delivered if event.type in {"completed", "cancelled"}]
    if forgery_taken:
        assert ends == []
        assert any(event not in LIFE for event in model.delivered)
    else:
        assert model.replay.need is Need.NOTHING
        assert model.delivered == LIFE


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(own | st.just("read"), max_size=40))
def test_honest_channel_never_raises_whatever_it_loses(script):
    model, to_come = Model(), list(LIFE)
    for move in [*script, *["heard"] * len(LIFE), *["read"] * 40]:
        if move == "read":
            model.step()
        elif to_come:
            model.log.append(to_come.pop(0))
            if move == "heard":
                model.inbox.append(encode(model.log[-1]))
    assert model.delivered == LIFE


@pytest.mark.parametrize("kind", ["cancelled", "completed"])
async def test_forged_end_is_not_delivered(client, redis_client: redis.asyncio.Redis, kind):
    writer = JobWriter(redis_client, JOB)
    await writer.queued()
    async with client.stream(JOB) as stream:
        await writer.started()
        assert (await anext(stream)).type == "started"
        await redis_client.publish(names.channel(JOB), encode(forged(2, kind)))
        await writer.chunk("own")
        await writer.completed()
        assert [event.type async for event in stream] == ["chunk", "completed"]


async def test_forged_chunk_never_makes_a_completed_text(client, redis_client: redis.asyncio.Redis):
    writer = JobWriter(redis_client, JOB)
    await writer.queued()
    async with client.stream(JOB) as stream:
        await writer.started()
        assert (await anext(stream)).type == "started"
        await redis_client.publish(names.channel(JOB), encode(forged(2, "chunk")))
        assert (await anext(stream)).content == "forged"
        await writer.chunk("own")
        await writer.completed()
        with pytest.raises(CursorExpired, match="other events"):
            await asyncio.wait_for(anext(stream), 30)
