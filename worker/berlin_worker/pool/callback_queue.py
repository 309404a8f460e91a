"""Calls from the loop's thread into the main thread: it owns Celery's requests and the broker."""

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)


class CallbackQueue:
    """Callbacks for the main thread; posting one wakes kombu's hub, which runs it.

    Without a hub (on Windows, with transports that cannot be polled) the thread that posts a
    callback runs it, as in Celery's thread pool.
    """

    def __init__(self, *, has_hub: bool) -> None:
        self._has_hub = has_hub
        self._hub: Any = None
        self._callbacks: deque[Callable[[], None]] = deque()
        self._awake = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def attach(self, hub: Any) -> None:
        """Let ``hub`` run the callbacks; call this once for each connection to the broker."""
        self._hub = hub
        hub.add_reader(self._reader, self._read)

    @property
    def empty(self) -> bool:
        """Whether all callbacks have been run."""
        return not self._callbacks

    def post(self, callback: Callable[[], None]) -> None:
        """Let the main thread run ``callback``. Any thread may call this."""
        if self._has_hub:
            self._callbacks.append(callback)
        else:
            _run(callback)
        self.wake()

    def wake(self) -> None:
        """Wake the main thread, unless a wake-up is pending.

        Any thread or signal handler may call this.
        """
        if not self._awake:
            self._awake = True
            with contextlib.suppress(OSError):  # full, so it is awake; or closed
                self._writer.send(b"\0")

    def run_until(
        self, done: Callable[[], bool], timeout_s: float | None, hurry: Callable[[], bool]
    ) -> None:
        """Do the main thread's work until ``done()``, ``hurry()``, or the time is up."""
        if self._hub is not None:
            self.attach(self._hub)  # again: Celery resets the hub when the broker is lost
        deadline = float("inf") if timeout_s is None else monotonic() + timeout_s
        while not done() and not hurry():
            remaining_s = deadline - monotonic()
            if remaining_s <= 0:
                return
            self._turn(min(remaining_s, 1.0))

    def _turn(self, at_most_s: float) -> None:
        if self._hub is None:
            if select.select([self._reader], [], [], at_most_s)[0]:
                self._read()
            return
        # The hub also sends acknowledgements and heartbeats, and returns a message that the
        # broker sent before it cancelled our consumer.
        alarm = self._hub.call_later(at_most_s, lambda: None)
        try:
            self._hub.run_once()
        except Exception as error:  # noqa: BLE001  # each transport has errors of its own
            logger.warning("Lost the broker while stopping: %r", error)
            self._hub = None
        finally:
            alarm.cancel()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self._reader.recv(4096)
        self._awake = False
        for _ in range(len(self._callbacks)):
            _run(self._callbacks.popleft())


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("A callback of the pool failed")
