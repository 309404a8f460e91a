"""Control messages: valid ones, and those that the listener ignores."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.storage.cancel_listener import Message, parse

pytestmark = pytest.mark.unit


def test_message_names_a_job():
    assert parse(b'{"cancel": "job-1"}') == Message("job-1", "requested", None)


def test_reason_is_copied_and_bounded():
    assert parse(b'{"cancel": "job-1", "reason": "enough"}') == Message("job-1", "enough", None)
    message = parse(json.dumps({"cancel": "job-1", "reason": "x" * 10_000}).encode())
    assert message == Message("job-1", "x" * 200, None)


@pytest.mark.parametrize("reason", [None, 1, ["a"], {}, ""])
def test_empty_reason_is_replaced(reason):
    message = json.dumps({"cancel": "job-1", "reason": reason}).encode()
    assert parse(message) == Message("job-1", "requested", None)


def test_unknown_fields_are_ignored():
    assert parse(b'{"cancel": "job-1", "v": 9}') == Message("job-1", "requested", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cancel",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"job-1"',
        b"{}",
        b'{"cancel": null}',
        b'{"cancel": 1}',
        b'{"cancel": ["job-1"]}',
        b'{"cancel": ""}',
        b'{"cancel": "job:{x}:state"}',
        b'{"cancel": "job-1\\n"}',
        b'{"cancel": "' + b"x" * 129 + b'"}',
        b"[" * 100_000,
        b'{"cancel": "a", "n": ' + b"1" * 10_000 + b"}",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_invalid_message_is_ignored(data):
    assert parse(data) is None


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_raise(data):
    parse(data)
