"""Signals: awaited, recorded, deferred, or the end of a block."""

import asyncio
import os
import signal

import pytest

from berlin_worker.cli import interrupts
from berlin_worker.cli.interrupts import SIGNALS, Interrupts, SignalWait, deferred, interruptible

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def handlers():
    """Restore the handlers: an event loop does not, and coverage needs them."""
    before = in_place()
    # A shell ignores SIGINT in the programs that it starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield in_place()
    for number, handler in before.items():
        signal.signal(number, handler)


def in_place():
    return {number: signal.getsignal(number) for number in SIGNALS}


async def test_first_signal_is_recorded_and_the_second_ends_the_process(monkeypatch):
    written, codes = [], []
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "write", lambda _, data: written.append(data))
    monkeypatch.setattr(os, "_exit", codes.append)
    with Interrupts() as interrupts_:
        assert interrupts_.exit_code is None
        interrupts_._receive(signal.SIGTERM)
        assert await interrupts_.wait() == interrupts_.exit_code == 143
        assert codes == []
        with pytest.raises(asyncio.InvalidStateError):  # here alone os._exit returns
            interrupts_._receive(signal.SIGINT)
    assert codes == [130]
    assert written == [interrupts._SHOW_CURSOR]


def test_signal_ends_the_sleep_and_the_second_one_the_loop(handlers):
    with SignalWait() as wait:
        assert not wait.arrived_within(0)
        assert wait.exit_code is None
        signal.raise_signal(signal.SIGTERM)
        assert wait.arrived_within(60)
        assert wait.exit_code == 143
        with pytest.raises(SystemExit, match="130"):
            signal.raise_signal(signal.SIGINT)
    assert in_place() == handlers


def test_input_ends_the_sleep_without_a_signal():
    reader, writer = os.pipe()
    try:
        os.write(writer, b"q")
        with SignalWait() as wait:
            assert not wait.arrived_within(60, reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_deferred_signal_arrives_once_at_the_end_of_the_block(handlers):
    steps = []

    def block():
        with deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            steps.append("the block goes on")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["the block goes on"]
    with deferred():
        steps.append("without a signal")
    assert len(steps) == 2
    assert in_place() == handlers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_an_interruptible_block(handlers, number, code):
    if number not in SIGNALS:
        pytest.skip("SIGHUP is ignored here, as under nohup")
    with pytest.raises(SystemExit, match=str(code)), interruptible():
        signal.raise_signal(number)
    assert in_place() == handlers
