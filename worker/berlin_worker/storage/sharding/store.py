"""The store of one shard of several."""

from collections.abc import Callable
from typing import Any, Final

from berlin_worker.errors import StoreUnavailable
from berlin_worker.jobs.store import Claim
from berlin_worker.storage.job_store import RedisStore

_THERE: Final[Callable[[], bool]] = lambda: False  # noqa: E731  # a constant, not a function to call by name


class ShardStore(RedisStore):
    """A store whose claims fail while the shard is away, so that the job frees its slot.

    A job waits for the only store of a fleet, but not for one of several. ``is_away`` returns
    whether the shard has not answered for ``CUT_OFF_S``.
    """

    is_away: Callable[[], bool] = staticmethod(_THERE)

    async def claim(self, job_id: str, job: bytes, **how: Any) -> Claim:
        """Claim as :class:`RedisStore` does; raise ``StoreUnavailable`` if the shard is away.

        A job that already runs here still waits. If the claim did arrive, its lease expires.
        """
        try:
            return await super().claim(job_id, job, **how)
        except ConnectionError:
            runs_here = how.get("held_attempt") or how.get("only_queued")
            if self.is_away() and not runs_here:
                raise StoreUnavailable(job_id) from None
            raise
