"""A provider that plays deltas of the test's own, for :class:`InProcessWorker`."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from berlin_schemas import PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.providers.deltas import Delta, Deltas


def scripted(
    *deltas: Delta | JobError,
    finish_reason: str = "stop",
    usage: dict[str, Any] | None = None,
) -> Callable[[Services], Provider]:
    """Return a provider for :class:`InProcessWorker` that answers every job with ``deltas``.

    Text is a ``str``; reasoning and tool calls are the types of ``berlin_worker.providers.deltas``.
    A ``JobError`` among them fails the attempt there.
    """

    class Scripted(Provider):
        def __init__(self, services: Services) -> None:
            pass

        def check(self, job: PromptJob) -> None:
            pass

        async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[Deltas, None]:  # noqa: ARG002  # the protocol's
            report.usage, report.finish_reason = usage, finish_reason
            for delta in deltas:
                await asyncio.sleep(0)
                if isinstance(delta, JobError):
                    raise delta
                yield [delta]

    return Scripted
