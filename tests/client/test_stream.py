"""Stream: what its iterator, its raw form and its context do over the batches of a subclass."""

import pytest

from berlin_worker.client.raw_events import RawEvent
from berlin_worker.client.stream import Stream
from berlin_worker.errors import ClientError, Unavailable
from berlin_worker.testing import events

pytestmark = pytest.mark.unit

EVENTS = events.answer("one two")


class Batches(Stream):
    """A stream of these batches; ``error``: what its start raises."""

    def __init__(self, *sizes, error=None):
        super().__init__()
        self.left, self.error, self.closed = list(EVENTS), error, 0
        self.sizes = list(sizes)

    @property
    def job_id(self):
        return events.JOB_ID

    async def batch(self):
        if not self.sizes:
            raise StopAsyncIteration
        return [self.left.pop(0) for _ in range(self.sizes.pop(0))]

    async def raw_batch(self):
        self._check_raw()
        return [RawEvent(each.seq, each.type, b"{}") for each in await self.batch()]

    async def start(self):
        if self.error:
            raise self.error

    def close(self):
        self.closed += 1


async def test_iterator_and_raw_form_give_each_event_once():
    assert [event async for event in Batches(1, 3)] == list(EVENTS)
    assert [event.seq async for event in Batches(3, 1).raw()] == [each.seq for each in EVENTS]


async def test_iterator_and_raw_form_do_not_mix():
    stream = Batches(4)
    assert await anext(stream) == EVENTS[0]
    with pytest.raises(ClientError, match="not by both"):
        await anext(stream.raw())
    assert stream._take_ready() == list(EVENTS[1:])
    assert stream._take_ready() == []


async def test_stream_is_closed_with_its_block_and_if_its_start_fails():
    async with Batches(1) as stream:
        assert await anext(stream) == EVENTS[0]
    assert stream.closed == 1
    await stream.aclose()
    assert stream.closed == 2
    failing = Batches(error=Unavailable("Redis is away"))
    with pytest.raises(Unavailable):
        await failing.__aenter__()
    assert failing.closed == 1
