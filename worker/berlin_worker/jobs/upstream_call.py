"""Times and counts one call upstream, however it ends."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import Fenced, JobError
from berlin_worker.jobs.failures import TIMEOUT_CODES
from berlin_worker.jobs.job_log import JobLog
from berlin_worker.jobs.store import Claim
from berlin_worker.jobs.watchdog import Watchdog
from berlin_worker.providers.base import Report
from berlin_worker.telemetry.stats import Stats


class UpstreamCall:
    """Durations of the parts of a call, in seconds; zeros and ``None`` if there was no call.

    ``first_chunk_at`` is a time of the event loop; the reader of the stream sets it.
    """

    __slots__ = ("first_chunk_at", "first_chunk_s", "login_s", "stream_s")

    def __init__(self) -> None:
        self.login_s = 0.0
        self.first_chunk_at: float | None = None
        self.first_chunk_s: float | None = None
        self.stream_s = 0.0

    def durations_ms(
        self, claim: Claim, *, claimed: float, unrecorded_s: float
    ) -> dict[str, float | None]:
        """Return the durations of the job so far in ms, by their names in ``Timings``.

        ``claimed`` is the time of ``claim`` by ``time.monotonic()``.
        """
        before_s = (claim.now_ms - claim.created_ms) / 1000 + unrecorded_s
        queue_s = (claim.started_ms - claim.created_ms) / 1000 + unrecorded_s
        first_chunk_s = self.first_chunk_s
        return {
            "queue_ms": _milliseconds(queue_s),
            "login_ms": _milliseconds(self.login_s),
            "first_chunk_ms": None if first_chunk_s is None else _milliseconds(first_chunk_s),
            "stream_ms": _milliseconds(self.stream_s),
            "total_ms": _milliseconds(before_s + time.monotonic() - claimed),
        }

    @contextlib.contextmanager
    def measured(
        self, job: PromptJob, watchdog: Watchdog, report: Report, log: JobLog, stats: Stats
    ) -> Iterator[None]:
        """Measure the call that the block makes, and count it in ``stats``."""
        clock = asyncio.get_running_loop().time
        begun, code = clock(), ""
        try:
            yield
        except JobError as error:
            code = error.code.value
            raise
        except (asyncio.CancelledError, Fenced):
            code = "cancelled"
            raise
        except Exception as error:
            timeout = watchdog.expired if isinstance(error, TimeoutError) else None
            code = TIMEOUT_CODES[timeout] if timeout else ErrorCode.INTERNAL
            raise
        finally:
            first, ended = self.first_chunk_at, clock()
            self.login_s = report.login_s
            self.first_chunk_s = None if first is None else first - begun
            self.stream_s = 0.0 if first is None else ended - first
            stats.operation(
                job.provider,
                job.model,
                duration_s=ended - begun,
                first_chunk_s=self.first_chunk_s,
                stream_s=0.0 if first is None else max(0.0, watchdog.last_chunk - first),
                chunks=log.chunks,
                error=str(code),
                usage=report.usage,
            )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
