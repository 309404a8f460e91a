"""Celery's commands ``revoke`` and ``terminate``, in no worker."""

import signal
from unittest.mock import MagicMock

import pytest
from celery.worker import state as worker_state
from celery.worker.control import Panel

from berlin_worker.broker import revocation
from berlin_worker.broker.command_arguments import Facts, checked

pytestmark = pytest.mark.unit

NAMES = [name for each in signal.Signals for name in (each.name, each.name.removeprefix("SIG"))]
JOB = "job-1"


@pytest.fixture
def revoked(monkeypatch):
    """Jobs of which the worker's own code hears; the commands of other tests stay as they are."""
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))
    monkeypatch.setattr(worker_state, "revoked", set())
    found = []
    revocation.install(lambda job_ids, running: found.append((job_ids, running)))
    return found


@pytest.mark.parametrize("method", ["revoke", "terminate"])
@pytest.mark.parametrize("change", [str, str.lower, str.title])
def test_reply_to_every_signal_that_is_accepted_is_no_error(revoked, method, change):
    state = MagicMock()
    for value in (*map(change, NAMES), *map(int, signal.Signals)):
        given = {"task_id": [JOB], "signal": value}
        given |= {"terminate": True} if method == "revoke" else {}
        arguments = checked(method, given, lambda: Facts((), 1, 1))
        assert "ok" in Panel.data[method](state, **arguments)
        assert revoked.pop() == ([JOB], True)
