"""The store of one shard of several."""

from collections.abc import Callable
from typing import Any, Final

from berlin_worker.errors import StoreUnavailable
from berlin_worker.jobs.store import Claim
from berlin_worker.storage.job_store import RedisStore

_THERE: Final[Callable[[], bool]] = lambda: False  # noqa: E731  # one word says more than four lines


class ShardStore(RedisStore):
    """Where the only store is away a job waits for it; one of several does not keep a slot.

    ``is_away`` says whether the shard has not answered for a while.
    """

    is_away: Callable[[], bool] = staticmethod(_THERE)

    async def claim(self, job_id: str, job: bytes, **how: Any) -> Claim:
        """As ever; raises :class:`StoreUnavailable` for a job that does not run here yet.

        Should the claim have arrived all the same, its lease runs out.
        """
        try:
            return await super().claim(job_id, job, **how)
        except ConnectionError:
            runs_here = how.get("held_attempt") or how.get("only_queued")
            if self.is_away() and not runs_here:
                raise StoreUnavailable(job_id) from None
            raise
