"""The jobs behind the fake clients: the submissions, and how each one ends. No I/O."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from berlin_schemas import Cancelled, ErrorCode, Event, Failed, PromptJob, Terminal
from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client.submission import Submission
from berlin_worker.client.values import CLOSED, JobStatus, Status
from berlin_worker.errors import ClientError, CursorExpired, JobIdReused
from berlin_worker.testing import events


@dataclass(frozen=True, slots=True)
class Failure:
    """A job ends as ``failed``."""

    code: ErrorCode | str = ErrorCode.UPSTREAM_ERROR
    message: str = "the upstream failed"
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """A job runs, and has streamed ``text``, until the test finishes it or somebody cancels it."""

    text: str = ""


Reply = str | Failure | Pending | Sequence[Event] | BaseException
"""A text, a failure, a job that goes on, events of the test's own, or what ``submit`` raises."""
Answer = Callable[[PromptJob], Reply]


@dataclass(slots=True)
class Job:
    """A job that was submitted, and its events so far."""

    submission: Submission
    job: PromptJob
    created_ts: float
    events: list[Event] = field(default_factory=list)
    cancel_requested: bool = False

    @property
    def over(self) -> bool:
        """Whether the terminal event is there."""
        return bool(self.events) and self.events[-1].type in TERMINAL_TYPES


class Script:
    """Jobs by ID, in the order of their submission. Any thread may use it."""

    def __init__(self, answer: Answer | None) -> None:
        self.callers: dict[str, str] = {}
        self._answer = answer or _echo
        self._replies: deque[Reply] = deque()
        self._lock = threading.Condition()
        self._listeners: set[Callable[[], None]] = set()
        self._closed = False
        self.jobs: dict[str, Job] = {}

    def add(self, replies: Sequence[Reply]) -> None:
        """Add replies for the next submissions."""
        with self._lock:
            self._replies.extend(replies)

    def accept(self, submission: Submission) -> None:
        """Submit a job, or attach to it; raises as the clients do, or the scripted error."""
        with self._lock:
            self.check()
            known = self.jobs.get(submission.job_id)
            if known is not None:
                if known.submission.facts != submission.facts:
                    raise JobIdReused(submission.job_id)
                return
            job = PromptJob.model_validate_json(submission.data)
            reply = self._replies.popleft() if self._replies else self._answer(job)
            if isinstance(reply, BaseException):
                raise reply
            entry = Job(submission, job, time.time())
            self.jobs[submission.job_id] = entry
            entry.events = _events_of(reply, submission.job_id)

    def finish(self, job_id: str, reply: Reply) -> None:
        """Let a pending job go on to its end."""
        with self._lock:
            entry = self.jobs[job_id]
            if entry.over:
                raise ValueError(f"job {job_id} is over")
            more = _events_of(reply, job_id)
            more = more[1:] if more and more[0].type == "started" else more
            entry.events = events.numbered([*entry.events, *more], job_id=job_id)
            self._notify()

    def cancel(self, job_id: str, reason: str) -> None:
        """Cancel a job that is not over; an unknown one is left alone."""
        with self._lock:
            self.check()
            entry = self.jobs.get(job_id)
            if entry is not None and not entry.over:
                entry.cancel_requested = True
                ended = [*entry.events, events.cancelled(reason)]
                entry.events = events.numbered(ended, job_id=job_id)
                self._notify()

    def after(self, job_id: str, seq: int) -> tuple[list[Event], bool]:
        """Return the events after ``seq``, and whether the job is over.

        Raises ``CursorExpired`` for an unknown job.
        """
        with self._lock:
            self.check()
            if job_id not in self.jobs:
                raise CursorExpired(f"job {job_id}: there is no record and no log of it")
            entry = self.jobs[job_id]
            return entry.events[seq:], entry.over

    def status(self, job_id: str) -> JobStatus:
        """Return the status that a record would have."""
        with self._lock:
            self.check()
            entry = self.jobs.get(job_id)
            return JobStatus(job_id, "unknown") if entry is None else _status(job_id, entry)

    def newest(
        self, *, tenant: str | None, status: str | None, limit: int, before: JobStatus | None
    ) -> list[JobStatus]:
        """Return jobs that fit, newest first."""
        if limit < 1:
            raise ValueError("limit is how many jobs are listed at the most: 1 or more")
        with self._lock:
            self.check()
            ids = list(self.jobs)[::-1]
            if before is not None:
                ids = ids[ids.index(before.job_id) + 1 :] if before.job_id in ids else []
            found = [_status(job_id, self.jobs[job_id]) for job_id in ids]
        fits = [
            job
            for job in found
            if tenant in {None, job.tenant} and (status is None or job.status == status)
        ]
        return fits[:limit]

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever an event is added, and when the client is closed."""
        with self._lock:
            self._listeners.add(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Stop calling ``listener``."""
        with self._lock:
            self._listeners.discard(listener)

    def check(self) -> None:
        """Raise ``ClientError`` once the client is closed."""
        if self._closed:
            raise ClientError(CLOSED)

    def close(self) -> None:
        """Close the client."""
        with self._lock:
            self._closed = True
            self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def _echo(job: PromptJob) -> Reply:
    content = job.messages[-1].content
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(str(dict(part).get("text", "")) for part in content)


def _events_of(reply: Reply, job_id: str) -> list[Event]:
    match reply:
        case str():
            return events.answer(reply, job_id=job_id)
        case Failure():
            end = events.failed(reply.code, reply.message, retryable=reply.retryable)
            return events.numbered([events.started(), end], job_id=job_id)
        case Pending():
            return events.answer(reply.text, job_id=job_id)[:-1]
        case BaseException():
            raise reply
        case _:
            return events.numbered(reply, job_id=job_id)


def _status(job_id: str, entry: Job) -> JobStatus:
    last = entry.events[-1] if entry.events else None
    status = last.type if isinstance(last, Terminal) else "running" if last else "queued"
    return JobStatus(
        job_id=job_id,
        status=cast("Status", status),
        attempt=last.attempt if last else 0,
        seq=len(entry.events),
        cancel_requested=entry.cancel_requested,
        created_ts=entry.created_ts,
        started_ts=entry.created_ts if last else None,
        tenant=entry.job.tenant,
        metadata=entry.job.metadata,
        error=last.error if isinstance(last, Failed) else None,
        reason=last.reason if isinstance(last, Cancelled) else None,
    )
