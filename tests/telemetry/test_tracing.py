"""Traces: the spans, their parents, and no spans without the extra."""

import asyncio
import contextlib
import sys

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from berlin_schemas import ErrorCode
from berlin_worker.errors import Fenced, JobError
from berlin_worker.providers.base import Report
from berlin_worker.telemetry import tracing
from berlin_worker.telemetry.tracer import open_tracer
from tests.support.traces import (
    PRODUCER,
    SECRET,
    TRACE_ID,
    Recorder,
    deltas,
    job,
    text_of,
    trace_id,
)

pytestmark = pytest.mark.unit


def test_one_trace_leads_from_the_producer_to_the_call_upstream(recorder: Recorder) -> None:
    tracer = recorder.tracer(server_url={"berlin": "https://berlin.test"}.get)
    options = {"temperature": 0, "max_tokens": 100, "stream": True}
    report = Report(login_s=0.5, usage={"prompt_tokens": 3, "completion_tokens": 7, "cost": "x"})
    with tracer.delivery("job-1", PRODUCER) as job_trace:
        with job_trace.chat(job(options=options), 1, report) as chat:
            chat.first_chunk()
            chat.finished()
        assert tracing.current() is job_trace
        job_trace.ended("completed")
    assert tracing.current() is tracing.OFF
    chat_span, delivery = recorder.spans["chat m-1"], recorder.spans["worker.generate"]
    assert {trace_id(chat_span), trace_id(delivery)} == {TRACE_ID}
    assert delivery.parent is not None
    assert trace.format_span_id(delivery.parent.span_id) == "b7ad6b7169203331"
    assert chat_span.parent == delivery.context
    assert (delivery.kind, chat_span.kind) == (SpanKind.CONSUMER, SpanKind.CLIENT)
    assert dict(delivery.attributes or {}) == {
        "messaging.system": "celery",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "prompts",
        "messaging.message.id": "job-1",
        "berlin.job.id": "job-1",
        "berlin.job.outcome": "completed",
    }
    attributes = dict(chat_span.attributes or {})
    first_chunk_s = attributes.pop("gen_ai.response.time_to_first_chunk")
    assert first_chunk_s == 0  # all the time so far was spent on the login
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "berlin",
        "gen_ai.request.model": "m-1",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 7,
        "server.address": "berlin.test",
        "server.port": 443,
        "berlin.login_s": 0.5,
        "berlin.job.id": "job-1",
        "berlin.job.attempt": 1,
    }
    assert {span.status.status_code for span in recorder.spans.values()} == {StatusCode.UNSET}


def test_span_has_the_code_of_a_failure_and_never_its_message(recorder: Recorder) -> None:
    error = JobError(ErrorCode.BAD_CHUNK, f"no chunk: {SECRET}", upstream_status=502)
    with recorder.tracer().delivery("job-1", {}) as job_trace:
        with pytest.raises(JobError), job_trace.chat(job(), 1, Report()):
            raise error
        job_trace.retried(1, "bad_chunk", 0.5)
        with pytest.raises(JobError), job_trace.chat(job(), 2, Report()):
            raise error
        job_trace.ended("failed", "bad_chunk")
    chats = [
        span for span in recorder.exporter.get_finished_spans() if span.name != "worker.generate"
    ]
    assert [(each.attributes or {})["berlin.job.attempt"] for each in chats] == [1, 2]
    delivery = recorder.spans["worker.generate"]
    for span in (*chats, delivery):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == (span.attributes or {})["error.type"] == "bad_chunk"
    assert (chats[0].attributes or {})["http.response.status_code"] == 502
    [retry] = delivery.events
    assert retry.name == "retry"
    assert dict(retry.attributes or {}) == {
        "berlin.job.attempt": 1, "error.type": "bad_chunk", "berlin.retry.delay_s": 0.5,
    }  # fmt: skip
    assert SECRET not in text_of(recorder.spans)


@pytest.mark.parametrize(
    ("error", "event"), [(Fenced("job-1"), "fenced"), (asyncio.CancelledError(), "cancelled")]
)
def test_call_that_was_stopped_is_no_error(
    recorder: Recorder, error: BaseException, event: str
) -> None:
    tracer = recorder.tracer()
    with (
        pytest.raises(type(error)),
        tracer.delivery("job-1", {}) as job_trace,
        job_trace.chat(job(), 1, Report()),
    ):
        raise error
    span = recorder.spans["chat m-1"]
    assert [each.name for each in span.events] == [event]
    assert span.status.status_code is StatusCode.UNSET


