"""Single keys from the terminal, without Enter."""

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

_LEAVE: Final = frozenset(b"qQ")


class Keys:
    """The keys that a user presses, as far as stdin is a terminal (``fd``)."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def left_within(self, seconds: float) -> bool:
        """Wait; returns at once with ``True`` if the user has pressed q."""
        readable, _, _ = select.select([] if self._fd is None else [self._fd], [], [], seconds)
        if not readable or self._fd is None:
            return False
        pressed = os.read(self._fd, 64)
        if not pressed:  # the terminal is gone
            self._fd = None
        return not _LEAVE.isdisjoint(pressed)


@contextlib.contextmanager
def single_keys() -> Iterator[Keys]:
    """Let keys arrive without Enter and unseen; the terminal is as before at the end."""
    fd = _terminal()
    if fd is None:
        yield Keys(None)
        return
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield Keys(fd)
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _terminal() -> int | None:
    """Stdin, if it is a terminal whose keys are for this process: none in the background."""
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):  # closed, or a test's
        return None
    if not os.isatty(fd):
        return None
    try:
        return fd if os.tcgetpgrp(fd) == os.getpgrp() else None
    except OSError:  # not the controlling terminal: it stops nobody
        return fd
