"""The pytest plugin that lets a suite of Celery or kombu use what ``SUITE_VARIANT`` names.

``threads`` and ``prefork`` are Celery's pools of these names on kombu's transport, ``stock`` is
kombu's transport alone. ``ours`` is ``AsyncioPool``, its task class, and our transport. It runs in
the suite's environment.
"""

import functools
import os
from typing import Any

import pytest
from celery import concurrency
from celery.contrib.testing import app
from kombu.transport import redis
from kombu.utils import eventio

from berlin_worker.broker import transport

VARIANT = os.environ["SUITE_VARIANT"]
OURS = VARIANT == "ours"
# The suite asks for Celery's default pool by its name.
POOLS = {"ours": "berlin_worker.pool:AsyncioPool", "threads": "celery.concurrency.thread:TaskPool"}
if VARIANT in POOLS:
    concurrency.ALIASES["prefork"] = POOLS[VARIANT]
if OURS:
    app.TestApp = functools.partial(app.TestApp, task_cls="berlin_worker.pool:AsyncioTask")
    transport.install()
    # kombu's own tests name the classes of its module.
    redis.Channel, redis.Transport = transport.RedisChannel, transport.RedisTransport
    redis.SentinelChannel = transport.SentinelChannel
    redis.SentinelTransport = transport.SentinelTransport


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Complete the stand-ins of kombu's tests; let no test run more often than twice."""
    for item in items:
        for marker in item.iter_markers("flaky"):
            marker.kwargs["reruns"] = 1  # not 5: what fails is run again by itself
    modules: set[Any] = {getattr(item, "module", None) for item in items}
    for module in modules:
        if module is not None and module.__name__.endswith("transport.test_redis"):
            redis.poll = eventio.poll  # the module replaces it for kombu's, imported above already
            if OURS:
                _complete(module.Client)


def _complete(client: Any) -> None:
    """Give a stand-in what each client of redis-py has, and our channel uses."""
    connection = client._sconnection
    client.connection_pool = None
    connection.pack_commands = lambda self, commands: b""
    connection.send_packed_command = connection.send_command
    # One reply is read without a server: to CLIENT ID, which was sent before it.
    connection.read_response = lambda self: len(self._sock.data.pop())
