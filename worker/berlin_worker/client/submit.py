"""Accepting a job: its record first, then its message; both, or an error and neither.

The record makes submitting idempotent, and lets the workers find a job whose message was
lost. If sending the message fails, the record is removed: an error means "not accepted".
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from berlin_schemas import InvalidJob, names
from berlin_worker.client.enqueue import Enqueuer
from berlin_worker.client.record_commands import RecordCommands
from berlin_worker.client.submission import Submission
from berlin_worker.client.values import closed
from berlin_worker.config.recovery_times import QUEUED_AGAIN_S
from berlin_worker.errors import JobIdReused, Unavailable
from berlin_worker.storage import job_index
from berlin_worker.storage.batcher import Batcher
from berlin_worker.storage.redis_errors import describe, refusal
from berlin_worker.storage.scripts import source
from berlin_worker.telemetry import tracing

if TYPE_CHECKING:
    from berlin_worker.storage.connections import Command

_AT_ONCE: Final = 64
_SLOTS_S: Final = 1.0
"""How long a submission waits for the node of its record; then it uses a lane without a node."""
_AGAIN_MS: Final = round(QUEUED_AGAIN_S * 1000)

_Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class _Call:
    script: str
    job_id: str
    args: list[_Argument]


class _Record(IntEnum):
    """Replies of ``submit.lua``."""

    BEGUN = 0
    WRITTEN = 1
    WAITING = 2
    """Submitted before; its message is sent again, since it may be missing."""
    REUSED = 3
    """The record is that of another job."""


class _Withdrawal(IntEnum):
    """Replies of ``undo_submit.lua``."""

    BEGUN = 0
    DONE = 1
    CO_SUBMITTED = 2
    """Another client has submitted the job meanwhile, and its submission succeeded."""


class _Lane:
    """The submissions whose records are at one node; submissions at others do not wait for them."""

    def __init__(self, run: Callable[[list[_Call]], Awaitable[list[int | Exception]]]) -> None:
        self.calls: Batcher[_Call, int] = Batcher(run, at_most=_AT_ONCE, closed=closed)
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self.failure: tuple[float, Unavailable] | None = None


class Submitter:
    """Writes records in Redis and sends messages to the broker."""

    def __init__(
        self,
        redis: RecordCommands,
        enqueuer: Enqueuer,
        *,
        one_slot: bool,
        address: str,
        record_ttl_s: int,
        timeout_s: float,
    ) -> None:
        self._enqueuer = enqueuer
        self._address = address
        self._record_ttl_s = record_ttl_s
        self._timeout_s = timeout_s
        self._redis = redis
        self._one_slot = one_slot
        self._scripts = {name: source(name) for name in ("submit", "undo_submit")}
        self._lanes: dict[str, _Lane] = {}

    async def accept(self, submission: Submission) -> None:
        """Submit a job.

        Raises :class:`Unavailable`, whose message names whether the job may still run,
        :class:`JobIdReused` if another job has its ID, and ``InvalidJob`` if the message is too
        large for the broker.
        """
        asked = time.monotonic()
        lane = await self._lane(submission.job_id)
        async with lane.turn:
            # A submission that waited here while the broker did not answer fails at once, without
            # a timeout of its own.
            if lane.failure is not None and lane.failure[0] > asked:
                reason = "Redis or the broker has just failed for others in line"
                raise Unavailable(
                    f"job {submission.job_id} was not accepted: {reason}"
                ) from lane.failure[1]
            try:
                await self._accept(submission)
            except Unavailable as error:
                lane.failure = (time.monotonic(), error)
                raise

    async def aclose(self) -> None:
        """Stop; nothing may be under way."""
        for lane in self._lanes.values():
            await lane.calls.aclose()

    async def _lane(self, job_id: str) -> _Lane:
        node = ""
        if self._one_slot:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SLOTS_S):
                    node = await self._redis.node_of(("HEXISTS", names.state_key(job_id), "status"))
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = _Lane(self._run)
        return lane

    async def _accept(self, submission: Submission) -> None:
        job_id = submission.job_id
        record = await self._write(submission)
        if record is _Record.REUSED:
            raise JobIdReused(job_id)
        if record is _Record.BEGUN:
            return
        try:
            await self._enqueuer.enqueue(job_id, submission.job, timeout_s=self._timeout_s)
        except InvalidJob:  # this job alone: the broker takes others
            if record is _Record.WRITTEN:
                with contextlib.suppress(RedisError, OSError):  # else its record ends it
                    await self._undo_in_time(job_id)
            raise
        except Unavailable as error:
            if record is _Record.WRITTEN:
                await self._withdraw(job_id, error)
            else:
                raise Unavailable(f"{error}; {_may_run(job_id)}") from error

    async def _write(self, submission: Submission) -> "_Record":
        job_id = submission.job_id
        args: list[_Argument] = [
            submission.data,
            self._record_ttl_s,
            _AGAIN_MS,
            tracing.to_carrier(tracing.inject()),
            *submission.facts.script_args(),
        ]
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return _Record(await self._write_record(job_id, args))
                except (AuthenticationError, ResponseError):
                    raise
                except (RedisError, OSError):
                    # The reply may have been lost, and the record that is found be our own.
                    return _Record(await self._write_record(job_id, args))
        except (AuthenticationError, ResponseError) as error:
            reason = f"Redis at {self._address} {refusal(error) or f'refuses it ({error})'}"
            raise Unavailable(f"job {job_id} was not accepted: {reason}") from error
        except (RedisError, OSError) as error:
            reason = describe(self._address, error)
            raise Unavailable(f"{reason}; {_may_run(job_id)}") from error

    async def _withdraw(self, job_id: str, cause: Unavailable) -> None:
        try:
            withdrawn = await self._undo_in_time(job_id)
        except (RedisError, OSError) as error:
            raise Unavailable(f"{cause}; {_may_run(job_id)}") from error
        # BEGUN: a worker has it, so the message had arrived.
        if withdrawn == _Withdrawal.DONE:
            raise Unavailable(f"{cause}; job {job_id} was not accepted") from cause
        if withdrawn == _Withdrawal.CO_SUBMITTED:
            raise Unavailable(f"{cause}; {_may_run(job_id)}") from cause

    async def _write_record(self, job_id: str, args: list[_Argument]) -> int:
        lane = await self._lane(job_id)
        return await lane.calls.ask(_Call("submit", job_id, args))

    async def _undo_in_time(self, job_id: str) -> int:
        async with asyncio.timeout(self._timeout_s):
            return await self._undo_record(job_id, [self._record_ttl_s])

    async def _undo_record(self, job_id: str, args: list[_Argument]) -> int:
        lane = await self._lane(job_id)
        return await lane.calls.ask(_Call("undo_submit", job_id, args))

    async def _run(self, calls: list[_Call]) -> list[int | Exception]:
        submitted = [call.job_id for call in calls if call.script == "submit"]
        ahead = (
            job_index.submissions(submitted, _AGAIN_MS, self._record_ttl_s, one_slot=self._one_slot)
            if submitted
            else []
        )
        # EVAL, not EVALSHA: a server that was restarted would answer NOSCRIPT, and an error
        # must mean that the outcome of the call is unknown.
        commands: list[Command] = [
            ("EVAL", script, len(keys), *keys, *args) for script, keys, args in ahead
        ]
        records: list[Command] = [
            ("EVAL", self._scripts[call.script], 1, names.state_key(call.job_id), *call.args)
            for call in calls
        ]
        if self._one_slot:  # nodes have no order among them, and the index entries come first
            try:
                await self._redis.write_index(commands)
            except (RedisError, OSError) as error:
                kept = [at for at, call in enumerate(calls) if call.script != "submit"]
                outcomes = await self._redis.outcomes([records[at] for at in kept])
                found = dict(zip(kept, outcomes, strict=True))
                return [found.get(at, error) for at in range(len(calls))]
            return await self._redis.outcomes(records)
        replies: list[int | Exception] = await self._redis.outcomes(commands + records)
        refused = next((reply for reply in replies[: len(ahead)] if reply != 1), None)
        outcomes = replies[len(ahead) :]
        if isinstance(refused, Exception):
            return await self._undo_all(calls, outcomes, refused)
        return outcomes

    async def _undo_all(
        self, calls: list[_Call], outcomes: list[int | Exception], refused: Exception
    ) -> list[int | Exception]:
        """Undo the records of a batch whose index entries were refused."""
        undo = [
            call.script == "submit" and outcome == _Record.WRITTEN
            for call, outcome in zip(calls, outcomes, strict=True)
        ]
        script = self._scripts["undo_submit"]
        await self._redis.outcomes(
            [
                ("EVAL", script, 1, names.state_key(call.job_id), self._record_ttl_s)
                for call in itertools.compress(calls, undo)
            ]
        )
        return [
            refused if undone else outcome for outcome, undone in zip(outcomes, undo, strict=True)
        ]


def _may_run(job_id: str) -> str:
    return (
        f"job {job_id} may still run: to be sure that it does, submit it again with this "
        "job_id; to be sure that it does not, cancel it"
    )
