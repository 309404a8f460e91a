"""Prompt and reply in a span: by opt-in alone."""

import json

import pytest

from berlin_worker.providers.base import Report
from berlin_worker.telemetry.otel import captures
from tests.support.traces import SECRET, Recorder, deltas, job, read, text_of

pytestmark = pytest.mark.unit


async def test_prompt_and_reply_are_in_the_span_by_opt_in_alone(recorder: Recorder) -> None:
    for captured in (False, True):
        recorder.exporter.clear()
        tracer = recorder.tracer(captures=captured)
        with tracer.delivery("job-1", {}) as job_trace, job_trace.chat(job(), 1, Report()) as chat:
            stream = deltas(["Hel", "lo"], ["\ud800!"])
            reading = chat.reading(stream)
            assert (reading is stream) is not captured  # nothing stands in the way of a chunk
            assert await read(reading) == [["Hel", "lo"], ["\ud800!"]]
            chat.finished()
        attributes = recorder.spans["chat m-1"].attributes or {}
        assert (SECRET in text_of(recorder.spans)) is captured
        assert ("gen_ai.output.messages" in attributes) is captured
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "Hello?!"}],
            "finish_reason": "stop",
        }
    ]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("true", True), ("SPAN_ONLY", True), ("span_and_event", True),
        ("", False), ("false", False), ("NO_CONTENT", False), ("EVENT_ONLY", False), ("?", False),
    ],
)  # fmt: skip
def test_opt_in_accepts_the_values_of_the_convention(value: str, wanted: bool) -> None:
    assert captures({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": value}) is wanted
    assert captures({}) is False
