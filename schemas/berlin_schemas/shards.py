"""Choose the event store of a job, if there are several (``WORKER_EVENT_SHARDS``).

Rendezvous hashing: every shard gets a number for the job, and the highest wins. The place in the
list, from 0, identifies a shard: services may use different addresses, users or passwords for one
Redis, but must use one order. If a shard is added at the end of a list of n, one job in n + 1
moves, always to the new shard.

    shard = the i in 0 .. n-1 for which SHA-256("<i>:<job_id>") is greatest

The digests are compared as bytes, or as lower-case hexadecimal text, which is the same order.
"""

import hashlib

from berlin_schemas.names import check_job_id


def shard_of(job_id: str, count: int) -> int:
    """Return the place, from 0, of the shard of a job, of ``count`` shards.

    Raises ``ValueError`` if ``job_id`` is no job ID. Costs about a microsecond for two shards and
    half a microsecond for each further one.
    """
    of_job = f":{check_job_id(job_id)}".encode()
    if count == 1:
        return 0
    return max(range(count), key=lambda place: hashlib.sha256(b"%d%s" % (place, of_job)).digest())
