"""The fake clients: methods equal to the real ones, and scripted answers."""

import asyncio
import inspect
import threading
from typing import Any

import pytest

from berlin_schemas import ErrorCode, InvalidJob
from berlin_worker.client import (
    AsyncClient,
    Client,
    ClientError,
    CursorExpired,
    JobFailed,
    JobIdReused,
    Stream,
    Unavailable,
)
from berlin_worker.testing import Failure, FakeAsyncClient, FakeClient, Pending, events
from berlin_worker.testing.fakes import FakeStream
from tests.support.store_helpers import check_log, text_of

pytestmark = pytest.mark.contract


def surface(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
    return {
        name: [
            (each.name, each.kind, each.default)
            for each in inspect.signature(member).parameters.values()
        ]
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name in {"__aenter__", "__aexit__", "__enter__", "__exit__"}
    }


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        (AsyncClient, FakeAsyncClient),
        (Client, FakeClient),
        (Stream, FakeStream),
    ],
)
def test_fake_has_every_method_of_the_real_one_with_its_parameters(real, fake):
    wanted = {name: how for name, how in surface(real).items() if name != "forked"}
    found = surface(fake)
    assert {name: found.get(name) for name in wanted} == wanted
    for name in wanted:
        same = inspect.iscoroutinefunction(getattr(fake, name))
        assert same is inspect.iscoroutinefunction(getattr(real, name)), name


async def test_scripted_answers_and_failures_reach_an_async_client_in_order():
    async with FakeAsyncClient() as client:
        client.reply("Hello, world", Failure("rate_limited", "slow down"), Unavailable("away"))
        stream = client.submit_and_stream("one", model="m")
        found = [event async for event in stream]
        check_log(found, stream.job_id)
        assert text_of(found) == "Hello, world"
        failed = await client.submit("two", tenant="t")
        with pytest.raises(JobFailed, match="rate_limited: slow down"):
            await client.result(failed)
        with pytest.raises(Unavailable):
            await client.submit("three")
        assert (await client.result(await client.submit("its own prompt"))).text == "its own prompt"
        assert [job.messages[0].content for job in client.submitted] == [
            "one",
            "two",
            "its own prompt",
        ]
        status = await client.status(failed)
        assert status.error is not None
        assert status.error.code is ErrorCode.RATE_LIMITED
        assert [job.job_id for job in await client.list(tenant="t", status="failed")] == [failed]
        assert (await client.status("nobody")).status == "unknown"


def test_scripted_answers_and_failures_reach_a_sync_client_in_order():
    with FakeClient() as client:
        client.reply("a b", Failure())
        stream = client.submit_and_stream("one")
        assert text_of(list(stream)) == "a b"
        assert [event.seq for event in client.stream(stream.job_id, 2)] == [3, 4]
        with pytest.raises(JobFailed):
            client.result(client.submit("two"))
        assert b"event: completed\n" in next(iter(client.sse(stream.job_id, "3")))
        newest, oldest = client.list()
        assert client.list(before=newest) == [oldest]


def test_jobs_and_ids_are_checked_as_the_real_clients_check_them():
    client = FakeClient()
    for fields in ({"modle": "m"}, {"job_id": "a b"}, {"metadata": {"a": "x" * 5000}}):
        with pytest.raises(InvalidJob):
            client.submit("x", **fields)
    client.submit("x", job_id="mine")
    client.submit("x", job_id="mine", deadline_s=600)
    with pytest.raises(JobIdReused):
        client.submit("y", job_id="mine")
    assert len(client.submitted) == 1
    with pytest.raises(CursorExpired):
        next(client.stream("nobody"))
    client.close()


async def test_pending_job_is_finished_or_cancelled():
    client = FakeAsyncClient()
    client.reply(Pending("so "), Pending())
    first, second = await client.submit("one"), await client.submit("two")
    with pytest.raises(TimeoutError, match="was not over"):
        await client.result(first, 0.01)
    reading = asyncio.create_task(client.result(first))
    await asyncio.sleep(0)
    client.finish(first, "far")
    assert (await reading).text == "so far"
    await client.cancel(second, "enough")
    with pytest.raises(JobFailed, match="cancelled: enough"):
        await client.result(second)
    assert (await client.status(second)).reason == "enough"
    check_log(client.events_of(first), first)


def test_pending_job_is_waited_for_in_a_thread_until_the_client_is_closed():
    client = FakeClient(answer=lambda job: Pending("x "))
    job_id = client.submit("one")
    with pytest.raises(TimeoutError, match="was not over"):
        client.result(job_id, 0.01)
    other = threading.Thread(target=lambda: client.finish(job_id, "y"))
    stream = client.stream(job_id)
    next(stream)
    other.start()
    assert [event.type for event in stream] == ["chunk", "chunk", "completed"]
    other.join()
    last = client.submit("two")
    closing = threading.Timer(0.05, client.close)
    closing.start()
    with pytest.raises(ClientError, match="closed"):
        client.result(last)
    closing.join()


def test_events_are_built_one_by_one_or_as_a_whole():
    whole = events.answer("a  b\nc", job_id="mine", usage={"total_tokens": 3})
    check_log(whole, "mine")
    assert text_of(whole) == "a  b\nc"
    assert events.answer("")[-1].type == "completed"
    assert events.chunk("x", seq=7, job_id="j").seq == 7
    mixed = [events.started(), events.chunk("x"), events.reset(), events.chunk("y")]
    check_log(events.numbered([*mixed, events.completed("length")]), "job-1")
    assert events.failed("invalid_job").error.code is ErrorCode.INVALID_JOB
    with pytest.raises(ValueError, match="nonsense"):
        events.failed("nonsense")


def test_events_of_the_tests_own_are_a_reply():
    client = FakeClient()
    client.reply([events.started(), events.chunk("x"), events.cancelled("theirs")])
    with pytest.raises(JobFailed, match="theirs"):
        client.result(client.submit("x"))
    client.close()


async def test_last_caller_is_attached_to_a_job() -> None:
    async with FakeAsyncClient() as client:
        assert await client.attached("a") is None
        await client.attach("a", "one")
        await client.attach("a", "other")
        assert await client.attached("a") == "other"


def test_wrong_calls_of_a_test_are_errors():
    client = FakeClient()
    client.reply("done")
    job_id = client.submit("x")
    client.result(job_id)
    with pytest.raises(ValueError, match="is over"):
        client.finish(job_id, "more")
    with pytest.raises(ValueError, match="1 or more"):
        client.list(limit=0)
    with pytest.raises(ValueError, match="0 or more"):
        client.stream(job_id, after=-1)
    client.cancel("unknown", "left alone")


def test_job_without_a_script_repeats_the_text_of_its_parts():
    client = FakeClient()
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    job_id = client.submit([{"role": "user", "content": parts}])
    assert client.result(job_id).text == "one two"


def test_reasoning_and_tool_calls_are_built_one_by_one():
    piece = events.tool_call("{}", index=1, seq=3)
    assert (piece.index, piece.arguments, piece.id, piece.seq) == (1, "{}", None, 3)
    assert events.reasoning("so").content == "so"
    assert events.reset("worker_lost").reason == "worker_lost"
