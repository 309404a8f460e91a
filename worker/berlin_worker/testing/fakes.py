"""Clients without Redis: the methods of the real ones, with answers that a test scripts.

    client = FakeAsyncClient()
    client.reply("Hello, world", Failure("rate_limited"), Unavailable("Redis is away"))

The first submission gets the text, the second fails, the third raises. A submission without a
scripted reply gets what ``answer`` returns for its job, by default its own prompt. Jobs are
checked as the real clients check them, IDs included.
"""

import asyncio

from berlin_schemas import Event, encode
from berlin_schemas.names import check_job_id
from berlin_worker.client.raw_events import RawEvent
from berlin_worker.client.stream import Stream
from berlin_worker.client.submission import Submission
from berlin_worker.client.surface import AsyncSurface
from berlin_worker.client.sync import Client
from berlin_worker.client.values import JobStatus
from berlin_worker.testing.script import Answer, Script
from berlin_worker.testing.scripted import Scripted


class FakeStream(Stream):
    """The events that a script has for a job."""

    def __init__(
        self, script: Script, job_id: str, after: int, submission: Submission | None
    ) -> None:
        if after < 0:
            raise ValueError("after is the last seq already seen: 0 or more")
        super().__init__()
        self._job_id = check_job_id(job_id)
        self._script = script
        self._seen = after
        self._submission = submission
        self._closed = False

    @property
    def job_id(self) -> str:
        return self._job_id

    async def batch(self) -> list[Event]:
        if self._ready:
            return self._take_ready()
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

    async def raw_batch(self) -> list[RawEvent]:
        self._check_raw()
        return [RawEvent(event.seq, event.type, encode(event)) for event in await self.batch()]

    async def start(self) -> None:
        self._script.check()
        submission, self._submission = self._submission, None
        if submission is not None:
            self._script.accept(submission)

    def close(self) -> None:
        self._closed = True
        self._ready.clear()


class _AsyncFake(AsyncSurface):
    """A client whose jobs are those of a script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def attach(self, job_id: str, caller: str) -> None:
        self._script.callers[job_id] = caller

    async def attached(self, job_id: str) -> str | None:
        return self._script.callers.get(job_id)

    async def submitted_later(self, job_id: str) -> int | None:  # noqa: ARG002  # a script has no queue
        return None

    async def cancel(self, job_id: str, reason: str | None = None) -> None:
        self._script.cancel(job_id, reason or "requested")

    async def status(self, job_id: str) -> JobStatus:
        return self._script.status(job_id)

    async def list(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: JobStatus | None = None,
    ) -> "list[JobStatus]":
        return self._script.newest(tenant=tenant, status=status, limit=limit, before=before)

    async def aclose(self) -> None:
        self._script.close()

    def _enter(self) -> None:
        self._script.check()

    async def _accept(self, submission: Submission) -> None:
        self._script.accept(submission)

    def _stream(
        self,
        job_id: str,
        after: int = 0,
        *,
        wait_for_start_s: float | None = None,  # noqa: ARG002  # a fake waits for no start
        submission: Submission | None = None,
    ) -> FakeStream:
        self._enter()
        return FakeStream(self._script, job_id, after, submission)


class FakeAsyncClient(Scripted, _AsyncFake):
    """An :class:`~berlin_worker.client.AsyncClient` that a test scripts.

    The events of an unknown job raise ``CursorExpired`` at once.
    """


class FakeClient(Scripted, Client):
    """A :class:`~berlin_worker.client.Client` that a test scripts; it runs an event loop, too.

    The events of an unknown job raise ``CursorExpired`` at once.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        Scripted.__init__(self, answer)
        self._begin(lambda: _AsyncFake(self._script))
