"""Fixtures of the tests with RabbitMQ as the broker."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, pools

from tests.support.fleet import Fleet
from tests.support.needed import needed
from tests.support.rabbitmq import RabbitProcess, find_rabbitmq


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitProcess]:
    """One for each test process. In CI a missing server is a failure."""
    binary = needed(find_rabbitmq(), "rabbitmq-server")
    with RabbitProcess(binary) as server:
        yield server


@pytest.fixture
def broker(rabbit: RabbitProcess) -> Iterator[Any]:
    """A connection to a broker without the queue."""
    pools.reset()  # a pooled connection believes that the queue it once declared is there
    with Connection(rabbit.url) as connection:
        connection.default_channel.queue_delete("prompts")
        yield connection


@pytest.fixture
def fleet(fleet: Fleet, rabbit: RabbitProcess, broker: Any) -> Iterator[Fleet]:
    """The fleet of the other tests, its queue on RabbitMQ."""
    fleet.env["CELERY_BROKER_URL"] = rabbit.url
    with Celery(broker=rabbit.url, set_as_current=False) as fleet.app:
        yield fleet
