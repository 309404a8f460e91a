"""Celery's consumer, before it has a broker."""

import contextlib
from unittest.mock import MagicMock

import pytest
from amqp import abstract_channel, serialization
from celery import Celery
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer
from kombu import Connection, compression
from kombu.serialization import registry
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_worker.broker import consumer as consumer_module
from berlin_worker.broker import running
from berlin_worker.broker.consumer import PromptConsumer
from berlin_worker.broker.remote_control import ControlNode
from berlin_worker.broker.state import STATE
from berlin_worker.broker.validation import InvalidMessage

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def other_tests_as_before(monkeypatch):
    """Undo what a consumer changes in its whole process."""
    for name in ("_encoders", "_decoders"):
        monkeypatch.setattr(compression, name, dict(getattr(compression, name)))
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    for name in ("type_to_name", "name_to_type"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(abstract_channel, "loads", abstract_channel.loads)
    monkeypatch.setattr(serialization, "pstr_t", serialization.pstr_t)
    monkeypatch.setattr(serialization, "PROPERTY_CLASSES", dict(serialization.PROPERTY_CLASSES))
    monkeypatch.setattr(STATE, "on_unreadable", STATE.on_unreadable)


def consumer(**conf):
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.update(conf)
    controller = MagicMock(hostname="w@h")
    return PromptConsumer(
        print, app=app, controller=controller, pool=MagicMock(num_processes=1), hostname="w@h"
    )


def test_every_event_and_command_is_checked_before_celery():
    made = consumer()
    assert isinstance(made.app.control.mailbox.Node("w@h"), ControlNode)
    made.gossip.timer = MagicMock()
    with Connection("memory://") as connection:
        (events,) = made.gossip.get_consumers(connection.channel())
        assert events.on_decode_error == made.on_decode_error
        # Neither one that cannot be decoded nor one that is no event raises.
        message = MagicMock(errors=[(KeyError, KeyError("x"), None)])
        made.on_decode_error(message, KeyError("x"))
        events.on_message(MagicMock(headers={}, payload=None))
        message.ack.assert_not_called()


def test_global_keyprefix_ends_the_start_in_one_line(caplog):
    with pytest.raises(WorkerShutdown):
        consumer(broker_transport_options={"global_keyprefix": "a:"})
    (line,) = caplog.messages
    assert "global_keyprefix is not supported" in line


@pytest.fixture
def discarded(monkeypatch):
    found = []
    monkeypatch.setattr(running, "discard", lambda *what: found.append(what))
    return found


def message(**fields):
    return MagicMock(headers={"id": "job-1"}, body=b"body", delivery_tag="tag", **fields)


def test_message_that_no_task_can_take_is_discarded_and_acknowledged(discarded, caplog):
    made = consumer()
    found = [message() for _ in range(5)]
    made.on_unknown_message(b"", found[0])
    made.on_unknown_task(b"", found[1], KeyError("x"))
    made.on_invalid_task(b"", found[2], InvalidMessage("no_object", "the body is no object"))
    made.on_invalid_task(b"", found[3], ValueError("no date"))
    made.task_consumer = MagicMock(channel=found[4].channel)
    made.on_decode_error(found[4], ValueError("not JSON"))
    reasons = ["not_a_task", "unknown_task", "no_object", "not_a_task", "undecodable"]
    assert [each[1] for each in discarded] == reasons
    assert {(each[0], each[3]) for each in discarded} == {("job-1", b"body")}
    assert discarded[2][2] == "the body is no object"
    assert caplog.messages[:2] == [
        "a message was discarded: not_a_task",
        "a message was discarded: unknown_task (KeyError)",
    ]
    assert all(each.ack_log_error.called for each in found)


def test_broadcast_that_cannot_be_decoded_is_dropped(discarded, caplog):
    made, found = consumer(), message()
    made.on_decode_error(found, ValueError("not JSON"))
    assert "a broadcast was dropped: ValueError" in caplog.text
    assert discarded == []
    assert not found.ack_log_error.called


def test_message_goes_back_if_the_dead_letters_cannot_be_written(monkeypatch, caplog):
    def refuse(*_):
        raise OSError("Redis is away")

    monkeypatch.setattr(running, "discard", refuse)
    on_redis, on_rabbitmq = message(), message()
    del on_rabbitmq.channel.qos.release
    for each in (on_redis, on_rabbitmq):
        consumer().on_unknown_message(b"", each)
        assert not each.ack_log_error.called
    on_redis.channel.qos.release.assert_called_once_with("tag")
    assert not on_redis.reject_log_error.called
    assert on_rabbitmq.reject_log_error.call_args.kwargs == {"requeue": True}
    assert "could not be moved to the dead letters" in caplog.text


@pytest.mark.parametrize("error", [None, KeyError("id"), RedisConnectionError("gone")])
def test_handler_discards_what_fails_unless_the_connection_is_lost(discarded, monkeypatch, error):
    made, found = consumer(), message()
    handle = MagicMock(side_effect=error)
    monkeypatch.setattr(Consumer, "create_task_handler", lambda *_, **__: handle)
    lost = isinstance(error, RedisConnectionError)
    with pytest.raises(RedisConnectionError) if lost else contextlib.nullcontext():
        made.create_task_handler()(found)
    assert [each[1] for each in discarded] == (
        ["not_a_task"] if isinstance(error, KeyError) else []
    )
    assert (found.body == b"") is (error is None)


def test_unreadable_job_ends_as_failed_if_its_id_is_known(monkeypatch):
    ended = []
    monkeypatch.setattr(running, "refuse", lambda job_id, error: ended.append((job_id, error.code)))
    consumer_module._fail_unreadable("")
    consumer_module._fail_unreadable("job-1")
    assert ended == [("job-1", "invalid_job")]
