"""Single keys from the terminal, without Enter."""

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

from berlin_worker.cli.interrupts import SignalWait

_LEAVE: Final = frozenset(b"qQ")


class Keys:
    """The keys that a user presses; ``fd`` is stdin if that is a terminal."""

    def __init__(self, signals: SignalWait, fd: int | None) -> None:
        self._signals = signals
        self._fd = fd

    def quit_within(self, seconds: float) -> bool:
        """Wait, and return ``True`` as soon as the user presses q or a signal arrives."""
        if self._signals.arrived_within(seconds, self._fd):
            return True
        if self._fd is None or not select.select([self._fd], [], [], 0)[0]:
            return False
        pressed = os.read(self._fd, 64)
        if not pressed:  # the terminal has closed
            self._fd = None
        return not _LEAVE.isdisjoint(pressed)


@contextlib.contextmanager
def single_keys(signals: SignalWait) -> Iterator[Keys]:
    """Read keys without Enter and without echo. Restores the terminal at the end."""
    fd = _terminal()
    if fd is None:
        yield Keys(signals, None)
        return
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield Keys(signals, fd)
    finally:
        with contextlib.suppress(termios.error):  # the terminal has closed
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _terminal() -> int | None:
    """Return stdin if it is a terminal and this process is in the foreground."""
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):  # closed, or replaced by a test
        return None
    if not os.isatty(fd):
        return None
    try:
        return fd if os.tcgetpgrp(fd) == os.getpgrp() else None
    except OSError:  # only a controlling terminal stops readers in the background
        return fd
