"""Messages that py-amqp by itself cannot decode."""

import struct

import pytest
from amqp import abstract_channel, serialization
from amqp.basic_message import Message
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.broker import amqp_decoding

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", autouse=True)
def installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(abstract_channel, "loads", abstract_channel.loads)
        patch.setattr(serialization, "pstr_t", serialization.pstr_t)
        patch.setitem(serialization.PROPERTY_CLASSES, 60, serialization.PROPERTY_CLASSES[60])
        amqp_decoding.install()
        yield


def decoded(properties: bytes) -> dict:
    message = Message()
    message.inbound_header(struct.pack(">HxxQ", 60, 3) + properties)
    assert message.body_size == 3  # the body is read even so
    return message.properties


def test_text_that_is_no_utf_8_leaves_the_headers():
    sent = Message(content_type=b"\xff", application_headers={"id": "job-1", "other": "é"})
    found = decoded(sent._serialize_properties())
    assert found == {
        "content_type": "\ufffd",
        "application_headers": {"id": "job-1", "other": "é"},
    }


def test_time_beyond_the_calendar_leaves_a_message_without_properties(caplog):
    headers = b"\x04timeT" + b"\xff" * 8
    flags = struct.pack(">H", 0x2000)
    assert decoded(flags + struct.pack(">I", len(headers)) + headers) == {}
    assert len(caplog.messages) == 1


@given(flags=st.integers(0, 0xFFFE), data=st.binary())
def test_any_bytes_are_decoded(flags, data):
    assert isinstance(decoded(struct.pack(">H", flags & ~1) + data), dict)


@given(name=st.binary(max_size=9), value=st.binary())
def test_any_header_is_decoded(name, value):
    headers = bytes([len(name)]) + name + value
    flags = struct.pack(">H", 0x2000)
    assert isinstance(decoded(flags + struct.pack(">I", len(headers)) + headers), dict)


def test_routing_key_that_is_no_utf_8_leaves_the_other_arguments():
    delivery = (b"tag", 2**64 - 1, True, "exchange é", b"\xff\xfe")
    sent = b"head" + serialization.dumps("sLbss", delivery)
    found, _ = abstract_channel.loads("sLbss", sent, 4)
    assert found == ["tag", 2**64 - 1, True, "exchange é", "\ufffd\ufffd"]
