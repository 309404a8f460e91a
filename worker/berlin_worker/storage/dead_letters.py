"""Dead letters: entries of ``worker:dead``, one for each job or message that could not run."""

import hashlib
import itertools
from typing import Any, Final

from redis.asyncio import Redis

from berlin_schemas import names
from berlin_worker.storage.scripts import source

_ADD: Final = source("dead_letter_once", "dead_letter_entry")


class DeadLetters:
    """The dead letters of a fleet, trimmed to about ``at_most`` entries.

    ``dedup_ttl_s`` is for how long a repeated call is recognised.
    """

    def __init__(self, redis: Redis, *, at_most: int, dedup_ttl_s: int) -> None:
        self._redis = redis
        self._at_most = at_most
        self._dedup_ttl_s = dedup_ttl_s

    async def add(
        self, job_id: str | None, reason: str, *, call: str, job: bytes, message: bytes
    ) -> None:
        """Add an entry (``dead_letter_once.lua``); raises redis-py's errors.

        ``call`` names the call: a repeated one changes nothing. ``job`` is the job object as JSON;
        if it is empty, the entry holds ``message``, the bytes that were on the queue.
        """
        entry: dict[str, str | bytes] = {"job_id": job_id or "", "reason": reason}
        entry |= {"job": job} if job else {"message": message}
        dedup = hashlib.sha256(call.encode()).hexdigest()
        keys = [names.DEAD_LETTERS, f"{names.DEAD_LETTER_DEDUP}{dedup}"]
        args: list[Any] = [self._dedup_ttl_s, self._at_most]
        args += itertools.chain.from_iterable(entry.items())
        # EVAL, not EVALSHA: calls are too rare to load the script ahead.
        reply: Any = self._redis.eval(_ADD, len(keys), *keys, *args)
        await reply
