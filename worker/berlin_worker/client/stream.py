"""The events of a job as an asynchronous iterator: what real and fake clients return."""

import abc
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from berlin_schemas import Event
from berlin_worker.client.raw_events import RawEvent
from berlin_worker.errors import ClientError


class Stream(abc.ABC):
    """The events of a job, each once and in order, up to its terminal one.

    An asynchronous iterator, and a context manager that closes the stream at a known moment
    (after a ``break`` it is closed when it is garbage-collected). A caller may cancel its wait
    for the next event, for instance by a timeout, and wait again later.

    The last event is the terminal one, unless the stream raises an error of
    :mod:`berlin_worker.errors`:

    - ``CursorExpired`` if the log lacks the events that follow.
    - ``UnsupportedVersion`` if an event has another version of the contract.
    - ``Unavailable`` if Redis has not answered for ``Options.give_up_after_s``.
    """

    def __init__(self) -> None:
        self._ready: deque[Event] = deque()

    @property
    @abc.abstractmethod
    def job_id(self) -> str:
        """The job that is read."""

    @abc.abstractmethod
    async def batch(self) -> list[Event]:
        """Return all events that have arrived, at least one.

        Raises ``StopAsyncIteration`` at the end.
        """

    @abc.abstractmethod
    async def raw_batch(self) -> list[RawEvent]:
        """Return the bytes of all events that have arrived, at least one event.

        Number and type are read, the rest is not decoded. Raises ``StopAsyncIteration`` at the
        end, ``ClientError`` if the iterator still holds events that have arrived.
        """

    async def raw(self) -> AsyncGenerator[RawEvent, None]:
        """Yield each event as its own bytes, in place of the iterator's decoded ones."""
        while True:
            try:
                events = await self.raw_batch()
            except StopAsyncIteration:
                return
            for event in events:
                yield event

    @abc.abstractmethod
    async def start(self) -> None:
        """Subscribe, and submit the job of ``submit_and_stream``; the first event does so too."""

    @abc.abstractmethod
    def close(self) -> None:
        """Unsubscribe and end the iterator."""

    async def aclose(self) -> None:
        """Close the stream; asynchronous generators have a method of this name."""
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._ready:
            self._ready.extend(await self.batch())
        return self._ready.popleft()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _check_raw(self) -> None:
        if self._ready:
            raise ClientError("read a stream by its iterator or by raw(), not by both")

    def _take_ready(self) -> list[Event]:
        ready, self._ready = list(self._ready), deque()
        return ready
