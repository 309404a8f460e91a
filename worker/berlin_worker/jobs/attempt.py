"""One attempt of one job: provider in, events out, exactly one opening and one ending.

``lifecycle`` decides which event may follow, ``retry`` whether another attempt follows.
Times of the event loop are in seconds, those of the record in ms.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Self

from berlin_schemas import (
    Cancelled,
    Completed,
    ErrorCode,
    Failed,
    PromptJob,
    Reset,
    Started,
    Terminal,
    Timings,
)
from berlin_schemas.events import finish_reason
from berlin_worker.errors import Fenced, JobError
from berlin_worker.jobs.abandon import run_abandonable
from berlin_worker.jobs.failures import internal_error, timed_out
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.lifecycle import Phase
from berlin_worker.jobs.reader import Reader
from berlin_worker.jobs.store import Claim
from berlin_worker.jobs.upstream_call import UpstreamCall
from berlin_worker.jobs.usage import encodable, usage_fields
from berlin_worker.jobs.watchdog import Expired, Watchdog
from berlin_worker.providers.base import Provider, Report
from berlin_worker.telemetry import log_context, tracing
from berlin_worker.telemetry.job_end import is_logged, log_end


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why the attempt cancelled its own task: a cancel reason, or ``None`` if it lost the job."""

    cancel_reason: str | None


