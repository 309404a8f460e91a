"""The index of unfinished jobs and that of the newest jobs: advisory, the records are the truth.

A worker writes the entry of a job ahead of its claim, a client ahead of its submission. Other
changes are collected and written together. A lost entry returns by a renewal or by the search of
:meth:`JobIndex.heal`. An entry without an unfinished job is removed when it is due.
"""

import itertools
import logging
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from berlin_schemas import names
from berlin_worker.storage import old_index
from berlin_worker.storage.advisory import AdvisoryWriter
from berlin_worker.storage.cluster import AsyncCluster
from berlin_worker.storage.script_connection import Call, SharedScriptConnection
from berlin_worker.storage.scripts import source
from berlin_worker.storage.stored_values import as_job_id

logger = logging.getLogger(__name__)

INDEX: Final = source("index")
FIND_DUE: Final = source("find_due")
UNFINISHED: Final = source("unfinished")
TAKE_TURN: Final = source("take_turn")
SCRIPTS: Final = (INDEX, FIND_DUE, UNFINISHED, TAKE_TURN)

JOBS_MAX: Final = 10_000
"""Most entries of the index of the newest jobs."""
_PENDING_MAX: Final = 10_000
"""Most collected changes; what is lost heals, or is removed later by a reaper."""
_ENTRIES_A_CALL: Final = 1000
"""Lua passes at most about 8,000 values to one command."""
_SCANNED: Final = (100, 1000)
"""Keys that one scan looks at. The larger number holds while a node with index entries is away:
then only a scan finds the jobs of these entries."""
_TURNS: Final = 1024
"""Keys of turns: enough that each node of a cluster has one."""
_STATE_KEYS: Final = "job:{*}:state"
_STATE_KEY: Final = re.compile(rb"job:\{(%s)\}:state" % names.JOB_ID_PATTERN.encode())

Entry = tuple[int | None, str | bytes]
"""Time from now in ms (``None`` removes the entry), and job ID."""


