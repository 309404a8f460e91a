"""The methods of an asynchronous client, without Redis: real and fake clients share them."""

import abc
import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self, Unpack

from berlin_schemas import Cancelled, Completed, Failed
from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_worker.client import sse
from berlin_worker.client.answer import Answer
from berlin_worker.client.fields import JobFields
from berlin_worker.client.stream import Stream
from berlin_worker.client.submission import Prompt, Submission, prepare
from berlin_worker.client.values import JobStatus, Result
from berlin_worker.errors import JobFailed, UnsupportedVersion


class AsyncSurface(abc.ABC):
    """Submits jobs and follows them."""

    max_job_bytes = MAX_JOB_BYTES
    """The limit of WORKER_MAX_JOB_BYTES."""

    async def submit(
        self, prompt: Prompt, *, job_id: str | None = None, **job_fields: Unpack[JobFields]
    ) -> str:
        """Put a job on the queue and return its ID.

        ``prompt`` is a :class:`~berlin_schemas.PromptJob`, a job object, a list of messages, or the
        text of one message; ``job_fields`` are further fields of the job object
        (``model="..."``). With a ``job_id`` of the caller's own, submitting is idempotent: the
        job runs once, however often it is submitted.

        Raises :class:`~berlin_schemas.InvalidJob` before anything is sent, and
        :class:`~berlin_worker.errors.Unavailable` if the job was not accepted; if that is not
        certain, its message states it and names the job. Raises
        :class:`~berlin_worker.errors.JobIdReused` if ``job_id`` is that of a job with another
        payload.
        """
        self._enter()
        submission = prepare(prompt, job_id, job_fields, max_bytes=self.max_job_bytes)
        await self._accept(submission)
        return submission.job_id

    def stream(
        self,
        job_id: str,
        after: int = 0,
        *,
        wait_for_start_s: float | None = None,
    ) -> Stream:
        """Return the events of a job with a ``seq`` beyond ``after``, up to the terminal one.

        ``wait_for_start_s`` overrides that of the options, for this stream.
        """
        return self._stream(job_id, after, wait_for_start_s=wait_for_start_s)

    def submit_and_stream(
        self,
        prompt: Prompt,
        *,
        job_id: str | None = None,
        **job_fields: Unpack[JobFields],
    ) -> Stream:
        """Submit a job and read its events; the iterator's ``job_id`` is known at once.

        The job is submitted by the first step of the iterator (or on entering it as a
        context), after its channel is subscribed. Raises as :meth:`submit` and
        :meth:`stream` do, :class:`~berlin_schemas.InvalidJob` at once.
        """
        submission = prepare(prompt, job_id, job_fields, max_bytes=self.max_job_bytes)
        return self._stream(submission.job_id, submission=submission)

    def sse(self, job_id: str, last_event_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the events of a job as server-sent events, each ready to be written.

        ``last_event_id`` is the header that a browser sends when it comes back: the events
        after that one follow, or all, if it names none. A comment comes every 15 s while there
        is no event. Raises as :meth:`stream` does.
        """
        return sse.frames(self._stream(job_id, sse.cursor(last_event_id)))

    async def result(self, job_id: str, timeout_s: float | None = None) -> Result:
        """Wait for the end of a job and return its text.

        Raises :class:`~berlin_worker.errors.JobFailed` if it failed or was cancelled,
        ``TimeoutError`` if it is not over within ``timeout_s``, and as :meth:`stream` does.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit, self.stream(job_id) as events:
                return await result_of(events)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"job {job_id} was not over after {timeout_s} s"
            raise TimeoutError(f"{message}: it goes on; wait again, or cancel it") from None

    @abc.abstractmethod
    async def cancel(self, job_id: str, reason: str | None = None) -> None:
        """Request the cancellation of a job; a finished job stays as it is.

        On a cluster this takes two calls. The first sets a flag in the record, which the worker of
        the job finds at its next renewal. The second publishes a message that it receives at once.
        """

    @abc.abstractmethod
    async def status(self, job_id: str) -> JobStatus:
        """Return the status of a job by its record; never wait for the job.

        Without the right to read records it is derived from the log, and lacks ``created_ts``.
        """

    @abc.abstractmethod
    async def list(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: JobStatus | None = None,
    ) -> "list[JobStatus]":
        """Return the newest jobs, newest first: those of ``tenant`` and with ``status``, if given.

        ``before`` is the last job of the page before this one. An event store lists its
        newest 10,000 jobs, as long as their records last. A job is listed once a client
        has submitted it or a worker has taken it. Needs the right to read records.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Finish the submissions under way and close every connection.

        Raises :class:`~berlin_worker.errors.ClientError` in another event loop than the one in
        which the client was used.
        """

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abc.abstractmethod
    def _enter(self) -> None:
        """Raise ``ClientError`` if the caller cannot use the client (any more)."""

    @abc.abstractmethod
    async def _accept(self, submission: Submission) -> None:
        """Submit a job, as a whole or not at all."""

    @abc.abstractmethod
    def _stream(
        self,
        job_id: str,
        after: int = 0,
        *,
        wait_for_start_s: float | None = None,
        submission: Submission | None = None,
    ) -> Stream:
        """Return the events of a job; its first step submits ``submission``, if given."""


async def result_of(events: Stream) -> Result:
    """Return the answer of a job that completes; raises ``JobFailed`` if it ends otherwise."""
    answer = Answer()
    async for event in events:
        match event:
            case Completed():
                return Result(
                    text=answer.text,
                    finish_reason=event.finish_reason,
                    timings=event.timings,
                    usage=event.usage,
                    reasoning=answer.reasoning,
                    tool_calls=tuple(answer.tool_calls.values()),
                    usage_total=event.usage_total,
                    provider=event.provider,
                    model=event.model,
                )
            case Failed() | Cancelled():
                raise JobFailed(event)
            case _:
                answer.add(event)
    raise UnsupportedVersion(
        f"job {events.job_id} is over, but this version cannot read how it ended"
    )
