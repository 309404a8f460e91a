"""The parser of messages: it accepts or refuses any bytes, and raises nothing else."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.broker.envelope import InvalidEnvelope, job_id_of, parse, read, read_broadcast

pytestmark = pytest.mark.unit

JOB_ID = "3f2b8c1e-0000-4000-8000-000000000000"


def message(**changes: Any) -> dict[str, Any]:
    return {
        "body": base64.b64encode(b"[[], {}, {}]").decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": "worker.generate", "id": JOB_ID},
        "properties": {
            "correlation_id": JOB_ID,
            "delivery_info": {"exchange": "", "routing_key": "prompts"},
            "body_encoding": "base64",
            "delivery_tag": "a tag",
        },
        **changes,
    }


def with_field(text: str) -> bytes:
    """Return a message with a field of this text, even if that is no JSON."""
    return json.dumps(message()).replace('"lang"', f'{text}, "lang"').encode()


LENIENT = {
    "a line feed in a string": '"x": "a\nb"',
    "a NUL in a string": '"x": "a\0b"',
    "a tab in a key": '"x\t": 1',
    "a hexadecimal number": '"x": 0x10',
    "nan": '"x": nan',
    "NaN": '"x": NaN',
    "Infinity": '"x": -Infinity',
    "a plus sign": '"x": +1',
    "leading zeros": '"x": 007',
    "no digit after the point": '"x": 1.',
    "5,000 digits": f'"x": {"9" * 5000}',
    "980 levels": f'"x": {"[" * 980}{"]" * 980}',
    "a trailing comma": '"x": [1,]',
    "a comment": '"x": 1 /* one */',
    "single quotes": "'x': 1",
    "half a surrogate pair beside NaN": '"x": "\\udfff", "y": NaN',
    "half a surrogate pair below 300 levels": f'"x": {"[" * 300}"\\udfff"{"]" * 300}',
}
"""Texts that Redis's cjson, Python's json or another lenient parser accepts."""


@pytest.mark.parametrize("name", LENIENT)
def test_invalid_json_that_lenient_parsers_accept_is_refused_with_its_job_id(name):
    with pytest.raises(InvalidEnvelope) as refused:
        read(with_field(LENIENT[name]))
    assert refused.value.job_id == JOB_ID


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        b'["a", "list"]',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps(message()).encode() + b"x",
        json.dumps(message()).encode("utf-16"),
        json.dumps(message()).encode()[:-1],
        json.dumps([message(), "", "prompts", "a fourth"]).encode(),
    ],
)
def test_invalid_message_is_refused(raw):
    with pytest.raises(InvalidEnvelope):
        read(raw)


def test_bytes_that_are_no_utf_8_are_refused_with_the_job_id():
    with pytest.raises(InvalidEnvelope) as refused:
        read(with_field('"x": "?"').replace(b"?", b"\xff"))
    assert refused.value.job_id == JOB_ID


@pytest.mark.parametrize("value", [None, 7, "text", [], {}, True, 1.5])
@pytest.mark.parametrize("path", ["body", "headers", "properties", "properties.delivery_info"])
def test_field_of_another_type_is_refused_or_accepted_by_kombu(path, value):
    odd = message()
    inner = odd
    *outer, last = path.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = value
    taken = {"body": ("text",), "headers": (None, {})}
    if any(value == each for each in taken.get(path, ())):
        assert read(json.dumps(odd).encode()) == odd
    else:
        with pytest.raises(InvalidEnvelope):
            read(json.dumps(odd).encode())


def test_half_a_surrogate_pair_and_the_last_of_two_keys_are_accepted():
    assert read(with_field('"x": "\\udfff"'))["headers"]["x"] == "\udfff"
    assert read(with_field(f'"id": "{JOB_ID}x"'))["headers"]["id"] == JOB_ID


def test_unacked_entry_of_kombu_is_read_as_its_message():
    assert read(json.dumps([message(), "", "prompts"]).encode()) == message()


def test_job_id_of_protocol_1_is_in_the_body():
    body = base64.b64encode(json.dumps({"id": JOB_ID, "task": "worker.generate"}).encode()).decode()
    assert job_id_of(message(headers=None, body=body)) == JOB_ID
    assert job_id_of(message(headers={}, body="%%%")) == ""
    assert job_id_of(message(headers={"id": "../x"})) == ""


def test_broken_text_with_several_ids_has_no_job_id():
    with pytest.raises(InvalidEnvelope) as refused:
        read(b'{"id": "one", "id": "another"')
    assert refused.value.job_id == ""


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(anything)
def test_json_is_parsed_like_by_python(value):
    text = json.dumps(value)
    assert parse(text.encode()) == json.loads(text)


@given(st.binary() | st.text().map(str.encode) | anything.map(json.dumps).map(str.encode))
def test_any_bytes_are_read_or_refused(raw):
    for reader in (read, read_broadcast):
        with contextlib.suppress(InvalidEnvelope):
            assert isinstance(reader(raw), dict)


@given(st.data())
def test_damaged_message_is_read_or_refused(data):
    raw = json.dumps(message()).encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 20)))
    damaged = raw[:start] + data.draw(st.binary(max_size=8)) + raw[end:]
    with contextlib.suppress(InvalidEnvelope):
        assert isinstance(read(damaged)["body"], str)


BROADCAST = message(headers={"clock": 1})


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        7,
        "x",
        {},
        {**BROADCAST, "body": None},
        {**BROADCAST, "properties": []},
        {**BROADCAST, "headers": 7},
        {**BROADCAST, "properties": {"delivery_tag": 1}},
    ],
)
def test_invalid_broadcast_is_refused(value):
    with pytest.raises(InvalidEnvelope):
        read_broadcast(json.dumps(value).encode())


def test_broadcast_of_kombu_is_read():
    assert read_broadcast(json.dumps(BROADCAST).encode()) == BROADCAST
