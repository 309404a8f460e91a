"""The line on the end of a job: its fields are finite and harmless whatever the job was."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import Cancelled, Completed, ErrorCode, ErrorInfo, Failed, Timings, names
from berlin_worker.errors import JobError
from berlin_worker.telemetry import celery_log, job_end, logs
from berlin_worker.telemetry.log_context import About

pytestmark = pytest.mark.unit

HEAD = {"job_id": "job-1", "seq": 9, "attempt": 3, "ts": 1.0}
DURATIONS = ("queue_ms", "login_ms", "first_chunk_ms", "stream_ms", "total_ms")
ABOUT = About("berlin", "gpt", "acme")
TEXT = st.text()

numbers = st.none() | st.floats() | st.sampled_from([float("nan"), float("inf")])
ends = st.one_of(
    st.builds(lambda reason: Cancelled(**HEAD, reason=reason), TEXT),
    st.builds(
        lambda code, message, status: Failed(
            **HEAD,
            error=ErrorInfo(code=code, message=message, retryable=True, upstream_status=status),
        ),
        st.sampled_from(ErrorCode),
        TEXT,
        st.none() | st.integers(100, 599),
    ),
    st.builds(
        lambda finish: Completed(
            **HEAD, finish_reason=finish, timings=Timings(**dict.fromkeys(DURATIONS, 1.0))
        ),
        st.sampled_from(["stop", "length", "interrupted"]),
    ),
)
abouts = st.none() | st.builds(About, TEXT, TEXT, st.none() | TEXT)


def line(style, fields):
    record = logging.LogRecord("l", logging.INFO, "f.py", 1, job_end.EVENT, (), None)
    setattr(record, job_end.ATTRIBUTE, fields)
    return logs.formatter(style, str).format(record)


@given(ends, abouts, st.fixed_dictionaries(dict.fromkeys(DURATIONS, numbers)))
def test_line_of_any_end_is_strict_json_with_the_same_fields(end, about, durations):
    fields = job_end.fields_of(end, about=about, chunks=2, durations_ms=durations)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    line_fields = json.loads(line("json", fields), parse_constant=refuse)
    assert line_fields["event"] == "job ended"
    assert line_fields.keys() == {
        *("timestamp", "level", "event", "logger", "job_id", "status", "error_code", "reason"),
        *("tenant", "provider", "model", "attempts", "chunks", *DURATIONS),
    }
    assert line_fields["status"] == end.type
    assert line_fields["error_code"] == (end.error.code if end.type == "failed" else None)


@given(ends, st.fixed_dictionaries(dict.fromkeys(DURATIONS, numbers)))
def test_console_format_has_one_line_for_a_warning(end, durations):
    fields = job_end.fields_of(end, about=ABOUT, chunks=1, durations_ms=durations)
    line_fields = line("console", fields)
    assert len(line_fields.splitlines()) == 1
    assert "\x1b" not in line_fields
    assert f"job job-1: {end.type}" in line_fields
    assert "3 attempts, 1 chunk " in line_fields


def test_error_message_is_no_part_of_the_line():
    error = ErrorInfo(code=ErrorCode.BAD_CHUNK, message="the-secret", retryable=False)
    end = Failed(**HEAD, error=error)
    fields = job_end.fields_of(end, about=ABOUT, chunks=0, durations_ms={"total_ms": 1.0})
    assert "the-secret" not in line("json", fields) + line("console", fields)


def celerys(level, task=names.TASK, error=None):
    info = (type(error), error, None) if error else None
    record = logging.LogRecord("celery.app.trace", level, "f.py", 1, "Task", (), info)
    record.data = {"id": "job-1", "name": task}
    return record


@pytest.fixture
def level():
    """Set the level of Celery's log; it is as before afterwards."""
    logger = logging.getLogger("celery.app.trace")
    before = logger.level
    yield logger.setLevel
    logger.setLevel(before)


def test_celerys_lines_on_prompt_jobs_are_left_out_and_all_others_stay(level):
    keeps = celery_log._not_on_prompt_jobs
    ours = JobError(ErrorCode.BAD_CHUNK, "the-secret")
    level(logging.INFO)
    assert not keeps(celerys(logging.INFO))
    assert not keeps(celerys(logging.ERROR, error=ours))
    assert keeps(celerys(logging.ERROR, error=ValueError()))
    assert keeps(celerys(logging.ERROR))
    assert keeps(celerys(logging.INFO, task="other"))
    assert keeps(celerys(logging.ERROR, task="other", error=ours))
    assert keeps(logging.LogRecord("celery.app.trace", logging.INFO, "f.py", 1, "x", (), None))


def test_celerys_lines_on_prompt_jobs_are_there_for_debugging(level):
    level(logging.DEBUG)
    record = celerys(logging.INFO)
    assert celery_log._not_on_prompt_jobs(record)
    assert record.levelname == "DEBUG"
