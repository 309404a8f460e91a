"""One trace from the producer to the call upstream, through a real worker."""

import contextlib
import contextvars
import socket
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from berlin_worker.client import AsyncClient
from berlin_worker.settings import Settings
from tests.gateway.conftest import serve
from tests.support.collector import Collector, collector
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.workers import ROOT

pytestmark = pytest.mark.integration

SECRET = "nobody should read this in a trace"


@pytest.fixture
def traces() -> Iterator[Collector]:
    with collector() as traces:
        yield traces


@pytest.fixture
def tracer() -> Iterator[trace.Tracer]:
    """A producer's own tracer; its spans go nowhere."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("producer")
    provider.shutdown()


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """Instrument Celery as an app does that calls ``CeleryInstrumentor().instrument()``."""
    provider = TracerProvider(shutdown_on_exit=False)
    CeleryInstrumentor().instrument(tracer_provider=provider)
    try:
        yield
    finally:
        CeleryInstrumentor().uninstrument()
        provider.shutdown()


def trace_id(span: trace.Span) -> str:
    return trace.format_trace_id(span.get_span_context().trace_id)


def test_bare_send_task_of_an_instrumented_app_leads_to_the_call_upstream(fleet, traces, tracer):
    def send() -> tuple[str, str]:
        with tracer.start_as_current_span("request") as span:
            return fleet.send(prompt(SECRET, model="m-1")), trace_id(span)

    with fleet.worker(**traces.environ), instrumented():
        # The instrumentation leaves its span open, and so current, where a task is sent by name.
        job_id, expected = contextvars.copy_context().run(send)
        fleet.ended(job_id)
        [delivery] = traces.named("worker.generate")
        [chat] = traces.named("chat m-1")
    assert {delivery.trace_id, chat.trace_id} == {expected}
    assert chat.parent_id == delivery.span_id
    assert delivery.attributes["berlin.job.id"] == chat.attributes["berlin.job.id"] == job_id
    assert delivery.attributes["berlin.job.outcome"] == "completed"
    assert chat.attributes["gen_ai.provider.name"] == "berlin"
    assert chat.attributes["server.port"] == int(fleet.env["BERLIN_URL"].rpartition(":")[2])
    assert chat.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert SECRET.encode() not in traces.raw
    assert b"berlin-worker" in traces.raw


async def test_client_continues_the_trace_of_its_caller_for_each_job(fleet, traces, tracer):
    with fleet.worker(**traces.environ):
        expected = {}
        async with AsyncClient(fleet.env["REDIS_URL"], settings=Settings()) as client:
            for number in range(20):
                with tracer.start_as_current_span("request") as span:
                    job_id = await client.submit(f"number {number}", model="m-1")
                    expected[job_id] = trace_id(span)
            for job_id in expected:
                await client.result(job_id)
        chats = traces.named("chat m-1", 20)
    assert {chat.attributes["berlin.job.id"]: chat.trace_id for chat in chats} == expected


def test_job_of_a_dead_worker_continues_in_its_trace(fleet, traces, tracer):
    env = QUICK_LEASES | traces.environ
    with fleet.worker(**env) as first:
        with tracer.start_as_current_span("request") as span, instrumented():
            job_id = contextvars.copy_context().run(fleet.send, prompt("[[stall:2*1]] a b c d"))
        fleet.running(job_id)
        first.kill()
    with fleet.worker(**env):
        fleet.ended(job_id)
        [delivery] = traces.named("worker.generate")
        [chat] = traces.named("chat gpt-3.5-turbo")
    assert chat.attributes["berlin.job.attempt"] == 2
    assert {delivery.trace_id, chat.trace_id} == {trace_id(span)}


@pytest.mark.parametrize("recorded", [False, True], ids=["passed on", "recorded"])
async def test_trace_of_an_http_request_leads_through_the_gateway_to_the_call_upstream(
    fleet, traces, tmp_path, monkeypatch, recorded
):
    sent = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{sent}-b7ad6b7169203331-01"}
    if recorded:
        for name, value in traces.environ.items():
            monkeypatch.setenv(name, value)
    async with serve(fleet.env["REDIS_URL"], tmp_path) as harness:
        status, _, body = await harness.call(
            "POST", "/v1/jobs", json=prompt(SECRET, model="m-1"), headers=headers
        )
        assert status == 202
    with fleet.worker(**traces.environ):
        fleet.ended(body["job_id"])
        [delivery] = traces.named("worker.generate")
        [chat] = traces.named("chat m-1")
    assert {delivery.trace_id, chat.trace_id} == {sent}
    if recorded:
        [request] = traces.named("POST /v1/jobs")
        assert (request.trace_id, request.attributes["http.response.status_code"]) == (sent, 202)
        assert delivery.parent_id == request.span_id
    assert SECRET.encode() not in traces.raw


def test_failures_and_retries_are_counted_by_code(fleet, traces):
    with fleet.worker(WORKER_RETRY_BASE_S="0.01", **traces.environ):
        job_id = fleet.send(prompt(f"[[status:500]] {SECRET}", model="m-1"))
        fleet.ended(job_id)
        [delivery] = traces.named("worker.generate")
        chats = traces.named("chat m-1", 3)
    assert delivery.events == ["retry", "retry"]
    assert delivery.attributes["error.type"] == "upstream_error"
    for chat in chats:
        assert chat.attributes["error.type"] == "upstream_error"
        assert chat.attributes["http.response.status_code"] == 500
    assert SECRET.encode() not in traces.raw


def test_headers_without_a_valid_trace_are_ignored(fleet: Fleet, traces):
    with fleet.worker(**traces.environ):
        for traceparent in (7, ["00"], {"a": 1}, "00-0-0-0", ""):
            headers = {"traceparent": traceparent, "tracestate": traceparent}
            sent = fleet.app.send_task(
                "worker.generate", args=[prompt("x")], queue="prompts", headers=headers
            )
            assert fleet.ended(str(sent.id))[-1]["type"] == "completed"
        traces.named("chat gpt-3.5-turbo", 5)


def test_instrumented_worker_adds_its_spans_to_the_instrumentation(fleet, traces, tracer, tmp_path):
    # What opentelemetry-instrument does: set up before anything else is imported.
    (tmp_path / "sitecustomize.py").write_text(
        "from opentelemetry import trace\n"
        "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n"
        "from opentelemetry.instrumentation.celery import CeleryInstrumentor\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import BatchSpanProcessor\n"
        "provider = TracerProvider()\n"
        "provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))\n"
        "trace.set_tracer_provider(provider)\n"
        "CeleryInstrumentor().instrument()\n"
    )

    def send() -> tuple[str, str]:
        with tracer.start_as_current_span("request") as span:
            return fleet.send(prompt("[[delay:0.01]] a b c")), trace_id(span)

    with (
        fleet.worker(PYTHONPATH=f"{tmp_path}:{ROOT}", **traces.environ) as worker,
        instrumented(),
    ):
        sent = [contextvars.copy_context().run(send) for _ in range(10)]
        for job_id, _ in sent:
            fleet.ended(job_id)
        theirs = traces.named("run/worker.generate", 10)
        ours = traces.named("worker.generate", 10)
        chats = traces.named("chat gpt-3.5-turbo", 10)
    expected = dict(sent)
    assert {each.attributes["berlin.job.id"]: each.trace_id for each in ours} == expected
    assert {each.attributes["berlin.job.id"]: each.trace_id for each in chats} == expected
    assert {each.parent_id for each in ours} == {each.span_id for each in theirs}
    assert "different Context" not in worker.log


def test_silent_collector_delays_nothing(fleet):
    with socket.socket() as black_hole:
        black_hole.bind(("127.0.0.1", 0))
        black_hole.listen(16)
        url = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        with fleet.worker(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="100") as worker:
            for _ in range(3):
                fleet.ended(fleet.send(prompt("x")))
            assert worker.stop() == 0
