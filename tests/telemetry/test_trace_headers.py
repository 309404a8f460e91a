"""The trace in the headers of a message and in the record of a job."""

import pytest
from opentelemetry import trace

from berlin_worker.telemetry import tracing
from tests.support.traces import PRODUCER, Recorder

pytestmark = pytest.mark.unit


def test_headers_of_a_message_carry_the_current_trace(recorder: Recorder) -> None:
    assert tracing.inject() == {}
    with recorder.otel.start_as_current_span("request") as span:
        traceparent = tracing.inject()["traceparent"]
    assert trace.format_trace_id(span.get_span_context().trace_id) in traceparent


@pytest.mark.parametrize(
    ("carrier", "headers"),
    [
        ("", {}),
        ("{", {}),
        ("[]", {}),
        ('"x"', {}),
        (b"\xff", {}),
        (b"", {}),
        ('{"traceparent":1,"tracestate":"a=b"}', {"tracestate": "a=b"}),
        ("[" * 1025, {}),
        ('{"traceparent":"' + "x" * 2000 + '"}', {}),
    ],
)
def test_trace_field_of_a_record_may_hold_anything(
    carrier: str | bytes, headers: dict[str, str]
) -> None:
    assert tracing.from_carrier(carrier) == headers


def test_carrier_is_bounded_and_has_no_baggage() -> None:
    kept = tracing.to_carrier({**PRODUCER, "baggage": "user=somebody"})
    assert tracing.from_carrier(kept) == PRODUCER
    assert tracing.to_carrier({**PRODUCER, "tracestate": "x" * 2000}) == ""
    assert tracing.to_carrier({"baggage": "x"}) == ""
