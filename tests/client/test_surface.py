"""The public client: names, types, errors, and sets that a later version extends."""

import asyncio
import json
import pickle

import pytest

import berlin_worker.client as package
from berlin_schemas import Cancelled, Completed, ErrorCode, Failed, PromptJob, decode
from berlin_schemas.documents import ADAPTERS, json_schema
from berlin_worker.client import JobFailed, JobIdReused, Unavailable
from berlin_worker.client.fields import JobFields
from berlin_worker.client.replay import JobSnapshot, Need, Replay

pytestmark = pytest.mark.contract

HEAD = {"v": 1, "job_id": "job-1", "seq": 1, "attempt": 1, "ts": 1.0}


def test_every_name_of_the_readme_can_be_imported_from_the_client():
    for name in (*package.__all__, "AsyncClient", "Chunk", "Completed", "Failed", "Cancelled"):
        assert getattr(package, name), name


def test_typed_fields_are_those_of_a_job():
    fields = set(PromptJob.model_fields) - {"job_id", "messages"}
    assert set(JobFields.__annotations__) == fields


@pytest.mark.parametrize("code", ["a_later_one", "", "INTERNAL"])
def test_unknown_error_code_counts_as_internal(code):
    error = {"code": code, "message": "m", "retryable": False, "upstream_status": 429, "more": 1}
    event = decode(json.dumps({**HEAD, "type": "failed", "error": error}))
    assert isinstance(event, Failed)
    assert event.error.code is ErrorCode.INTERNAL
    assert (event.error.message, event.error.upstream_status) == ("m", 429)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_known_error_code_stays_itself(code):
    error = {"code": code.value, "message": "m", "retryable": False}
    assert decode(json.dumps({**HEAD, "type": "failed", "error": error})).error.code is code


@pytest.mark.parametrize("reason", ["a_later_one", "", "Stop"])
def test_unknown_finish_reason_counts_as_stop(reason):
    timings = {"queue_ms": 0, "login_ms": 0, "first_chunk_ms": None, "stream_ms": 0, "total_ms": 0}
    data = {**HEAD, "type": "completed", "finish_reason": reason, "timings": timings}
    event = decode(json.dumps(data))
    assert isinstance(event, Completed)
    assert event.finish_reason == "stop"


@pytest.mark.parametrize("bad", [None, 7, [], {}, True])
def test_code_or_reason_that_is_no_text_is_no_event(bad):
    error = {"code": bad, "message": "m", "retryable": False}
    for fields in (
        {"type": "failed", "error": error},
        {"type": "completed", "finish_reason": bad},
    ):
        with pytest.raises(ValueError, match="validation error"):
            decode(json.dumps({**HEAD, **fields}))


def test_json_schema_leaves_open_sets_open():
    schema = json_schema("event", ADAPTERS["event"])["$defs"]
    assert "enum" not in json.dumps(schema["ErrorInfo"])
    assert "enum" not in json.dumps(schema["Completed"]["properties"]["finish_reason"])


@pytest.mark.parametrize("seq", [4, 9])
def test_cursor_at_or_beyond_the_terminal_event_is_the_end(seq):
    end = json.dumps({**HEAD, "seq": 4, "type": "cancelled", "reason": "r"}).encode()
    for last in ((b"4-0", {b"event": end}), None):  # its log may have expired before the record
        replay = Replay("job-1", seq)
        assert replay.page([]) == []
        replay.snapshot(JobSnapshot("cancelled", 4, last), may_wait=False)
        assert replay.need is Need.NOTHING


def test_errors_survive_pickling():
    event = Cancelled(**HEAD, reason="r")
    for error in (JobFailed(event), JobIdReused("mine"), Unavailable("away", job_id="mine")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


async def test_unavailable_names_the_job_and_a_timeout_the_next_step(fake_redis_url):
    away = "redis://127.0.0.1:1/0"
    options = package.Options(submit_timeout_s=0.5, give_up_after_s=0.1)
    async with package.AsyncClient(away, options=options) as client:
        for call in (
            client.submit("x", job_id="mine"),
            client.status("mine"),
            client.cancel("mine"),
            client.result("mine"),
        ):
            with pytest.raises(Unavailable) as raised:
                await call
            assert raised.value.job_id == "mine"
    async with package.AsyncClient(fake_redis_url) as client:
        await client.submit("x", job_id="mine")
        with pytest.raises(TimeoutError, match=r"job mine was not over after 0.05 s: it goes on"):
            await client.result("mine", 0.05)
        with pytest.raises(TimeoutError, match="job mine"):
            await asyncio.to_thread(in_a_thread, fake_redis_url)


def in_a_thread(url: str) -> None:
    with package.Client(url) as client:
        client.result("mine", 0.05)
