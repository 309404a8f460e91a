"""Submitting within a trace: the message and the record carry it, beside other instrumentation."""

import asyncio
import base64
import json
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from berlin_schemas import names
from berlin_worker.client import Client
from berlin_worker.settings import Settings
from berlin_worker.telemetry.tracing import from_carrier

pytestmark = pytest.mark.contract


@pytest.fixture
def tracer() -> Iterator[trace.Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("test")
    provider.shutdown()


async def traceparents(client) -> dict[str, str | None]:
    """Return the header of each message on the queue, by the prompt of the message."""
    found = {}
    for raw in await client.lrange(names.QUEUE, 0, -1):
        message = json.loads(raw)
        [job], _, _ = json.loads(base64.b64decode(message["body"]))
        found[job["messages"][0]["content"]] = message["headers"].get("traceparent")
    return found


def header_of(span: trace.Span) -> str:
    context = span.get_span_context()
    return (
        f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
        f"-{context.trace_flags:02x}"
    )


async def test_each_message_continues_the_trace_of_its_own_caller(client, redis_client, tracer):
    async def call(number):
        with tracer.start_as_current_span("request") as span:
            return str(number), header_of(span), await client.submit(str(number))

    # One thread sends them all, in batches.
    calls = await asyncio.gather(*(call(number) for number in range(20)))
    assert await traceparents(redis_client) == {text: header for text, header, _ in calls}
    for _, header, job_id in calls:
        carrier = await redis_client.hget(names.state_key(job_id), "trace")
        assert from_carrier(carrier) == {"traceparent": header}


async def test_message_and_record_outside_of_a_trace_name_none(client, redis_client):
    job_id = await client.submit("x")
    assert await traceparents(redis_client) == {"x": None}
    assert await redis_client.hget(names.state_key(job_id), "trace") is None


async def test_sync_client_continues_the_trace_too(redis_url, redis_client, tracer):
    with Client(redis_url, settings=Settings()) as client:
        with tracer.start_as_current_span("request") as span:
            await asyncio.to_thread(client.submit, "x")
        assert await traceparents(redis_client) == {"x": header_of(span)}


async def test_span_of_an_instrumented_celery_is_below_the_callers(client, redis_client, tracer):
    provider = TracerProvider(shutdown_on_exit=False)
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        for text in ("one", "two"):
            with tracer.start_as_current_span("request") as span:
                await client.submit(text)
            header = (await traceparents(redis_client))[text]
            assert header is not None
            _, trace_id, span_id, _ = header.split("-")
            assert trace_id == trace.format_trace_id(span.get_span_context().trace_id)
            assert span_id != trace.format_span_id(span.get_span_context().span_id)
    finally:
        instrumentor.uninstrument()
        provider.shutdown()
