"""Every name on the wire: queue, task, channels and keys (schemas/README.md, "Names").

A job ID is checked before it is put into a name, so nothing a producer sends
can reach a key, a channel or a log unless it fits :data:`JOB_ID_PATTERN`.
"""

import hashlib
import re
import uuid
from typing import Final

TASK: Final = "worker.generate"
QUEUE: Final = "prompts"
CONTROL_CHANNEL: Final = "job-control"
DEAD_LETTERS: Final = "worker:dead"
DEAD_LETTER_DEDUP: Final = "worker:dead-ids:"
"""What begins the keys that note for a while which dead letters are there already."""
DUE_JOBS: Final = "worker:due"
"""Sorted set of the jobs that are not over, by the time (ms) at which to look at each."""
JOBS: Final = "worker:jobs"
"""Sorted set of the newest jobs of an event store, by the time (ms) of their submission."""
FLEET: Final = "worker:fleet"
"""Sorted set of the workers that live, by the time (ms) at which each counts as gone."""
SHARD: Final = "worker:shard"
"""On each event store of several: its place, from 0, and their number (``1/3``)."""
SHARDS: Final = "worker:shards"
"""On ``REDIS_URL``: how many event stores there are, if it is not simply itself."""
FIRST: Final = "berlin-first"
"""Header of a message that goes to the head of the queue: its job has waited its turn already."""

JOB_ID_PATTERN: Final = r"[A-Za-z0-9_-]{1,128}"
_job_id = re.compile(JOB_ID_PATTERN, re.ASCII)


def is_job_id(value: object) -> bool:
    """Whether ``value`` is a string of 1 to 128 of ``A-Z a-z 0-9 _ -``."""
    return isinstance(value, str) and _job_id.fullmatch(value) is not None


def check_job_id(value: str) -> str:
    """Return ``value``; raise ``ValueError`` (which does not repeat it) if it is no job ID."""
    if not is_job_id(value):
        raise ValueError("a job ID is 1 to 128 characters of A-Z a-z 0-9 _ -")
    return value


def new_job_id() -> str:
    """A fresh, unguessable job ID (UUID4)."""
    return str(uuid.uuid4())


def channel(job_id: str) -> str:
    """The pub/sub channel on which the events of a job appear."""
    return f"job:{check_job_id(job_id)}"


def log_key(job_id: str) -> str:
    """The Redis Stream that holds every event of a job; entry ID ``<seq>-0``, field ``event``."""
    return f"job:{{{check_job_id(job_id)}}}:log"


def state_key(job_id: str) -> str:
    """The hash that holds the record of a job; same cluster slot as its log."""
    return f"job:{{{check_job_id(job_id)}}}:state"


def alive_key(worker: str) -> str:
    """Where a worker says how it does, as JSON; it lives as long as this key."""
    return f"worker:alive:{worker}"


def parked_key(shard: int) -> str:
    """The jobs that wait on ``REDIS_URL`` for an event store that is away; sorted set, by time."""
    return f"worker:parked:{shard}"


def token_key(provider: str, account: str) -> str:
    """Where the upstream token of an account is shared; the account itself is never in a key."""
    digest = hashlib.sha256(account.encode()).hexdigest()[:16]
    return f"token:{provider}:{digest}"
