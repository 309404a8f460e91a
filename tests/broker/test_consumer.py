"""Celery's consumer, before it has a broker."""

from unittest.mock import MagicMock

import pytest
from celery import Celery
from celery.exceptions import WorkerShutdown
from kombu import Connection

from berlin_worker.broker.consumer import PromptConsumer
from berlin_worker.broker.remote_control import ControlNode

pytestmark = pytest.mark.unit


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
