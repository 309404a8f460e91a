"""Share one run of some work among all callers that ask while it runs."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class SingleFlight(Generic[T]):
    """Callers that ask at the same time share one run, and its result or error.

    A cancelled caller leaves the run to the others. When the last one is
    cancelled the run is cancelled too, and its clean-up is awaited. For one event loop.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._flight: _Flight[T] | None = None

    async def __call__(self) -> T:
        """Return the result of the run that is under way, or of a new one."""
        flight = self._flight
        if flight is None or flight.task.done():
            flight = self._flight = _Flight(asyncio.create_task(self._work()))
        flight.waiting += 1
        try:
            # Not by `await task`: that would pass the cancellation of one caller on to the run.
            await asyncio.wait({flight.task})
        except asyncio.CancelledError:
            if flight.waiting == 1 and not flight.task.done():
                await self._abandon(flight)
            raise
        finally:
            flight.waiting -= 1
        return flight.task.result()

    async def _abandon(self, flight: _Flight[T]) -> None:
        if self._flight is flight:
            self._flight = None  # nobody joins a run that is being cancelled
        flight.task.cancel()
        await asyncio.wait({flight.task})
        if not flight.task.cancelled():
            flight.task.exception()  # retrieved, so that asyncio does not log it
