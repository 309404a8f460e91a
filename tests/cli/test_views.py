"""Views of a job's events, and the control characters that they remove."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import (
    Cancelled,
    Chunk,
    Completed,
    Event,
    Failed,
    Reasoning,
    Reset,
    Started,
    Timings,
    ToolCall,
    decode,
    encode,
)
from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_worker.cli.follow import farewell
from berlin_worker.cli.job_actions import status_rows
from berlin_worker.cli.output import printable
from berlin_worker.cli.views import FinalView, JsonView, Rendered, TextView, View, exit_code
from berlin_worker.client import JobStatus

pytestmark = pytest.mark.unit

TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=1500)


def head(seq: int = 1, attempt: int = 1) -> dict[str, Any]:
    return {"job_id": "j", "seq": seq, "attempt": attempt, "ts": 1.5}


def chunk(text: str) -> Chunk:
    return Chunk(**head(), content=text)


def thought(text: str) -> Reasoning:
    return Reasoning(**head(), content=text)


def call(index: int, arguments: str, **fields: str) -> ToolCall:
    return ToolCall(**head(), index=index, arguments=arguments, **fields)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN"])
def test_json_view_writes_json_if_the_log_holds_python_numbers(number: str) -> None:
    event = Completed(**head(), finish_reason="stop", timings=TIMINGS, usage={"a": 1})
    written = encode(event).replace(b'"a":1', f'"a":{number}'.encode())
    shown = JsonView().render(decode(written), written)
    assert json.loads(shown.out, parse_constant=pytest.fail)["usage"] == {"a": None}


def test_json_view_keeps_text_that_names_python_numbers() -> None:
    written = encode(chunk("NaN")).replace(b"}", b',"later":1}')
    assert JsonView().render(decode(written), written).out == written + b"\n"


@given(
    st.one_of(
        st.sampled_from([b"", b"not JSON", b"[1]", b"\xff", encode(chunk("Other"))]),
        st.binary(max_size=8).map(lambda found: encode(chunk("Text")) + found),
        st.sampled_from([b" ", b"\n", b"\r\n"]).map(
            lambda space: encode(chunk("Text")).replace(b",", b"," + space)
        ),
    )
)
def test_json_view_writes_one_json_line_of_the_event_whatever_the_log_holds(found: bytes) -> None:
    lines = JsonView().render(chunk("Text"), found).out.split(b"\n")
    assert (len(lines), lines[1]) == (2, b"")
    assert decode(lines[0]) == chunk("Text")
    assert b"\r" not in lines[0]


@pytest.mark.parametrize(
    ("status", "seq", "expected"),
    [
        ("unknown", 0, "job j is not known so far: submit it, or check its ID"),
        ("unknown", 3, "the job goes on: berlin tail j --after 3"),
        ("queued", 0, "the job goes on: berlin tail j --after 3"),
        ("running", 3, "the job goes on: berlin tail j --after 3"),
        (
            "completed",
            3,
            "the job is completed; for the rest of its events: berlin tail j --after 3",
        ),
    ],
)
def test_farewell_promises_that_a_job_continues_only_if_true(
    status: str, seq: int, expected: str
) -> None:
    assert farewell("j", status, seq, "berlin tail j --after 3") == expected


RESET = Reset(**head(), reason="upstream_error")
COMPLETED = Completed(**head(), finish_reason="stop", timings=TIMINGS)
FAILED = Failed(
    **head(), error=ErrorInfo(code=ErrorCode.RATE_LIMITED, message="wait", retryable=True)
)
CANCELLED = Cancelled(**head(), reason="asked")


def show(view: View, *events: Event) -> tuple[str, list[str]]:
    shown: list[Rendered] = [view.render(event) for event in events]
    return b"".join(s.out for s in shown).decode(), [s.notice for s in shown if s.notice]


def test_piped_text_is_exactly_the_text_and_ends_its_line() -> None:
    text = "\x1b[31mred\x1b[0m\r\n[bold]no markup[/bold] ü"
    view = TextView(is_terminal=False)
    assert show(view, Started(**head()), chunk(text), COMPLETED) == (f"{text}\n", [])
    assert view.end() == Rendered()


def test_terminal_gets_a_last_newline_and_only_one() -> None:
    assert show(TextView(is_terminal=True), chunk("a"), COMPLETED)[0] == "a\n"
    assert show(TextView(is_terminal=True), chunk("a\n"), COMPLETED)[0] == "a\n"
    assert show(TextView(is_terminal=True), COMPLETED)[0] == ""


def test_text_of_the_model_cannot_control_the_terminal() -> None:
    out, _ = show(TextView(is_terminal=True), chunk("a\x1b]0;title\x07\x9b2Jb\r\n\tc"))
    assert out == "a␛]0;title␇�2Jb\n\tc"


@given(st.text())
def test_no_control_character_is_printable(text: str) -> None:
    left = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in left)


def test_after_a_reset_the_text_begins_on_a_new_line_with_a_notice() -> None:
    out = show(TextView(is_terminal=False), chunk("half"), RESET, chunk("whole"), COMPLETED)
    assert out == ("half\nwhole\n", ["restarted (upstream_error): earlier text is void"])
    assert show(TextView(is_terminal=False), RESET, chunk("whole"))[0] == "whole"


def test_final_view_never_shows_void_text() -> None:
    view = FinalView(is_terminal=False)
    out, _ = show(view, chunk("half"), RESET, chunk("the "), chunk("whole"), COMPLETED)
    assert out == "the whole\n"
    assert show(FinalView(is_terminal=False), chunk("half"), FAILED)[0] == ""


def test_json_is_the_event_of_the_log() -> None:
    events: list[Event] = [Started(**head()), chunk("a\nb"), RESET, COMPLETED]
    out, notices = show(JsonView(), *events)
    assert [decode(line) for line in out.splitlines()] == events
    assert out.endswith("\n")
    assert notices == []


def test_failure_is_a_notice_on_stderr_in_every_view() -> None:
    for view in (JsonView(), TextView(is_terminal=True), FinalView(is_terminal=False)):
        _, [notice] = show(view, FAILED)
        assert notice == (
            "berlin: the job has failed: rate_limited: wait; the same job may succeed later"
        )


@pytest.mark.parametrize("reason", ["length", "interrupted"])
def test_cut_text_leads_to_a_notice(reason: Any) -> None:
    cut = Completed(**head(), finish_reason=reason, timings=TIMINGS)
    assert show(TextView(is_terminal=False), cut)[1][0].startswith("cut: ")


def test_only_a_completed_job_ends_with_0() -> None:
    assert exit_code(COMPLETED) == 0
    assert [exit_code(event) for event in (FAILED, CANCELLED, None)] == [1, 1, 1]


def test_status_rows_show_what_the_record_holds() -> None:
    queued = JobStatus("j", "queued", cancel_requested=True, created_ts=100.0)
    assert status_rows(queued, None, 190.0) == [
        ("job", "j"),
        ("status", "queued"),
        ("cancel", "requested"),
        ("submitted", "1.5 min ago"),
    ]
    over = JobStatus("j", "failed", attempt=2, seq=9, created_ts=100.0, started_ts=100.5)
    rows = dict(status_rows(over, FAILED, 100.0 + 7200))
    assert rows["error"] == "rate_limited: wait"
    assert rows["in queue"] == "0.50 s"
    assert rows["submitted"] == "2.0 h ago"


def test_reasoning_is_dim_before_the_text_at_a_terminal_and_left_out_in_a_pipe() -> None:
    events: list[Event] = [thought("Let me"), thought(" see."), chunk("Yes"), COMPLETED]
    dim = TextView(is_terminal=True, dim_reasoning=True)
    assert show(dim, *events)[0] == "\x1b[2mLet me\x1b[0m\x1b[2m see.\x1b[0m\nYes\n"
    assert show(TextView(is_terminal=True, dim_reasoning=False), *events)[0] == "Let me see.\nYes\n"
    for view in (TextView(is_terminal=False), FinalView(is_terminal=False)):
        assert show(view, *events)[0] == "Yes\n"
    out, _ = show(dim, thought("\x1b[2J"))
    assert out == "\x1b[2m␛[2J\x1b[0m"


def test_tool_call_is_a_line_when_it_is_complete() -> None:
    events: list[Event] = [
        chunk("Wait"),
        call(0, "", id="a", name="f"),
        call(0, '{"x":'),
        call(0, "1}"),
        call(1, "{", id="b", name="g"),
    ]
    for kind in (TextView, FinalView):
        out, _ = show(kind(is_terminal=False), *events, call(1, "}"), COMPLETED)
        assert out == 'Wait\nf({"x":1})\ng({})\n'
    assert show(TextView(is_terminal=False), *events)[0] == 'Wait\nf({"x":1})\n'
    assert show(TextView(is_terminal=False), *events, COMPLETED)[0].endswith("g({)\n")
    assert show(TextView(is_terminal=False), *events, FAILED)[0] == 'Wait\nf({"x":1})\n'
    out, _ = show(TextView(is_terminal=False), *events, RESET, call(0, "{}", name="h"), COMPLETED)
    assert out == 'Wait\nf({"x":1})\nh({})\n'


def test_interleaved_tool_calls_are_each_printed_once_and_whole() -> None:
    events = [call(0, '{"a"', name="f"), call(1, '{"b"', name="g"), call(0, ":1}"), call(1, ":2}")]
    out, _ = show(TextView(is_terminal=False), *events, COMPLETED)
    assert out == 'f({"a":1})\ng({"b":2})\n'
