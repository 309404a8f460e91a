"""SIGINT, SIGTERM and SIGHUP: await them, defer them, or let them end a block."""

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from typing import Final, Self

SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    # Sent when the terminal closes. nohup ignores it, and this program leaves that so.
    *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []),
)
_SHOW_CURSOR: Final = b"\x1b[?25h"


class Interrupts:
    """Context: the first signal is only recorded, the second ends the process at once."""

    def __init__(self) -> None:
        self._first: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._receive, number)
        return self

    def __exit__(self, *error: object) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    @property
    def exit_code(self) -> int | None:
        """128 + the number of the signal, as in shells; ``None`` before a signal."""
        return 128 + self._first.result() if self._first.done() else None

    async def wait(self) -> int:
        """Wait for the first signal, and return the exit code."""
        return 128 + await asyncio.shield(self._first)

    def _receive(self, number: signal.Signals) -> None:
        if self._first.done():
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)  # a progress bar may have hidden the cursor
            os._exit(128 + number)
        self._first.set_result(number)


class SignalWait:
    """Context for a loop that sleeps in ``arrived_within``: the first signal only ends that sleep.

    Nothing is raised where the signal arrives, so a terminal is always restored. A second signal
    raises ``SystemExit`` at once, for a loop that waits elsewhere.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._wakeup, self._written = socket.socketpair()
        self._written.setblocking(False)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        self._fd_before = signal.set_wakeup_fd(self._written.fileno())
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wakeup.close()
        self._written.close()

    @property
    def exit_code(self) -> int | None:
        """128 + the number of the signal, as in shells; ``None`` before a signal."""
        return None if self.number is None else 128 + self.number

    def arrived_within(self, seconds: float, fd: int | None = None) -> bool:
        """Wait for a signal, or for input at ``fd``, and return whether a signal has arrived."""
        if self.number is None:
            wakeup = self._wakeup.fileno()
            select.select([wakeup] if fd is None else [wakeup, fd], [], [], seconds)
        return self.number is not None

    def _receive(self, number: int, _frame: object) -> None:
        if self.number is not None:
            raise SystemExit(128 + number)
        self.number = number


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer signals to the end of the block, so that no process that it starts is left behind."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for got in received[:1]:
            signal.raise_signal(got)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, with exit codes 143 and 129."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
