"""The bytes that a journal appends, and events that it refuses."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import Chunk, Reasoning, Started, ToolCall, decode, encode
from berlin_worker.jobs.lifecycle import LifecycleError, Phase
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from tests.support.journal_harness import JOB, Harness, completed, failed, head

pytestmark = pytest.mark.unit


# Bytes


text = st.text(
    st.characters() | st.sampled_from('"\\/\x00\x1f\x7f\u2028\u2029\ud800\udfff\U0001f600')
)


deltas_of_all_kinds = (
    text
    | st.builds(ReasoningDelta, text)
    | st.builds(ToolCallDelta, st.integers(0, 99), text, st.none() | text, st.none() | text)
)


def clean(value):
    return None if value is None else value.encode("utf-8", "replace").decode()


def event_of(delta, **place):
    match delta:
        case ReasoningDelta(content):
            return Reasoning(**place, content=clean(content))
        case ToolCallDelta(index, arguments, id_, name):
            call = {"index": index, "id": clean(id_), "name": clean(name)}
            return ToolCall(**place, **call, arguments=clean(arguments))
    return Chunk(**place, content=clean(delta))


@given(
    deltas=st.lists(deltas_of_all_kinds, max_size=5),
    attempt=st.integers(1, 10**6),
    seq=st.integers(1, 10**9),
)
def test_chunk_encoded_by_the_journal_decodes_as_the_model(deltas, attempt, seq):
    async def main():
        harness = Harness()
        log = harness.open(seq=seq, attempt=attempt)
        log.chunk(deltas)
        events = log.take().events if log.seq > seq else []
        empty = ("", ReasoningDelta(""))
        expected = [
            each
            for each in deltas
            if each not in empty and each != ToolCallDelta(getattr(each, "index", 0), "")
        ]
        assert len(events) == len(expected)
        for n, (data, delta) in enumerate(zip(events, expected, strict=True), seq + 1):
            data.decode()  # valid UTF-8
            event = decode(data)
            place = {"job_id": JOB, "seq": n, "attempt": attempt, "ts": event.ts}
            assert event == event_of(delta, **place)
            assert json.loads(data) == json.loads(encode(event))
            assert b"\n" not in data

    asyncio.run(main())


# Hard cases of the provider's making


async def test_delta_of_a_wrong_type_appends_nothing_and_later_events_follow():
    async with Harness() as harness:
        log = harness.started()
        log.chunk(["a"])
        for strange in (
            *(["b", None], [1], [b"x"], [ReasoningDelta(1)], [ToolCallDelta(-1, "x")]),
            *([ToolCallDelta(True, "x")], [ToolCallDelta(0, None)], [ToolCallDelta(0, "", 1)]),
        ):
            with pytest.raises(TypeError):
                log.chunk(strange)
        await log.end(failed(log))
        assert [decode(each).seq for each in harness.store.events[JOB]] == [1, 2, 3]
        assert harness.journal.buffered_bytes == 0


async def test_reads_without_text_are_no_events_and_no_chunks():
    async with Harness() as harness:
        log = harness.started()
        for deltas in ([], [""], [], ["", ""]):
            log.chunk(deltas)
        assert log.phase is Phase.RUNNING
        log.chunk(["", "a", ""])
        await log.end(completed(log))
        kinds = [decode(each).type for each in harness.store.events[JOB]]
        assert kinds == ["started", "chunk", "completed"]


async def test_event_that_json_cannot_hold_appends_nothing_and_the_job_can_still_fail():
    async with Harness() as harness:
        log = harness.started()
        with pytest.raises(ValueError, match="serializ"):
            await log.end(completed(log, usage={"tokens": object()}))
        assert log.phase is Phase.RUNNING
        await log.end(failed(log))
        assert harness.store.calls[-1][0][3] == "failed"
        assert decode(harness.store.events[JOB][-1]).type == "failed"


async def test_event_that_may_not_follow_is_refused_and_changes_nothing():
    async with Harness() as harness:
        log = harness.open()
        with pytest.raises(LifecycleError):
            log.chunk(["too early"])
        log.event(head(log, Started))
        await log.end(completed(log))
        with pytest.raises(LifecycleError):
            await log.end(failed(log))
        await log.flush()
        assert [decode(each).type for each in harness.store.events[JOB]] == ["started", "completed"]
