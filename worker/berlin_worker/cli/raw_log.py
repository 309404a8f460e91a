"""The events of a job as the bytes that the worker wrote."""

from typing import Any, Self

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.cli.preflight import load_settings
from berlin_worker.client.entries import data_of, seq_of
from berlin_worker.storage import connections


class RawLog:
    """Reads events undecoded: those of later versions may have more fields."""

    def __init__(self, job_id: str) -> None:
        self._key = names.log_key(job_id)
        self._redis = connections.commands(load_settings().redis_url)

    async def read(self, after: int, last: int) -> dict[int, bytes]:
        """Return the events after ``after`` up to ``last`` by ``seq``, none if Redis is away."""
        try:
            found: Any = await self._redis.xrange(self._key, f"({after}-0", f"{last}-0")
        except (RedisError, OSError):
            return {}
        events: dict[int, bytes] = {}
        for entry in found:
            # The reader takes the first entry of a `seq`: a second one was added by a stranger.
            events.setdefault(seq_of(entry), data_of(entry))
        return events

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._redis.aclose()