def test_requeued_delivery_is_marked_in_its_span(recorder: Recorder) -> None:
    with pytest.raises(asyncio.CancelledError), recorder.tracer().delivery("job-1", {}):
        raise asyncio.CancelledError
    assert (recorder.spans["worker.generate"].attributes or {})["berlin.job.outcome"] == "stopped"


def test_job_that_ended_before_its_task_was_cancelled_keeps_its_end(recorder: Recorder) -> None:
    with contextlib.suppress(asyncio.CancelledError), recorder.tracer().delivery("job-1", {}) as it:
        it.ended("cancelled")
        raise asyncio.CancelledError
    assert (recorder.spans["worker.generate"].attributes or {})["berlin.job.outcome"] == "cancelled"


@pytest.mark.parametrize("headers", [{}, {"traceparent": "garbage"}, {"traceparent": ""}])
def test_without_a_usable_parent_a_trace_begins_here(
    recorder: Recorder, headers: dict[str, str]
) -> None:
    with recorder.tracer().delivery("job-1", headers) as job_trace:
        carrier = job_trace.carrier
    span = recorder.spans["worker.generate"]
    assert span.parent is None
    # A restart elsewhere is of this trace.
    with recorder.tracer().delivery("job-1", tracing.from_carrier(carrier)):
        pass
    assert trace_id(recorder.spans["worker.generate"]) == trace_id(span)


def test_delivery_after_a_restart_is_a_sibling_span_of_the_first(recorder: Recorder) -> None:
    with recorder.tracer().delivery("job-1", PRODUCER) as job_trace:
        carrier = job_trace.carrier
    with recorder.tracer().delivery("job-1", tracing.from_carrier(carrier)):
        pass
    first, second = recorder.exporter.get_finished_spans()
    assert first.parent is not None
    assert second.parent is not None
    assert first.parent.span_id == second.parent.span_id
    assert {trace_id(first), trace_id(second)} == {TRACE_ID}


def test_span_of_a_job_is_a_child_of_the_span_of_an_instrumented_process(
    recorder: Recorder,
) -> None:
    with (
        recorder.otel.start_as_current_span("run/worker.generate") as theirs,
        recorder.tracer().delivery("job-1", PRODUCER),
    ):
        pass
    assert recorder.spans["worker.generate"].parent == theirs.get_span_context()


async def test_thousand_jobs_on_one_loop_do_not_mix_their_traces(recorder: Recorder) -> None:
    tracer = recorder.tracer()
    gate = asyncio.Event()

    async def run(number: int) -> None:
        producer = {"traceparent": f"00-{number:032x}-{number:016x}-01"}
        with tracer.delivery(f"job-{number}", producer) as job_trace:
            await asyncio.sleep(0)
            with job_trace.chat(job(), 1, Report()) as chat:
                await gate.wait()
                here = trace.get_current_span().get_span_context().trace_id
                assert here == number
                # What a provider starts of its own sees the span too.
                await asyncio.create_task(seen_in_child(number))
                chat.finished()

    async def seen_in_child(number: int) -> None:
        await asyncio.sleep(0)
        assert trace.get_current_span().get_span_context().trace_id == number

    tasks = [asyncio.create_task(run(number)) for number in range(1, 1001)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert not trace.get_current_span().get_span_context().is_valid
    spans = recorder.exporter.get_finished_spans()
    assert len(spans) == 2000
    for span in spans:
        assert (span.attributes or {})["berlin.job.id"] == f"job-{int(trace_id(span), 16)}"


async def test_tracing_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk.trace")
    async with open_tracer({}) as tracer:
        assert tracer is tracing.OFF
    with tracing.OFF.delivery("job-1", PRODUCER) as job_trace:
        with job_trace.chat(job(), 1, Report()) as chat:
            stream = deltas()
            assert chat.reading(stream) is stream
            chat.first_chunk()
            chat.finished()
        job_trace.retried(1, "internal", 0.1)
        job_trace.ended("completed")
        assert job_trace.carrier == ""
    await stream.aclose()
