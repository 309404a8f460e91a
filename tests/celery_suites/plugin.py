"""The pytest plugin that lets a suite of Celery or kombu use what ``SUITE_VARIANT`` names.

``threads`` is Celery's pool of that name on kombu's transport, ``stock`` kombu's transport alone.
``ours`` is ``AsyncioPool``, its task class, and our transport. It runs in the suite's environment.
"""

import functools
import os
from typing import Any

import pytest
from celery import concurrency
from celery.contrib.testing import app
from kombu.transport import redis

from berlin_worker.queue import broker

OURS = os.environ["SUITE_VARIANT"] == "ours"
# The suite asks for Celery's default pool by its name.
concurrency.ALIASES["prefork"] = (
    "berlin_worker.pool:AsyncioPool" if OURS else "celery.concurrency.thread:TaskPool"
)
if OURS:
    app.TestApp = functools.partial(app.TestApp, task_cls="berlin_worker.pool:AsyncioTask")
    broker.install()
    # kombu's own tests name the classes of its module.
    redis.Channel, redis.Transport = broker.RedisChannel, broker.RedisTransport
    redis.SentinelChannel = broker.SentinelChannel
    redis.SentinelTransport = broker.SentinelTransport


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the stand-ins of kombu's tests what each client of redis-py has, and ours uses."""
    for module in {getattr(item, "module", None) for item in items}:
        client: Any = getattr(module, "Client", None)
        if OURS and module.__name__.endswith("test_redis") and client is not None:
            client.connection_pool = None
            client._sconnection.pack_commands = lambda self, commands: b""
            client._sconnection.send_packed_command = client._sconnection.send_command
