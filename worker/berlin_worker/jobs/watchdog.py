"""The three timeouts of an attempt under one timer.

A chunk only notes the time. When the timer fires and no timeout has passed, it is set again. So a
stream needs a timer now and then, not one for each chunk.
"""

import asyncio
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

_CHECK_INTERVAL_S: Final = 1.0
"""The least time between two checks before the first chunk."""


class Expired(StrEnum):
    """Which timeout has passed."""

    FIRST_CHUNK = "first_chunk"
    IDLE = "idle"
    DEADLINE = "deadline"


class Watchdog:
    """Cancels the task that entered it when a timeout passes; ``expired`` is then that timeout.

    Like ``asyncio.timeout`` it turns that cancellation into a ``TimeoutError``. The block may be
    third-party code: if it replaces the cancellation, the ``TimeoutError`` is raised all the same,
    and a cancellation from outside stays one. ``deadline`` is a time of the event loop, the other
    parameters are durations in seconds.
    """

    __slots__ = (
        "_cancelling", "_deadline", "_due", "_idle_s", "_kind", "_last", "_limit_s", "_loop",
        "_paused", "_task", "_timer", "expired", "last_chunk",
    )  # fmt: skip

    def __init__(self, *, deadline: float, first_chunk_s: float, idle_s: float) -> None:
        self._deadline = deadline
        self._limit_s = first_chunk_s
        self._idle_s = idle_s
        self._kind = Expired.FIRST_CHUNK
        self._paused = False
        self.expired: Expired | None = None
        self.last_chunk = 0.0
        """Time of the last chunk, by the event loop's clock."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # a coroutine always runs in one
        self._task = task
        self._cancelling = task.cancelling()
        self._last = self._loop.time()
        self._arm()
        return self

    def saw_chunk(self) -> None:
        """Note chunks: the idle timeout counts from now."""
        self._last = self.last_chunk = self._loop.time()
        if self._kind is Expired.FIRST_CHUNK:
            self._kind, self._limit_s = Expired.IDLE, self._idle_s
            if self._last + self._idle_s < self._due:
                self._timer.cancel()
                self._arm()

    def saw_life(self) -> None:
        """Note data without text: a running idle timeout counts from now."""
        if self._kind is Expired.IDLE:
            self._last = self._loop.time()

    def pause(self) -> None:
        """Stop the timeouts except the deadline: the upstream is not being read."""
        self._paused = True

    def resume(self) -> None:
        """Restart the timeouts: the upstream is being read again."""
        self._paused = False
        self._last = self._loop.time()

    def _arm(self) -> None:
        self._due = min(self._last + self._limit_s, self._deadline)
        if self._kind is Expired.FIRST_CHUNK:
            # Early enough for the idle timeout: the first chunk seldom needs another timer.
            self._due = min(self._due, self._loop.time() + max(self._idle_s, _CHECK_INTERVAL_S))
        self._timer = self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if self._paused:
            self._last = now
        if now >= self._deadline:
            self.expired = Expired.DEADLINE
        elif now >= self._last + self._limit_s:
            self.expired = self._kind
        if self.expired is None:
            self._arm()
        else:
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self.expired is not None:
            self._task.uncancel()
        if self._task.cancelling() > self._cancelling:
            if kind is None or not issubclass(kind, asyncio.CancelledError):
                raise asyncio.CancelledError from error
        elif self.expired is not None:
            raise TimeoutError(self.expired) from error
