"""Single keys of a terminal, and input that is none."""

import io
import os
import pty
import sys
import termios

import pytest

from berlin_worker.cli import keys
from berlin_worker.cli.interrupts import SignalWait
from berlin_worker.cli.keys import Keys, single_keys

pytestmark = pytest.mark.unit


@pytest.fixture
def signals():
    with SignalWait() as wait:
        yield wait


@pytest.mark.parametrize(("pressed", "leaves"), [(b"q", True), (b"Q", True), (b"x", False)])
def test_key_ends_the_wait(signals, pressed, leaves):
    reader, writer = os.pipe()
    try:
        made = Keys(signals, reader)
        assert not made.quit_within(0)
        os.write(writer, pressed)
        assert made.quit_within(60) is leaves
        os.close(writer)
        writer = None
        assert not made.quit_within(60)
        assert not made.quit_within(0)  # a terminal that has closed is not read again
    finally:
        os.close(reader)
        if writer is not None:
            os.close(writer)


def test_signal_ends_the_wait(signals, monkeypatch):
    monkeypatch.setattr(signals, "number", 15)
    assert Keys(signals, None).quit_within(60)


@pytest.mark.parametrize("stdin", [None, io.StringIO("q")])
def test_input_that_is_no_terminal_has_no_keys(signals, monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    with single_keys(signals) as made:
        assert made._fd is None


def test_file_is_no_terminal(signals, monkeypatch, tmp_path):
    with (tmp_path / "file").open("w+") as file:
        monkeypatch.setattr(sys, "stdin", file)
        with single_keys(signals) as made:
            assert made._fd is None


def test_terminal_echoes_nothing_and_is_restored(signals, monkeypatch):
    primary, terminal = pty.openpty()
    try:
        with open(terminal, closefd=False) as stdin:  # a descriptor has no path
            monkeypatch.setattr(sys, "stdin", stdin)
            before = termios.tcgetattr(terminal)
            with single_keys(signals) as made:
                assert made._fd == terminal
                assert not termios.tcgetattr(terminal)[3] & (termios.ECHO | termios.ICANON)
            assert termios.tcgetattr(terminal) == before
    finally:
        os.close(primary)
        os.close(terminal)


def test_background_process_reads_no_keys(signals, monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"fileno": lambda _: 7})())
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    assert keys._terminal() is None
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    assert keys._terminal() == 7
