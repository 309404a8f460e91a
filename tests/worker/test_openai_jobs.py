"""Jobs of the provider ``openai``: bare producer and reader, real worker, stand-in upstream."""

import pytest

from berlin_schemas import InvalidJob
from berlin_schemas.jobs import LARGEST_JOB_BYTES
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.stand_in import in_thread
from tests.support.checker import text_of
from tests.support.fleet import prompt, recorded
from tests.support.large_jobs import LARGEST, image_job, submitted
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

NO_ACCOUNT = {"BERLIN_ACCOUNT": "", "BERLIN_PASSWORD": ""}


def test_worker_without_an_account_streams_everything_and_takes_the_largest_job(fleet):
    with (
        in_thread(OpenAIUpstream(reply="one two")) as upstream,
        fleet.worker(**upstream.environ, **LARGEST, **NO_ACCOUNT, OPENAI_MODEL="stand-in"),
    ):
        check_answer(fleet)
        check_fallback(fleet)
        check_largest_job(fleet, upstream)


def check_answer(fleet):
    """Text, reasoning, tool calls and usage of a job that names no model."""
    with recorded(fleet) as published:
        job_id = fleet.send(prompt("[[reasoning:2]][[tool_calls:1]]", provider="openai"))
        events = fleet.ended(job_id)
        wait_until(lambda: len(published.get(job_id, ())) == len(events), "all on the channel")
        assert published[job_id] == fleet.log(job_id)
    assert [event["type"] for event in events] == [
        *("started", "reasoning", "reasoning", "chunk", "chunk"),
        *("tool_call", "tool_call", "tool_call", "completed"),
    ]
    assert text_of(events) == "one two"
    calls = [event for event in events if event["type"] == "tool_call"]
    assert [(call["index"], call.get("name")) for call in calls] == [
        (0, "weather"),
        *[(0, None)] * 2,
    ]
    assert "".join(call["arguments"] for call in calls) == '{"place": "Berlin"}'
    end = events[-1]
    assert (end["finish_reason"], end["provider"], end["model"]) == (
        *("tool_calls", "openai", "stand-in"),
    )
    assert end["usage"]["completion_tokens"] > 0


def check_fallback(fleet):
    """A model that is refused with 429, and for the next job cools down."""
    fallbacks = [{"provider": "echo", "model": "echo"}]
    job = prompt("[[status:429:600]]", provider="openai", fallbacks=fallbacks, model="busy")
    for started in (["openai", "echo"], ["echo"]):
        events = fleet.ended(fleet.send(job))
        assert [e["provider"] for e in events if e["type"] == "started"] == started
        assert (events[-1]["type"], events[-1]["provider"]) == ("completed", "echo")


def check_largest_job(fleet, upstream):
    """One byte more is refused, by the worker and by the client."""
    # Two thirds in another script: the message, ASCII in base64, is nearly three times as long.
    largest = image_job(LARGEST_JOB_BYTES, "中" * (LARGEST_JOB_BYTES * 2 // 9))
    assert text_of(fleet.ended(fleet.send(largest))) == "one two"
    assert upstream.calls[-1].body["messages"] == largest["messages"]
    calls = len(upstream.calls)
    (end,) = fleet.ended(fleet.send(image_job(LARGEST_JOB_BYTES + 1)))
    assert end["error"]["code"] == "invalid_job"
    assert f"at most {LARGEST_JOB_BYTES}" in end["error"]["message"]
    with pytest.raises(InvalidJob, match=f"at most {LARGEST_JOB_BYTES}"):
        submitted(fleet.env, image_job(LARGEST_JOB_BYTES + 1))
    assert len(upstream.calls) == calls
