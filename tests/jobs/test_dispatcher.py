"""Calls for the jobs of this process reach the runner, and shutdown waits for them."""

import asyncio
import logging
from typing import Any

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.jobs.dispatcher import Dispatcher

pytestmark = pytest.mark.unit


class Parts:
    """Journal, leases and runner in one; each call of the runner waits for ``released``."""

    silent_s = 2.5

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.done: list[str] = []
        self.released = asyncio.Event()
        self.fails_for: set[str] = set()

    async def run(self, *_: object) -> None:
        """Unused."""

    cancel = discard = run

    async def revoke(self, job_id: str, *, running: bool) -> None:
        """Record the call; fail for some jobs."""
        self.calls.append((job_id, running))
        await self.released.wait()
        if job_id in self.fails_for:
            raise ValueError(job_id)
        self.done.append(job_id)

    async def refuse(self, job_id: str, _: JobError) -> None:
        """Record the call."""
        await self.released.wait()
        self.done.append(job_id)

    async def drained(self) -> None:
        """Record the call."""
        self.done.append("journal")


def dispatcher(parts: Parts) -> Dispatcher:
    return Dispatcher(parts, parts, parts)  # type: ignore[arg-type]  # one stand-in for three parts


async def test_shutdown_waits_for_revocations_and_refusals_before_the_journal():
    parts = Parts()
    jobs = dispatcher(parts)
    await jobs.revoke(["a", "b"], running=True)
    refusal = asyncio.create_task(jobs.refuse("c", JobError(ErrorCode.INVALID_JOB, "no")))
    drained = asyncio.create_task(jobs.drained())
    await asyncio.sleep(0)
    parts.released.set()
    await asyncio.gather(refusal, drained)
    assert parts.calls == [("a", True), ("b", True)]
    assert sorted(parts.done[:-1]) == ["a", "b", "c"]
    assert parts.done[-1] == "journal"


async def test_failed_revocation_is_logged_and_the_others_are_recorded(caplog):
    parts = Parts()
    jobs = dispatcher(parts)
    parts.fails_for, ids = {"job-7"}, [f"job-{n}" for n in range(250)]
    parts.released.set()
    with caplog.at_level(logging.ERROR):
        await jobs.revoke(ids, running=False)
        await jobs.drained()
    assert len(parts.done) == 250  # all but one, and the journal
    assert caplog.text.count("a revocation cannot be recorded") == 1


def test_silence_is_that_of_the_event_store():
    parts = Parts.__new__(Parts)
    assert dispatcher(parts).silent_s == 2.5