def partition_of(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Group entries by the key of their partition (pure)."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[names.due_key(entry[1])].append(entry)
    return found


def changes(
    entries: Mapping[str, Sequence[Entry]],
    *,
    ttl_s: int,
    only: str = "",
    at_most: int | str = "",
    one_slot: bool = False,
) -> list[Call]:
    """Return calls of ``index.lua`` that write ``entries`` by key (pure).

    ``only`` is ``LT`` or ``NX`` of ZADD. With ``one_slot`` each call has one key.
    """
    parts = [
        (key, entries[key][start : start + _ENTRIES_A_CALL])
        for key in entries
        for start in range(0, len(entries[key]), _ENTRIES_A_CALL)
    ]
    calls = []
    for some in ([part] for part in parts) if one_slot else [parts] if parts else []:
        args: list[Any] = [ttl_s, only, at_most]
        for _, part in some:
            args.append(len(part))
            args += ("" if value is None else value for entry in part for value in entry)
        calls.append(Call(INDEX, [key for key, _ in some], args))
    return calls


def submissions(
    job_ids: Sequence[str], delay_ms: int, ttl_s: int, *, one_slot: bool = False
) -> list[Call]:
    """Return the calls that a client sends ahead of submissions (pure)."""
    due = partition_of((delay_ms, job_id) for job_id in job_ids)
    newest: dict[str, list[Entry]] = {names.JOBS: [(0, job_id) for job_id in job_ids]}
    return [
        *changes(due, ttl_s=ttl_s, only="LT", one_slot=one_slot),
        *changes(newest, ttl_s=ttl_s, only="NX", at_most=JOBS_MAX),
    ]


class JobIndex:
    """Both indexes of one event store; every method raises redis-py's errors.

    ``one_slot``: the store is a cluster, and each call of a script has keys of one slot.
    """

    def __init__(
        self, client: Redis, scripts: SharedScriptConnection, *, ttl_s: int, one_slot: bool
    ) -> None:
        self._redis = client
        self._scripts = scripts
        self._ttl_s = ttl_s
        self._one_slot = one_slot
        self._due: dict[str, int | None] = {}
        self._new: dict[str, float] = {}
        self._cursor = 0
        self._cursors: dict[str, int] = {}
        self._may_scan = True
        self._scanned = _SCANNED[False]
        self._writer = AdvisoryWriter(self._run, lambda call: scripts.node_of(call.keys[0]))

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        return await self._scripts.run(calls)

    async def claimed_soon(self, job_id: str, delay_ms: int, ttl_s: int) -> None:
        """Add the entry of a job that is about to be claimed, on a cluster.

        The node of the entry may be another than that of the job. If it does not answer at once,
        the entry is written later.
        """
        call = Call(INDEX, [names.due_key(job_id)], [ttl_s, "LT", "", 1, delay_ms, job_id])
        if await self._writer.write([call]):
            self.look_again(job_id, delay_ms)

    async def renewed(self, job_ids: Sequence[str], delay_ms: int) -> None:
        """Move the entries of jobs whose leases were renewed, on a cluster; restore lost ones.

        If a node does not answer at once, or fails, its entries are written later.
        """
        for missed in await self._missed(dict.fromkeys(job_ids, delay_ms)):
            self.look_again(missed, delay_ms)

    async def _missed(self, delays_ms: Mapping[str, int | None], only: str = "") -> list[str]:
        """Write entries on a cluster; return the job IDs of those that are left to write."""
        entries = partition_of((delay_ms, job_id) for job_id, delay_ms in delays_ms.items())
        calls = changes(entries, ttl_s=self._ttl_s, only=only, one_slot=True)
        keys = {call.keys[0] for call in await self._writer.write(calls)}
        return [job_id for job_id in delays_ms if names.due_key(job_id) in keys] if keys else []

    def renewals(self, job_ids: Iterable[str], delay_ms: int) -> list[Call]:
        """Return the calls that move entries of running jobs; they also restore lost ones."""
        entries = partition_of((delay_ms, job_id) for job_id in job_ids)
        return changes(entries, ttl_s=self._ttl_s)

    def look_again(self, job_id: str, delay_ms: int | None) -> None:
        """Collect a change: look at the job after ``delay_ms``, or never if it is ``None``."""
        if len(self._due) < _PENDING_MAX:
            self._due[job_id] = delay_ms

    def add_new(self, job_id: str) -> None:
        """Collect a job without a submission, which has just begun, for the newest jobs."""
        if len(self._new) < _PENDING_MAX:
            self._new[job_id] = time.monotonic()

    async def update(self) -> None:
        """Write the collected changes."""
        if not self._due and not self._new:
            return
        due, new, now = self._due, self._new, time.monotonic()
        self._due, self._new = {}, {}
        listed: list[Entry] = [(round((at - now) * 1000), job_id) for job_id, at in new.items()]
        jobs = {names.JOBS: listed} if listed else {}
        newest = changes(jobs, ttl_s=self._ttl_s, only="NX", at_most=JOBS_MAX)
        try:
            if self._one_slot:
                due = {job_id: due[job_id] for job_id in await self._missed(due)}
                if not await self._writer.write(newest):
                    new = {}
                # The entries of a node that does not answer are written later.
                self._due, self._new = due | self._due, new | self._new
                return
            await self._write(due)
            await self._scripts.run(newest)
        except BaseException:
            self._due, self._new = due | self._due, new | self._new
            raise

    async def take_turn(self, for_s: float, node: str = "") -> bool:
        """Return whether this caller alone looks for due jobs for the next ``for_s``.

        On a cluster each node has a turn of its own.
        """
        for_ms = max(1, round(for_s * 1000))
        key = names.DUE_TURN
        if node:
            turns = (names.turn_key(number) for number in range(_TURNS))
            key = next((each for each in turns if self._scripts.node_of(each) == node), key)
        return bool(await self._scripts.call(TAKE_TURN, [key], [for_ms]))

    async def find(self, limit: int, node: str = "") -> list[str]:
        """Return the IDs of up to ``limit`` jobs that are due; remove members that are no IDs.

        On a cluster ``node`` is the one whose partitions are read; without it all are.
        """
        first = secrets.randbelow(len(names.DUE_KEYS))  # no partition waits for the others
        keys = names.DUE_KEYS[first:] + names.DUE_KEYS[:first]
        if node:
            keys = tuple(key for key in keys if self._scripts.node_of(key) == node)
        parts = [[key] for key in keys] if self._one_slot else [keys]
        replies = await self._scripts.run([Call(FIND_DUE, part, [limit]) for part in parts])
        if removed := sum(count for _, count in replies):
            # Renewals and submissions write them anew.
            logger.error("%d keys of the index of due jobs were no sorted sets: removed", removed)
        found = [member for members, _ in replies for member in members][:limit]
        due = {member: as_job_id(member) for member in found}
        if foreign := [member for member, job_id in due.items() if job_id is None]:
            logger.error(
                "%d members of the index of due jobs are no job IDs: removed", len(foreign)
            )
            # The partition of a foreign member is not known.
            await self._scripts.run(
                changes(
                    {key: [(None, member) for member in foreign] for key in keys},
                    ttl_s=self._ttl_s,
                    one_slot=self._one_slot,
                )
            )
        return [job_id for job_id in due.values() if job_id is not None]

    async def heal(self, delay_ms: int, node: str = "") -> list[str]:
        """Look at some records, others at each call, and restore lost entries of unfinished jobs.

        On a cluster ``node`` is the one whose records are looked at; without it all are. Returns
        the jobs whose entries cannot be written, since other nodes do not answer.

        Entries of version 0.1 are moved, see :mod:`berlin_worker.storage.old_index`.
        """
        # Version 0.1 does not run on a cluster.
        left = [] if self._one_slot else await old_index.entries(self._redis)
        moved = old_index.moved(left, await self.statuses(job_id for job_id, _ in left), delay_ms)
        await self._write(dict.fromkeys(moved, 0), only="LT")
        await old_index.remove(self._redis, moved)
        if not self._may_scan:
            return []
        try:
            keys = await self._scan(node)
        except NoPermissionError as error:
            self._may_scan = False
            logger.warning("lost index entries of waiting jobs cannot be restored: %s", error)
            return []
        job_ids = [found[1].decode() for key in keys if (found := _STATE_KEY.fullmatch(key))]
        statuses = await self.statuses(job_ids)
        held = set() if self._one_slot else await old_index.held(self._redis, statuses)
        unfinished = [job_id for job_id in job_ids if statuses[job_id] and job_id not in held]
        entries = dict.fromkeys(unfinished, delay_ms)
        if self._one_slot:
            missed = await self._missed(entries, only="LT")
            self._scanned = _SCANNED[bool(missed)]
            return missed
        await self._write(entries, only="LT")
        return []

    async def _scan(self, node: str) -> list[bytes]:
        """Return some keys of records, others at each call."""
        if isinstance(self._redis, AsyncCluster):
            return await self._scan_nodes(self._redis, [node] if node else self._redis.serving())
        scanned: Any = await self._redis.scan(self._cursor, match=_STATE_KEYS, count=self._scanned)
        self._cursor, found = scanned
        return list(found)

    async def _scan_nodes(self, cluster: AsyncCluster, nodes: Sequence[str]) -> list[bytes]:
        keys: list[bytes] = []
        # A node that has left is forgotten; one that returns is scanned from its beginning.
        self._cursors = {each: self._cursors.get(each, 0) for each in cluster.serving()}
        for node in nodes:
            options = ("MATCH", _STATE_KEYS, "COUNT", self._scanned)
            cursor, found = await cluster.ask_node(
                node, "SCAN", self._cursors.get(node, 0), *options
            )
            self._cursors[node] = int(cursor)
            keys += found
        return keys

    async def statuses(self, job_ids: Iterable[str]) -> dict[str, int]:
        """Return by job ID what ``unfinished.lua`` replies."""
        listed = list(job_ids)
        keys = [names.state_key(job_id) for job_id in listed]
        parts = [[key] for key in keys] if self._one_slot else [keys] if keys else []
        replies = await self._scripts.run([Call(UNFINISHED, part, ()) for part in parts])
        return dict(zip(listed, itertools.chain(*replies), strict=True))

    async def _write(self, delays_ms: Mapping[str, int | None], only: str = "") -> None:
        entries = partition_of((delay_ms, job_id) for job_id, delay_ms in delays_ms.items())
        await self._scripts.run(
            changes(entries, ttl_s=self._ttl_s, only=only, one_slot=self._one_slot)
        )
