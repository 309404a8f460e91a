"""The synchronous fake client: see :mod:`berlin_worker.testing.fakes`."""

import queue
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, Unpack

from berlin_schemas import Event, encode
from berlin_schemas.names import check_job_id
from berlin_worker.client import sse
from berlin_worker.client.fields import JobFields
from berlin_worker.client.submission import Prompt, Submission, prepare
from berlin_worker.client.values import JobStatus, Result
from berlin_worker.testing.script import Script
from berlin_worker.testing.scripted import Scripted, late, result_of


class FakeSyncStream:
    """As :class:`berlin_worker.client.SyncStream`."""

    def __init__(
        self, script: Script, job_id: str, after: int, submission: Submission | None
    ) -> None:
        if after < 0:
            raise ValueError("after is the last seq already seen: 0 or more")
        self.job_id = check_job_id(job_id)
        self._script = script
        self._seen = after
        self._submission = submission
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return self.wait(None)

    def wait(self, timeout_s: float | None) -> Event:
        """The next event; raises ``StopIteration`` at the end, ``queue.Empty`` after a timeout."""
        self._start()
        changes: queue.SimpleQueue[None] = queue.SimpleQueue()
        listener: Callable[[], None] = lambda: changes.put(None)  # noqa: E731  # one word says more
        self._script.listen(listener)
        try:
            while not self._closed:
                events, over = self._script.after(self.job_id, self._seen)
                if events:
                    self._seen = events[0].seq
                    return events[0]
                if over:
                    break
                changes.get(timeout=timeout_s)
        finally:
            self._script.unlisten(listener)
        raise StopIteration

    def close(self) -> None:
        """The iterator is at its end then."""
        self._closed = True

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._script.check()
        submission, self._submission = self._submission, None
        if submission is not None:
            self._script.accept(submission)


class FakeClient(Scripted):
    """As :class:`berlin_worker.client.Client`."""

    def submit(
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
    ) -> FakeSyncStream:
        """The events of a job beyond ``after``; an unknown job raises ``CursorExpired`` at once."""
        return FakeSyncStream(self._script, job_id, after, None)

    def submit_and_stream(
        self, prompt: Prompt, *, job_id: str | None = None, **job_fields: Unpack[JobFields]
    ) -> FakeSyncStream:
        """Submit a job by the first step of the iterator."""
        submission = prepare(prompt, job_id, job_fields)
        return FakeSyncStream(self._script, submission.job_id, 0, submission)

    def sse(self, job_id: str, last_event_id: str | None = None) -> Iterator[bytes]:
        """The events of a job as server-sent events."""
        for event in self.stream(job_id, sse.cursor(last_event_id)):
            yield sse.frame(event, encode(event))

    def cancel(self, job_id: str, reason: str | None = None) -> None:
        """End a job that is not over as cancelled."""
        self._script.cancel(job_id, reason or "requested")

    def result(self, job_id: str, timeout_s: float | None = None) -> Result:
        """Wait for the end of a job and return its text; raises as the real client does."""
        stream, events = self.stream(job_id), []
        try:
            while True:
                events.append(stream.wait(timeout_s))
        except StopIteration:
            return result_of(events)
        except queue.Empty:
            raise late(job_id, timeout_s) from None

    def status(self, job_id: str) -> JobStatus:
        """How a job stands."""
        return self._script.status(job_id)

    def list(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: JobStatus | None = None,
    ) -> "list[JobStatus]":
        """The newest jobs, newest first."""
        return self._script.newest(tenant=tenant, status=status, limit=limit, before=before)

    def close(self) -> None:
        """Close the client: what waits, or is called later, raises ``ClientError``."""
        self._script.close()

    def __enter__(self) -> Self:
        self._script.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
