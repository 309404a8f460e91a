"""Every name on the wire: queue, task, channels and keys (schemas/README.md, "Names").

A job ID is checked against :data:`JOB_ID_PATTERN` before it becomes part of a name: no other input
of a producer reaches a key, a channel or a log.
"""

import hashlib
import re
import uuid
import zlib
from typing import Final

TASK: Final = "worker.generate"
QUEUE: Final = "prompts"
CONTROL_CHANNEL: Final = "job-control"
DEAD_LETTERS: Final = "worker:dead"
DEAD_LETTER_DEDUP: Final = "worker:dead-ids:{worker:dead}:"
"""Prefix of keys that mark, for a limited time, dead letters that exist already."""
DUE_KEYS: Final = tuple(f"worker:due:{{{number:02}}}" for number in range(64))
"""Partitions of the index of unfinished jobs: sorted sets by the time (ms) at which a reaper looks
at each job. The braces give each its own cluster slot."""
DUE_TURN: Final = "worker:due:turn"
"""Key that exists while one worker looks for due jobs; on a cluster one a node, `turn_key`."""
JOBS: Final = "worker:jobs"
"""Sorted set of the newest jobs, by the time (ms) of their submission."""
FLEET: Final = "worker:fleet"
"""Sorted set of live workers, by the time (ms) at which each counts as gone."""
FIRST: Final = "berlin-first"
"""Header of a message that goes to the head of the queue, since its job has waited already."""

JOB_ID_PATTERN: Final = r"[A-Za-z0-9_-]{1,128}"
_job_id = re.compile(JOB_ID_PATTERN, re.ASCII)
_plain_name: Final = re.compile(r"[A-Za-z0-9._:/@+-]{1,64}", re.ASCII)


def is_job_id(value: object) -> bool:
    """Return whether ``value`` is a string of 1 to 128 of ``A-Z a-z 0-9 _ -``."""
    return isinstance(value, str) and _job_id.fullmatch(value) is not None


def check_job_id(value: str) -> str:
    """Return ``value``; raise ``ValueError`` (which does not repeat it) if it is no job ID."""
    if not is_job_id(value):
        raise ValueError("a job ID is 1 to 128 characters of A-Z a-z 0-9 _ -")
    return value


def new_job_id() -> str:
    """Return a new, unguessable job ID (UUID4)."""
    return str(uuid.uuid4())


def channel(job_id: str) -> str:
    """Return the pub/sub channel of the events of a job."""
    return f"job:{check_job_id(job_id)}"


def sharded_channel(job_id: str) -> str:
    """Return the channel on a Redis Cluster (SPUBLISH, SSUBSCRIBE); in the slot of the log."""
    return f"job:{{{check_job_id(job_id)}}}"


def log_key(job_id: str) -> str:
    """Return the key of the Stream of all events of a job; ID ``<seq>-0``, field ``event``."""
    return f"job:{{{check_job_id(job_id)}}}:log"


def state_key(job_id: str) -> str:
    """Return the key of the hash with the record of a job; in the cluster slot of its log."""
    return f"job:{{{check_job_id(job_id)}}}:state"


def due_key(job_id: str | bytes) -> str:
    """Return the key of the partition that holds a job in the index of unfinished jobs."""
    data = job_id.encode() if isinstance(job_id, str) else job_id
    return DUE_KEYS[zlib.crc32(data) % len(DUE_KEYS)]


def turn_key(number: int) -> str:
    """Return the key of the turn at the node of a cluster that has its slot."""
    return f"{DUE_TURN}:{{{number:02}}}"


def alive_key(worker: str) -> str:
    """Return the key of the status of a worker, as JSON; it expires with the worker.

    It has the cluster slot of ``FLEET``: one script writes both.
    """
    return f"worker:alive:{{{FLEET}}}:{worker}"


def token_key(provider: str, account: str) -> str:
    """Return the key of the upstream token of an account; it holds a digest of the account."""
    digest = hashlib.sha256(account.encode()).hexdigest()[:16]
    return f"token:{provider}:{digest}"


def limit_key(provider: str, model: str) -> str:
    """Return the key of the limits of a model's calls; all keys of one model have one cluster slot.

    If a name has other characters than ``A-Z a-z 0-9 . _ : / @ + -``, the key holds its digest.
    """
    return f"limit:{{{_plain(provider)}:{_plain(model)}}}"


def _plain(name: str) -> str:
    if _plain_name.fullmatch(name):
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
