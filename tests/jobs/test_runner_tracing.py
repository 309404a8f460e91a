"""The trace of a job, however the job ends: the runner with a tracer, over a real store."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.telemetry.otel import OtelTracer
from berlin_worker.telemetry.tracing import from_carrier
from tests.support.harness import JOB_ID, ScriptedProvider, Worker, cancelled, says
from tests.support.store_helpers import expire_lease, record

pytestmark = pytest.mark.contract

BROKEN = JobError(ErrorCode.UPSTREAM_ERROR, "the secret text", retryable=True, upstream_status=502)


class Traced:
    """Deliveries to a worker, and their spans."""

    def __init__(self, worker: Worker, exporter: InMemorySpanExporter, tracer: OtelTracer) -> None:
        self.worker = worker
        self._exporter = exporter
        self._tracer = tracer

    async def run(self, job_id: str = JOB_ID, headers: dict | None = None, **fields) -> None:
        """Run the job as the task of Celery does."""
        with self._tracer.delivery(job_id, headers or {}):
            await self.worker.run(job_id, **fields)

    @property
    def deliveries(self) -> list[ReadableSpan]:
        return [s for s in self._exporter.get_finished_spans() if s.name == "worker.generate"]

    @property
    def chats(self) -> list[ReadableSpan]:
        return [s for s in self._exporter.get_finished_spans() if s.name != "worker.generate"]

    @property
    def outcome(self) -> tuple[object, object]:
        """How the only delivery ended, and its error code."""
        [delivery] = self.deliveries
        attributes = delivery.attributes or {}
        return attributes.get("berlin.job.outcome"), attributes.get("error.type")


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider(says("Hel", "lo"))


@pytest.fixture
async def traced(redis_client, provider) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    spans = TracerProvider(shutdown_on_exit=False)
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    async with Worker(redis_client, provider) as worker:
        yield Traced(worker, exporter, OtelTracer(spans.get_tracer("test")))
    spans.shutdown()


async def test_job_that_ends_well(traced):
    await traced.run()
    assert traced.outcome == ("completed", None)
    [chat] = traced.chats
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert chat.attributes["berlin.job.attempt"] == 1


async def test_job_that_succeeds_when_it_is_tried_again(traced, provider):
    provider.scripts = [says("x", then=BROKEN), says("y")]
    await traced.run()
    assert traced.outcome == ("completed", None)
    assert [c.attributes.get("error.type") for c in traced.chats] == ["upstream_error", None]
    assert [c.attributes["berlin.job.attempt"] for c in traced.chats] == [1, 2]
    [delivery] = traced.deliveries
    assert [(e.name, e.attributes["error.type"]) for e in delivery.events] == [
        ("retry", "upstream_error")
    ]
    assert all(chat.parent == delivery.context for chat in traced.chats)


async def test_job_that_fails(traced, provider):
    provider.scripts = [says(then=BROKEN)]
    await traced.run()
    assert traced.outcome == ("failed", "upstream_error")
    spans = "".join(span.to_json() for span in (*traced.deliveries, *traced.chats))
    assert "the secret text" not in spans


async def test_invalid_job_starts_no_attempt(traced):
    await traced.run(messages=[])
    assert traced.outcome == ("failed", "invalid_job")
    assert traced.chats == []


async def test_timeout_and_a_fault_of_the_provider_have_their_codes(traced, provider):
    provider.scripts = [says(hangs=True)]
    await traced.run("job-1", first_chunk_timeout_s=0.01, deadline_s=0.05)
    provider.scripts = [says("x", then=ZeroDivisionError("the secret text"))]
    provider.calls = provider.closed = 0
    await traced.run("job-2")
    codes = [delivery.attributes["error.type"] for delivery in traced.deliveries]
    assert codes[0] in {"upstream_timeout", "deadline_exceeded"}
    assert codes[1] == "internal"
    assert traced.chats[-1].attributes["error.type"] == "internal"


async def test_job_that_is_cancelled_while_it_runs(traced, provider):
    provider.scripts = [says("x", hangs=True)]
    task = asyncio.create_task(traced.run())
    await traced.worker.logged(2)
    await traced.worker.runner.cancel(JOB_ID, "requested")
    await task
    assert traced.outcome == ("cancelled", None)
    [chat] = traced.chats
    assert [event.name for event in chat.events] == ["cancelled"]


async def test_job_that_a_shutdown_stops_is_released(traced, provider):
    provider.scripts = [says("x", hangs=True)]
    task = asyncio.create_task(traced.run())
    await traced.worker.logged(2)
    async with cancelled(task):
        traced.worker.cause = "shutdown"
    assert traced.outcome == ("stopped", None)


async def test_terminal_event_stands_if_the_task_is_stopped_during_its_append(
    traced,
):
    # The record is finished before its worker has the reply: a renewal finds the lease gone.
    append = traced.worker.store.append

    async def append_slowly(batch):
        taken = await append(batch)
        await asyncio.sleep(0.05)
        return taken

    traced.worker.store.append = append_slowly
    for number in range(5):
        await traced.run(f"job-{number}")
    assert {d.attributes["berlin.job.outcome"] for d in traced.deliveries} == {"completed"}


async def test_second_delivery_is_dropped(traced):
    await traced.run()
    await traced.run()
    assert [d.attributes["berlin.job.outcome"] for d in traced.deliveries] == [
        "completed",
        "dropped",
    ]


async def test_job_that_another_worker_has_taken_is_lost(traced, provider, redis_client):
    provider.scripts = [says("x", hangs=True)]
    task = asyncio.create_task(traced.run())
    await traced.worker.logged(2)
    await traced.worker.pause_renewals()
    await expire_lease(redis_client, JOB_ID)
    async with Worker(redis_client, ScriptedProvider(says("y")), owner="worker-2") as other:
        await other.run()
        traced.worker._renewing.release()
        await task
    assert traced.outcome == ("lost", None)


async def test_record_holds_a_trace_only_if_a_tracer_runs(traced, redis_client):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    await traced.run(headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    carrier = (await record(redis_client, JOB_ID))["trace"]
    assert from_carrier(carrier) == {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    await traced.worker.run("job-2")
    assert "trace" not in await record(redis_client, "job-2")
