"""The store of jobs in Redis: records, leases, logs. It runs the Lua scripts and decides nothing.

Every method raises the builtin ``ConnectionError`` if Redis cannot be reached or refuses to write;
each may then be called again with the same arguments.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

import redis.asyncio
from redis.exceptions import ResponseError

from berlin_schemas import names
from berlin_worker.jobs.job_facts import NO_FACTS, Facts
from berlin_worker.jobs.job_log import Batch
from berlin_worker.jobs.store import QUEUE_EMPTY, Claim, Overdue, Progress, Renewal
from berlin_worker.storage import append_calls, job_index
from berlin_worker.storage.claim_reply import claim_of
from berlin_worker.storage.cluster import AsyncCluster, uptime_s
from berlin_worker.storage.cluster_scripts import ClusterScriptConnection, script_connection
from berlin_worker.storage.dead_letters import DeadLetters
from berlin_worker.storage.job_nodes import JobNodes
from berlin_worker.storage.redis_errors import unreachable
from berlin_worker.storage.script_connection import Call
from berlin_worker.storage.scripts import source
from berlin_worker.storage.shared_scripts import shared_scripts
from berlin_worker.telemetry.store_nodes import Observer

if TYPE_CHECKING:
    from berlin_worker.settings import Settings

_CLAIM: Final = source("claim", "failed_attempt")
_RENEW: Final = source("renew")
_RELEASE: Final = source("release")
_REAP: Final = source("reap", "failed_attempt")
_CLEAR_FAILURE: Final = source("clear_failure")
_SAVE_PROGRESS: Final = source("save_progress")
_REVOKE: Final = source("revoke")
_RECORDS: Final = (
    *(_CLAIM, _RENEW, _RELEASE, _REAP, _CLEAR_FAILURE, _SAVE_PROGRESS, _REVOKE),
    *job_index.SCRIPTS,
)
SCRIPTS: Final = (append_calls.APPEND, *_RECORDS)
"""The text of each script that a store on one Redis runs."""
_WAITS: Final = 2
_RENEWALS: Final[tuple[Renewal, ...]] = ("renewed", "lost", "requested", "revoked")


class RedisStore:
    """Records, leases and logs of jobs in one Redis.

    ``owner`` names this process in the records; ``lease_s`` is for how long a claim holds.
    ``one_slot``: the Redis is a cluster, and each call of a script has keys of one slot.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        owner: str,
        lease_s: float,
        log_ttl_s: int,
        queue_ttl_s: int,
        dead_letters_max: int,
        one_slot: bool = False,
        observer: Observer = None,
    ) -> None:
        self._redis = client
        self._has_info = True
        self._owner = owner
        self._lease_ms = round(lease_s * 1000)
        self._log_ttl_s = log_ttl_s
        self._queue_ttl_s = queue_ttl_s
        self._dead_letters = DeadLetters(client, at_most=dead_letters_max, dedup_ttl_s=log_ttl_s)
        self._one_slot = one_slot
        append = append_calls.script(one_slot=one_slot)
        self._append = script_connection(client, append, observer=observer)
        self._own_records = script_connection(client, *_RECORDS, observer=observer)
        self._records = shared_scripts(self._own_records)
        # On a cluster a call waits for its slot. Leases of other slots must not wait with it.
        self._own_renewals = script_connection(client, _RENEW, observer=observer)
        self._renewals = shared_scripts(self._own_renewals) if one_slot else self._records
        self._index = job_index.JobIndex(
            client, self._records, ttl_s=queue_ttl_s, one_slot=one_slot
        )
        self.nodes = (
            JobNodes(client, self._records, self._index, again_ms=self._lease_ms)
            if isinstance(client, AsyncCluster)
            else None
        )

    @classmethod
    def from_settings(
        cls, client: redis.asyncio.Redis, settings: "Settings", owner: str, nodes: Observer = None
    ) -> Self:
        """Return a store with the lease, lifetimes and limits of ``settings``."""
        return cls(
            client,
            owner=owner,
            lease_s=settings.lease_s,
            log_ttl_s=settings.log_ttl_s,
            queue_ttl_s=settings.queue_ttl_s,
            dead_letters_max=settings.dead_letters_max,
            one_slot=isinstance(client, AsyncCluster),
            observer=nodes,
        )

    async def aclose(self) -> None:
        """Close the connections; nothing may be under way."""
        for connection in (self._append, self._own_records, self._own_renewals):
            await connection.aclose()

    async def claim(
        self,
        job_id: str,
        job: bytes,
        *,
        call: str,
        deadline_s: float,
        held: str = "",
        only_queued: bool = False,
        trace: str = "",
        facts: Facts = NO_FACTS,
    ) -> Claim:
        """Begin an attempt if the job is free (``claim.lua``).

        ``call`` names this claim: after a lost reply the same call finds the attempt that it has
        begun. ``held`` is the owner of the caller's attempt, which gives way to the new one.
        A record with another fingerprint than that of ``facts`` is a conflict.
        """
        ttl_s = round(deadline_s) + self._queue_ttl_s  # it may return to the queue until then
        keys = [names.state_key(job_id), names.log_key(job_id)]
        owner = f"{self._owner}/{call}"
        args: list[Any] = [owner, self._lease_ms, ttl_s, job, held]
        args += (int(only_queued), trace, *facts.script_args())
        with unreachable():
            if self._one_slot:
                await self._index.claimed_soon(job_id, self._lease_ms, ttl_s)
            else:
                keys.append(names.due_key(job_id))
            reply: list[Any] = await self._records.call(_CLAIM, keys, args)
        claim, is_new = claim_of(job_id, owner, reply)
        if claim.status == "finished":
            self._index.look_again(job_id, None)
        elif is_new:
            self._index.add_new(job_id)
        return claim

    async def append(self, batch: list[Batch]) -> list[bool | None]:
        """Append and publish the events of many jobs (``append.lua``).

        ``None`` is the reply of a job whose keys are at two nodes, because its slot moves.
        """
        calls = append_calls.calls(batch, ttl_s=self._log_ttl_s, one_slot=self._one_slot)
        replies: Sequence[int | None]
        with unreachable():
            if isinstance(self._append, ClusterScriptConnection):
                replies = [each and each[0] for each in await self._append.settled(calls)]
            else:
                parts: list[list[int]] = await self._append.replies(calls)
                replies = parts[0] if len(parts) == 1 else [taken for (taken,) in parts]
        for part, taken in zip(batch, replies, strict=True):
            if part.ending and taken:
                self._index.look_again(part.log.job_id, None)
        return [None if taken is None else taken == 1 for taken in replies]

    async def renew(self, held: Sequence[tuple[str, str]], *, index: bool = True) -> list[Renewal]:
        """Renew the leases of ``(job ID, owner)``; return the state of each (``renew.lua``).

        With ``index`` also move the index entries of these jobs, lost ones included.
        """
        if self._one_slot:
            return await self._renew_by_slot(held, index=index)
        if not held:
            return []
        indexed = (job_id for job_id, _ in held) if index else ()
        calls = self._index.renewals(indexed, self._lease_ms)
        keys = [names.state_key(job_id) for job_id, _ in held]
        calls.append(Call(_RENEW, keys, [self._lease_ms, *(owner for _, owner in held)]))
        with unreachable():
            *_, codes = await self._records.run(calls)
        return [_RENEWALS[code] for code in codes]

    async def _renew_by_slot(
        self, held: Sequence[tuple[str, str]], *, index: bool
    ) -> list[Renewal]:
        calls = [
            Call(_RENEW, [names.state_key(job_id)], [self._lease_ms, owner])
            for job_id, owner in held
        ]
        with unreachable():
            codes: list[int] = [code for (code,) in await self._renewals.run(calls)]
        # Entries are at other nodes: none of these holds up a renewal.
        if index:
            renewed = [job_id for (job_id, _), code in zip(held, codes, strict=True) if code != 1]
            await self._index.renewed(renewed, self._lease_ms)
        return [_RENEWALS[code] for code in codes]

    async def release(self, job_id: str, owner: str) -> None:
        """Release a running job, so that it can be claimed at once (``release.lua``)."""
        with unreachable():
            args = [owner, self._lease_ms]
            if await self._records.call(_RELEASE, [names.state_key(job_id)], args):
                self._index.look_again(job_id, self._lease_ms)

    async def clear_failure(
        self, job_id: str, owner: str, *, failed_attempts: int, at_most: int
    ) -> bool:
        """Set the ``failed_attempts`` of a running job, up to ``at_most`` times for each job.

        Returns whether they were set (``clear_failure.lua``).
        """
        with unreachable():
            args = [owner, failed_attempts, at_most]
            reply = await self._records.call(_CLEAR_FAILURE, [names.state_key(job_id)], args)
        return bool(reply)

    async def save_progress(self, job_id: str, owner: str, progress: Progress) -> None:
        """Keep in the record of a running job what its next claim returns of earlier attempts."""
        with unreachable():
            args = [owner, json.dumps(asdict(progress))]
            await self._records.call(_SAVE_PROGRESS, [names.state_key(job_id)], args)

    async def revoke(self, job_id: str, *, running: bool) -> bool:
        """Set the cancel flag of a job, known or not; of a running job only if ``running``.

        Returns whether the job waits by its record (``revoke.lua``).
        """
        args = [self._queue_ttl_s, int(running)]
        with unreachable():
            reply: int = await self._records.call(_REVOKE, [names.state_key(job_id)], args)
        return reply == _WAITS

    async def due(self, limit: int) -> list[str]:
        """Return the IDs of up to ``limit`` jobs that are due by the index."""
        with unreachable():
            await self._index.update()
            return await self._index.find(limit)

    async def take_turn(self, for_s: float) -> bool:
        """Return whether this worker alone looks for due jobs for the next ``for_s``."""
        with unreachable():
            return await self._index.take_turn(for_s)

    async def update_index(self) -> None:
        """Write the index entries that have changed, and remove those of ended jobs."""
        with unreachable():
            await self._index.update()

    async def heal_index(self) -> None:
        """Restore the lost index entries of some records: each call looks at the next ones."""
        with unreachable():
            await self._index.heal(self._lease_ms)

    async def up_s(self) -> float:
        """Return the uptime of the server in whole seconds; infinite if it has no INFO."""
        if not self._has_info:
            return math.inf
        with unreachable():
            try:
                return await uptime_s(self._redis)
            except ResponseError:  # not every Redis service has INFO
                self._has_info = False
                return math.inf

    async def reap(
        self,
        job_id: str,
        *,
        again_running_s: float,
        again_queued_s: float,
        watermark_ms: int = QUEUE_EMPTY,
    ) -> Overdue | None:
        """Take a due job, for this caller alone (``reap.lua``)."""
        args = [round(again_running_s * 1000), round(again_queued_s * 1000), watermark_ms]
        with unreachable():
            reply: list[Any] = await self._records.call(_REAP, [names.state_key(job_id)], args)
        taken, again_ms, job, trace = reply
        self._index.look_again(job_id, again_ms if again_ms >= 0 else None)
        return Overdue(job_id, taken.decode(), job, trace) if taken else None

    async def requeued(self, job_id: str) -> None:
        """Note that a reaped job is on the queue (``reap.lua``)."""
        with unreachable():
            await self._redis.hdel(names.state_key(job_id), "requeuing")

    async def keep_cancel_flag(self, job_id: str) -> None:
        """Set a TTL on a record that holds only the ``cancel`` flag of a client."""
        with unreachable():
            await self._redis.expire(names.state_key(job_id), self._queue_ttl_s, nx=True)

    async def dead_letter(
        self, job_id: str | None, reason: str, *, call: str, job: bytes = b"", message: bytes = b""
    ) -> None:
        """Add a dead letter; see :meth:`DeadLetters.add`."""
        with unreachable():
            await self._dead_letters.add(job_id, reason, call=call, job=job, message=message)
