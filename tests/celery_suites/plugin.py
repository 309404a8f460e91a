"""The pytest plugin with which a suite of Celery or kombu uses the parts of ``SUITE_VARIANT``.

``threads`` and ``prefork`` are Celery's pools of these names on kombu's transport, ``stock`` is
kombu's transport alone. ``ours`` is ``AsyncioPool``, its task class, and our transport. It runs in
the suite's environment.

It also records each outcome at once, and ends the process if a test hangs: the tests after that one
run in another process.
"""

import faulthandler
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import concurrency
from celery.contrib.testing import app
from kombu.transport import redis
from kombu.utils import eventio

from berlin_worker.broker import transport

VARIANT = os.environ["SUITE_VARIANT"]
RECORD = Path(os.environ["SUITE_RECORD"])
LEFT_OUT = frozenset(Path(os.environ["SUITE_LEFT_OUT"]).read_text().splitlines())
"""Node IDs of the tests that an earlier process has ended."""
STEP_LIMIT_S = float(os.environ["SUITE_STEP_LIMIT_S"])
STACKS = os.dup(2)  # pytest will capture descriptor 2
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


def limit_step() -> None:
    """Give this process ``STEP_LIMIT_S`` until the next call; then it writes its stacks and exits.

    pytest-timeout does not serve here: it stops its clock at the first exception of a test, so a
    teardown that hangs after a failed test has no limit, and the suites' own marks override it.
    """
    faulthandler.dump_traceback_later(STEP_LIMIT_S, exit=True, file=STACKS)


def record(event: str, test: str) -> None:
    """Append an event of a test to the record; see ``outcomes.outcomes_of``."""
    with RECORD.open("a") as file:
        file.write(f"{event} {test}\n")


limit_step()


def pytest_runtest_logstart(nodeid: str) -> None:
    """Record that a test begins."""
    record("started", nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Limit the setup of a test."""
    limit_step()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Limit the test itself."""
    limit_step()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Limit the teardown of a test; that of the last test includes the worker of the session."""
    limit_step()
    yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record how a phase or a subtest ended."""
    record(report.outcome, report.nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Record that a test is over."""
    record("finished", nodeid)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a worker to the tests that forgot to ask for one, so that they can run alone."""
    if isinstance(item, pytest.Function) and item.cls and item.cls.__name__ == _FORGETFUL:
        item.fixturenames.append("celery_session_worker")


_FORGETFUL = "test_trace_log_arguments"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that have ended, and complete the stand-ins of kombu's tests."""
    ended = [item for item in items if item.nodeid in LEFT_OUT]
    config.hook.pytest_deselected(items=ended)
    items[:] = [item for item in items if item.nodeid not in LEFT_OUT]
    modules: set[Any] = {getattr(item, "module", None) for item in items}
    for module in modules:
        if module is not None and module.__name__.endswith("transport.test_redis"):
            redis.poll = eventio.poll  # the test module has replaced it after our import above
            if OURS:
                _complete(module.Client)


def _complete(client: Any) -> None:
    """Give a stand-in the parts of a client of redis-py that our channel uses."""
    connection = client._sconnection
    client.connection_pool = None
    connection.pack_commands = lambda self, commands: b""
    connection.send_packed_command = connection.send_command
    # One reply is read without a server: to CLIENT ID, which was sent before it.
    connection.read_response = lambda self: len(self._sock.data.pop())
