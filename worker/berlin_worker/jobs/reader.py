"""Reads the deltas of a provider into the log, and after a cancellation its usage alone."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from berlin_worker.jobs.job_log import JobLog
from berlin_worker.jobs.upstream_call import UpstreamCall
from berlin_worker.jobs.watchdog import Watchdog
from berlin_worker.providers.base import Report
from berlin_worker.providers.deltas import Deltas
from berlin_worker.telemetry.tracing import Chat


class Reader:
    """The reader of one attempt; ``read_on_s``: how long it may read on after a cancellation.

    ``cancel_reason`` is set while, and after, it has read on.
    """

    __slots__ = ("_call", "_detached", "_log", "_read_on_s", "_reads",
                 "cancel_reason", "report")  # fmt: skip

    def __init__(self, log: JobLog, call: UpstreamCall, *, read_on_s: float) -> None:
        self._log = log
        self._call = call
        self._read_on_s = read_on_s
        self._detached = False
        self._reads = False
        self.cancel_reason: str | None = None
        self.report = Report()

    async def read(
        self, stream: AsyncGenerator[Deltas, None], watchdog: Watchdog, chat: Chat
    ) -> None:
        """Publish all deltas of ``stream``, as fast as the journal takes them."""
        self._reads = True
        try:
            async with contextlib.aclosing(stream):
                async for deltas in stream:
                    if self._detached:
                        return  # the provider ignores its cancellation
                    watchdog.saw_chunk()
                    if self.cancel_reason is not None:
                        continue
                    if self._call.first_chunk_at is None:
                        self._call.first_chunk_at = asyncio.get_running_loop().time()
                        chat.first_chunk()
                    self._log.chunk(deltas)
                    if self._log.writer.full:
                        watchdog.pause()
                        await self._log.writer.wait_for_room()
                        watchdog.resume()
        finally:
            self._reads = False

    def detach(self) -> None:
        """Publish nothing more: the attempt is over, and the provider goes on."""
        self._detached = True

    def read_on(self, cancel_reason: str) -> float:
        """Publish nothing more; return how long (s) the usage of the upstream is worth a wait."""
        if self.cancel_reason is not None or not self._reads or self.report.usage is not None:
            return 0.0
        if self._read_on_s:
            self.cancel_reason = cancel_reason
        return self._read_on_s
