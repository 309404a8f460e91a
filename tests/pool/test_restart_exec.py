"""SIGHUP: when the process runs its command line again."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
from celery import platforms, signals
from celery.worker import state

from berlin_worker.pool import restart
from berlin_worker.pool.restart import Restart

pytestmark = pytest.mark.unit


@pytest.fixture
def calls(monkeypatch):
    """Record the calls that would end or replace this process; its handlers stay as they are."""
    found = []
    fake = SimpleNamespace(send=lambda **sent: found.append(("stop", sent["sig"])))
    fake.connect = lambda handler: found.append(("connect", handler.__name__))
    monkeypatch.setattr(signals, "worker_shutting_down", fake)
    monkeypatch.setattr(platforms, "signals", {})
    monkeypatch.setattr(
        platforms, "close_open_fds", lambda keep: found.append(("close", len(keep)))
    )
    monkeypatch.setattr(signal, "signal", lambda *handler: found.append(("signal", *handler)))
    monkeypatch.setattr(os, "execv", lambda path, arguments: found.append(("exec", *arguments)))
    monkeypatch.setattr(state, "should_stop", None)
    monkeypatch.setattr(restart.celery_worker, "safe_say", lambda text, _: found.append(text))
    return found


def made(monkeypatch, *, terminal=(True, True)):
    answers = iter(terminal)
    monkeypatch.setattr(restart, "_has_terminal", lambda: next(answers))
    one = Restart()
    one.install()
    return one, platforms.signals["SIGHUP"]


def test_worker_restarts_after_sighup(calls, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "celery", "worker"])
    monkeypatch.setattr(sys, "argv", ["celery", "worker"])
    one, hang_up = made(monkeypatch)
    one.run_again()
    assert calls == [("connect", "_on_shutdown")]
    hang_up()
    assert calls[1:] == ["worker: Restart (SIGHUP)", ("stop", "SIGHUP")]
    one._on_shutdown(sig="SIGHUP")
    hang_up()  # it restarts once
    one.run_again()
    ignored, closed, started = calls[3:]
    assert ignored == ("signal", signal.SIGHUP, signal.SIG_IGN)
    assert closed == ("close", 3)
    assert started[:2] == ("exec", sys.executable)
    assert started[-1] == "worker"
    assert state.should_stop == 0


def test_worker_whose_terminal_is_gone_stops(calls, monkeypatch):
    one, hang_up = made(monkeypatch, terminal=(True, False))
    hang_up()
    assert calls[1].startswith("worker: The terminal is gone")
    one.run_again()
    assert calls[-1] == ("stop", "SIGHUP")


def test_worker_that_was_stopped_does_not_restart(calls, monkeypatch):
    one, hang_up = made(monkeypatch, terminal=(False,))
    hang_up()
    one._on_shutdown(sig="SIGTERM")
    one.run_again()
    assert calls[-1] == ("stop", "SIGHUP")
