"""The synchronous client: the asynchronous one, its event loop in a background thread.

One implementation for both; any number of threads may share a client.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from berlin_schemas import Event
from berlin_worker.client.aio import AsyncClient
from berlin_worker.client.fields import JobFields
from berlin_worker.client.stream import Stream
from berlin_worker.client.submission import Prompt
from berlin_worker.client.surface import AsyncSurface
from berlin_worker.client.values import CLOSED, JobStatus, Options, Result
from berlin_worker.errors import ClientError
from berlin_worker.settings import Settings

T = TypeVar("T")

_FORKED: Final = "this stream was opened before a fork: open another, after the last seq seen"
_left_behind: Final[list["_Portal"]] = []
"""Portals of the parent process, after a fork: collecting them would touch its sockets."""


class Client:
    """Submits jobs and follows them, from any thread.

    The methods are those of :class:`~berlin_worker.client.AsyncClient`, and so are their errors.
    The thread starts with the first call, so that a client made before a fork works in every
    child. Close it by ``with`` or :meth:`close`.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        broker_url: str | None = None,
        *,
        settings: Settings | None = None,
        options: Options | None = None,
    ) -> None:
        settings = settings or Settings.from_env(needs_broker=False)
        self._begin(lambda: AsyncClient(redis_url, broker_url, settings=settings, options=options))

    def _begin(self, make: Callable[[], AsyncSurface]) -> None:
        self._make = make
        make()  # connects nothing; a URL that cannot be used is an error now
        self._lock = threading.Lock()
        self._portal: _Portal | None = None
        self._closed = False
        _clients.add(self)

    def submit(
        self, prompt: Prompt, *, job_id: str | None = None, **job_fields: Unpack[JobFields]
    ) -> str:
        """See :meth:`AsyncClient.submit`."""
        return self._run(lambda c: c.submit(prompt, job_id=job_id, **job_fields))

    def stream(
        self, job_id: str, after: int = 0, *, wait_for_start_s: float | None = None
    ) -> "SyncStream":
        """See :meth:`AsyncClient.stream`."""
        return self._stream(lambda c: c.stream(job_id, after, wait_for_start_s=wait_for_start_s))

    def submit_and_stream(
        self, prompt: Prompt, *, job_id: str | None = None, **job_fields: Unpack[JobFields]
    ) -> "SyncStream":
        """See :meth:`AsyncClient.submit_and_stream`."""
        return self._stream(lambda c: c.submit_and_stream(prompt, job_id=job_id, **job_fields))

    def sse(self, job_id: str, last_event_id: str | None = None) -> Iterator[bytes]:
        """See :meth:`AsyncClient.sse`."""
        portal = self._opened()

        async def made() -> AsyncGenerator[bytes, None]:
            return portal.client.sse(job_id, last_event_id)

        async def following() -> bytes | None:
            return await anext(frames, None)

        frames = portal.run(made())
        try:
            while (frame := portal.run(following())) is not None:
                yield frame
        finally:
            with contextlib.suppress(ClientError):  # the client was closed, and the stream with it
                portal.run(_closing(frames))

    def cancel(self, job_id: str, reason: str | None = None) -> None:
        """See :meth:`AsyncClient.cancel`."""
        self._run(lambda c: c.cancel(job_id, reason))

    def result(self, job_id: str, timeout_s: float | None = None) -> Result:
        """See :meth:`AsyncClient.result`."""
        return self._run(lambda c: c.result(job_id, timeout_s))

    def status(self, job_id: str) -> JobStatus:
        """See :meth:`AsyncClient.status`."""
        return self._run(lambda c: c.status(job_id))

    def list(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: JobStatus | None = None,
    ) -> "list[JobStatus]":
        """See :meth:`AsyncClient.list`."""
        return self._run(lambda c: c.list(tenant=tenant, status=status, limit=limit, before=before))

    def close(self) -> None:
        """Finish the submissions under way, close every connection and end the thread."""
        with self._lock:
            portal, self._portal = self._portal, None
            self._closed = True
        if portal is not None:
            portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, call: Callable[[AsyncSurface], Coroutine[Any, Any, T]]) -> T:
        portal = self._opened()
        return portal.run(call(portal.client))

    def _stream(self, call: Callable[[AsyncSurface], Stream]) -> "SyncStream":
        portal = self._opened()

        async def made() -> Stream:
            return call(portal.client)

        return SyncStream(portal, portal.run(made()))

    def _opened(self) -> "_Portal":
        with self._lock:
            if self._closed:
                raise ClientError(CLOSED)
            if self._portal is None:
                self._portal = _Portal(self._make())
            return self._portal

    def forked(self) -> None:
        """Replace lock and portal in a forked child: threads of the parent do not run in it."""
        self._lock = threading.Lock()
        if self._portal is not None:
            _left_behind.append(self._portal)
            self._portal = None


_clients: Final[weakref.WeakSet[Client]] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_clients):
        client.forked()


os.register_at_fork(after_in_child=_forked)


async def _closing(frames: AsyncGenerator[bytes, None]) -> None:
    await frames.aclose()


class SyncStream:
    """The events of a job, each once and in order, up to its terminal one.

    An iterator, and a context manager that closes it at a known moment. It reads a
    :class:`berlin_worker.client.stream.Stream`.
    """

    def __init__(self, portal: "_Portal", stream: Stream) -> None:
        self._portal = portal
        self._stream = stream
        self._ready: deque[Event] = deque()

    @property
    def job_id(self) -> str:
        """The job that is read."""
        return self._stream.job_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if not self._ready:
            # All events that have arrived: a change of threads costs more than an event.
            self._portal.run(self._fill())
            if not self._ready:
                raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        """Unsubscribe. The iterator is at its end then."""
        self._ready.clear()
        with contextlib.suppress(ClientError):  # the client was closed, and the stream with it
            self._portal.run(self._stream.aclose())

    def __enter__(self) -> Self:
        self._portal.run(self._stream.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    async def _fill(self) -> None:
        # Here, not in the caller's thread: an interrupt there would drop what has arrived.
        with contextlib.suppress(StopAsyncIteration):
            self._ready.extend(await self._stream.batch())


class _Portal:
    """An event loop in a thread, and the client that it runs."""

    def __init__(self, client: AsyncSurface) -> None:
        self.client = client
        self.pid = os.getpid()
        self._closing = False
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="berlin-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` in the loop and wait for it; cancel it if the wait is interrupted."""
        if self.pid != os.getpid():  # the lock may be held by a thread of the parent
            work.close()
            raise ClientError(_FORKED)
        with self._lock:  # nothing is handed to a loop that is about to stop
            if self._closing:
                work.close()
                raise ClientError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientError(CLOSED) from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the client and end the thread."""
        with self._lock:
            self._closing = True
            future = asyncio.run_coroutine_threadsafe(self.client.aclose(), self._loop)
        try:
            future.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()
