"""Clients without Redis: the methods of the real ones, and answers that a test scripts.

    client = FakeAsyncClient()
    client.reply("Hello, world", Failure("rate_limited"), Unavailable("Redis is away"))

The first submission gets the text, the second fails, the third raises. A submission without a
scripted reply gets what ``answer`` returns for its job, by default its own prompt. Jobs are
checked as the real clients check them, IDs included.
"""

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack, cast

from berlin_schemas import Event, encode
from berlin_schemas.names import check_job_id
from berlin_worker.client import sse
from berlin_worker.client.fields import JobFields
from berlin_worker.client.submission import Prompt, Submission, prepare
from berlin_worker.client.values import JobStatus, Result
from berlin_worker.testing.script import Script
from berlin_worker.testing.scripted import Scripted, late, result_of

if TYPE_CHECKING:
    from berlin_worker.client.stream import Stream


class FakeStream:
    """As :class:`berlin_worker.client.Stream`."""

    def __init__(
        self, script: Script, job_id: str, after: int, submission: Submission | None
    ) -> None:
        if after < 0:
            raise ValueError("after is the last seq already seen: 0 or more")
        self.job_id = check_job_id(job_id)
        self._script = script
        self._seen = after
        self._submission = submission
        self._ready: list[Event] = []
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._ready:
            self._ready = await self.batch()
        return self._ready.pop(0)

    async def batch(self) -> list[Event]:
        """All events that are there, at least one; raises ``StopAsyncIteration`` at the end."""
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        await self.start()
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._script.listen(listener)
        try:
            while not self._closed:
                changed.clear()
                events, over = self._script.after(self.job_id, self._seen)
                if events:
                    self._seen = events[-1].seq
                    return events
                if over:
                    break
                await changed.wait()
        finally:
            self._script.unlisten(listener)
        raise StopAsyncIteration

    async def raw_batch(self) -> list[tuple[Event, bytes]]:
        """As :meth:`batch`, each event with its bytes."""
        return [(event, encode(event)) for event in await self.batch()]

    async def start(self) -> None:
        """Submit the job of ``submit_and_stream``."""
        self._script.check()
        submission, self._submission = self._submission, None
        if submission is not None:
            self._script.accept(submission)

    def close(self) -> None:
        """The iterator is at its end then."""
        self._closed = True
        self._ready = []

    async def aclose(self) -> None:
        """:meth:`close`."""
        self.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class FakeAsyncClient(Scripted):
    """As :class:`berlin_worker.client.AsyncClient`."""

    async def submit(
        self, prompt: Prompt, *, job_id: str | None = None, **job_fields: Unpack[JobFields]
    ) -> str:
        """Accept a job and return its ID."""
        submission = prepare(prompt, job_id, job_fields)
        self._script.accept(submission)
        return submission.job_id

    def stream(
        self,
        job_id: str,
        after: int = 0,
        *,
        wait_for_start_s: float | None = None,  # noqa: ARG002  # the signature of the real client
    ) -> FakeStream:
        """The events of a job beyond ``after``; an unknown job raises ``CursorExpired`` at once."""
        return FakeStream(self._script, job_id, after, None)

    def submit_and_stream(
        self, prompt: Prompt, *, job_id: str | None = None, **job_fields: Unpack[JobFields]
    ) -> FakeStream:
        """Submit a job by the first step of the iterator."""
        submission = prepare(prompt, job_id, job_fields)
        return FakeStream(self._script, submission.job_id, 0, submission)

    def sse(self, job_id: str, last_event_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """The events of a job as server-sent events."""
        stream = self.stream(job_id, sse.cursor(last_event_id))
        return sse.frames(cast("Stream", stream))

    async def cancel(self, job_id: str, reason: str | None = None) -> None:
        """End a job that is not over as cancelled."""
        self._script.cancel(job_id, reason or "requested")

    async def result(self, job_id: str, timeout_s: float | None = None) -> Result:
        """Wait for the end of a job and return its text; raises as the real client does."""
        try:
            async with asyncio.timeout(timeout_s), self.stream(job_id) as stream:
                return result_of([event async for event in stream])
        except TimeoutError:
            raise late(job_id, timeout_s) from None

    async def status(self, job_id: str) -> JobStatus:
        """How a job stands."""
        return self._script.status(job_id)

    async def list(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: JobStatus | None = None,
    ) -> "list[JobStatus]":
        """The newest jobs, newest first."""
        return self._script.newest(tenant=tenant, status=status, limit=limit, before=before)

    async def aclose(self) -> None:
        """Close the client: what waits, or is called later, raises ``ClientError``."""
        self._script.close()

    async def __aenter__(self) -> Self:
        self._script.check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()