class Attempt:
    """The attempt that ``claim`` has begun, run by the current task.

    ``reason``: why another attempt came before it. ``unrecorded_s``: how long the message
    waited in this process before the job had a record that holds its time. ``read_on_s``: how
    long a cancelled attempt may read the upstream, unpublished, for its usage.
    """

    __slots__ = (
        "_call", "_claimed", "_job", "_journal", "_log", "_read_on_s", "_reader", "_reason",
        "_task", "_unrecorded_s", "claim", "ended", "owner", "stopped",
    )  # fmt: skip

    def __init__(
        self,
        claim: Claim,
        journal: Journal,
        *,
        reason: str = ErrorCode.INTERRUPTED,
        unrecorded_s: float = 0.0,
        read_on_s: float = 0.0,
    ) -> None:
        self.claim = claim
        self.owner = claim.owner
        self.stopped: Stopped | None = None
        self.ended = ""
        self._reason = reason
        self._journal = journal
        self._task = asyncio.current_task()
        self._claimed = time.monotonic()
        self._call = UpstreamCall()
        self._unrecorded_s = unrecorded_s
        self._read_on_s = read_on_s
        self._job: PromptJob | None = None
        self._log = journal.open(claim, on_fenced=self.lost)
        self._reader = Reader(self._log, self._call, read_on_s=read_on_s)

    def next(self, claim: Claim, *, reason: str) -> Self:
        """Return the next attempt in this process, which ``claim`` has begun."""
        return type(self)(
            claim,
            self._journal,
            reason=reason,
            unrecorded_s=self._unrecorded_s,
            read_on_s=self._read_on_s,
        )

    @property
    def over(self) -> bool:
        """Whether the terminal event is in the log, though it may still be on its way."""
        return self._log.phase is Phase.OVER

    @property
    def error(self) -> str:
        """The error code of a failed job; else empty."""
        return self._log.error

    @property
    def usage(self) -> dict[str, Any] | None:
        """The usage that the upstream has reported so far, as far as an event can hold it."""
        return encodable(self._reader.report.usage)

    @property
    def streaming(self) -> bool:
        """Whether chunks have been published since the last reset."""
        return self._log.phase is Phase.STREAMING

    def remaining_s(self, job: PromptJob) -> float:
        """Return the seconds to the deadline, which counts from the start of the first attempt."""
        used_s = (self.claim.now_ms - self.claim.started_ms) / 1000
        return job.deadline_s - used_s - (time.monotonic() - self._claimed)

    def lost(self) -> None:
        """Stop without a further event: another attempt owns the job."""
        self._stop(Stopped(None))

    def cancel(self, reason: str) -> None:
        """Stop, and end the job as cancelled; first read on for the usage of the upstream."""
        wait_s = self._reader.read_on(reason)
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._stop, Stopped(reason))
        elif self._reader.cancel_reason is None:
            self._stop(Stopped(reason))

    def _stop(self, stopped: Stopped) -> None:
        if self.stopped is None and self._task is not None:
            self.stopped = stopped
            self._task.cancel()

    async def open(self, job: PromptJob) -> bool:
        """Publish the opening event; returns ``False`` if the job has ended instead.

        ``job`` names the provider and the model that this attempt tries.
        """
        self._job = job
        if self.claim.cancel_reason:
            await self.end_cancelled(self.claim.cancel_reason)
        elif self.remaining_s(job) <= 0:
            await self.end_failed(timed_out(Expired.DEADLINE))
        elif not self.streaming:
            self._log.event(Started(**self._head(), provider=job.provider, model=job.model))
            return True
        elif job.on_interrupt == "restart":
            self._log.event(Reset(**self._head(), reason=self._reason))
            return True
        elif job.on_interrupt == "keep":
            await self.end_kept()
        else:
            await self.end_failed(
                JobError(
                    ErrorCode.INTERRUPTED,
                    f"the worker was lost after {self.claim.chunks} chunks, and the job "
                    "does not allow a restart",
                    retryable=True,
                )
            )
        return False

    async def stream(self, job: PromptJob, provider: Provider) -> None:
        """Publish what the provider yields, then ``completed``.

        Raises ``JobError`` for every failure of the upstream or the provider and for every
        timeout; ``Fenced`` if the job was lost. A provider that hangs when it is cancelled is
        abandoned.
        """
        report = self._reader.report
        try:
            with tracing.current().chat(job, self.claim.attempt, report) as chat:
                await self._stream(job, provider, report, chat)
        except JobError:
            if self._reader.cancel_reason is None:
                raise
        if self._reader.cancel_reason is not None:
            self.stopped = Stopped(self._reader.cancel_reason)
            raise asyncio.CancelledError  # as if it had been cancelled at once

    async def _stream(
        self, job: PromptJob, provider: Provider, report: Report, chat: tracing.Chat
    ) -> None:
        watchdog = Watchdog(
            deadline=asyncio.get_running_loop().time() + self.remaining_s(job),
            first_chunk_s=job.first_chunk_timeout_s,
            idle_s=job.idle_timeout_s,
        )
        report.alive = watchdog.saw_life
        try:
            with self._call.measured(job, watchdog, report, self._log, self._journal.stats):
                async with watchdog:
                    await run_abandonable(
                        f"provider {job.provider} of job {self.claim.job_id}",
                        self._reader.read(
                            chat.reading(provider.stream(job, report)), watchdog, chat
                        ),
                        on_cancel=self._reader.detach,
                    )
            chat.finished()
            if self._reader.cancel_reason is None:
                await self._end_completed(report.finish_reason, self.usage)
        except (JobError, Fenced, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001  # a provider may be third-party code
            if watchdog.expired is not None and isinstance(error, TimeoutError):
                raise timed_out(watchdog.expired) from None
            raise internal_error(error, self.claim.job_id) from None

    async def flush(self) -> None:
        """Wait until the store has all that was published; raises ``Fenced`` if it refused."""
        await self._log.flush()

    async def end_kept(self) -> None:
        """End as completed with the text that is there."""
        await self._end_completed("interrupted", self.usage)

    async def end_failed(self, error: JobError) -> None:
        """End as failed."""
        info = error.info().model_copy(update={"message": _utf8(error.message)})
        await self._end(
            Failed(**self._head(), error=info, **self._spent(self.usage)), error.code.value
        )

    async def end_cancelled(self, reason: str) -> None:
        """End as cancelled."""
        await self._end(Cancelled(**self._head(), reason=_utf8(reason), **self._spent(self.usage)))

    async def _end_completed(
        self,
        reason: str,
        usage: dict[str, Any] | None,
    ) -> None:
        timings = Timings.model_validate(self._durations_ms())
        head = self._head()
        await self._end(
            Completed(
                **head,
                finish_reason=finish_reason(reason),
                timings=timings,
                provider=self._job.provider if self._job else None,
                model=self._job.model if self._job else None,
                **self._spent(usage),
            )
        )

    def _spent(self, usage: dict[str, Any] | None) -> dict[str, Any]:
        return usage_fields(self.claim.attempt, usage, self.claim.progress.usage)

    def _durations_ms(self) -> dict[str, float | None]:
        return self._call.durations_ms(
            self.claim, claimed=self._claimed, unrecorded_s=self._unrecorded_s
        )

    async def _end(self, event: Terminal, code: str = "") -> None:
        try:
            await self._log.end(event)
        finally:
            if self.over:  # a cancellation from now on comes too late
                self.ended = event.type
                tracing.current().ended(event.type, code)
                # A fenced attempt logs nothing: the end is another attempt's.
                if not self._log.fenced and is_logged(event):
                    log_end(
                        event,
                        about=log_context.ABOUT.get(),
                        chunks=self._log.chunks,
                        durations_ms=self._durations_ms(),
                    )

    def _head(self) -> dict[str, Any]:
        return {
            "job_id": self.claim.job_id,
            "seq": self._log.next_seq,
            "attempt": self.claim.attempt,
            "ts": round(time.time(), 6),
        }


def _utf8(text: str) -> str:
    # Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes "?".
    return text.encode("utf-8", "replace").decode()
