"""Claims jobs for this process, so that no claim is left behind if its caller is cancelled."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from berlin_worker.jobs.attempt import Attempt
from berlin_worker.jobs.job_facts import NO_FACTS, Facts
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.pending_claims import PendingClaims
from berlin_worker.jobs.stopping import STOP_S, Stopper
from berlin_worker.jobs.store import Claim, JobStore
from berlin_worker.jobs.store_retry import retry_until_available
from berlin_worker.telemetry import tracing

T = TypeVar("T")

_numbers: Final = itertools.count(1)
"""Numbers the claims of this process: with the store's owner, each has a name of its own."""

_CHECK_INTERVAL_S = 1.0
"""How often a delivery that waits for a lease checks whether the lease was renewed."""


@dataclass(frozen=True, slots=True)
class Claimer:
    """Claims jobs; ``pending`` are the claims under way, which a cancellation must reach."""

    store: JobStore
    journal: Journal
    leases: Leases
    stopper: Stopper
    pending: PendingClaims = field(default_factory=PendingClaims)

    async def claim(
        self,
        job_id: str,
        job: bytes,
        *,
        deadline_s: float,
        held: str = "",
        only_queued: bool = False,
        facts: Facts = NO_FACTS,
    ) -> Claim:
        """Claim a job as :meth:`JobStore.claim` does, however long the store is away.

        Raises ``CancelledError`` if the caller is cancelled; then nothing stays claimed.
        """
        call = str(next(_numbers))

        def claim_once() -> Awaitable[Claim]:
            return retry_until_available(
                lambda: self.store.claim(
                    job_id,
                    job,
                    call=call,
                    deadline_s=deadline_s,
                    held=held,
                    only_queued=only_queued,
                    trace=tracing.current().carrier,
                    facts=facts,
                )
            )

        try:
            # From this reply until the attempt is registered in ``leases``, nothing is awaited but
            # by ``unless_cancelled``.
            with self.pending.track(job_id) as pending:
                claim = await claim_once()
            reason = pending.cancel_reason or claim.cancel_reason
            return replace(claim, cancel_reason=reason) if reason else claim
        except asyncio.CancelledError:
            # A claim without an attempt would keep the job from all others for a lease. Repeated
            # under its name, it finds what it has begun.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    claim = await claim_once()
                await self._stop(claim)
            raise

    async def unless_cancelled(self, claim: Claim, work: Awaitable[T]) -> T:
        """Await ``work`` for a claimed job before its attempt is registered in ``leases``.

        Raises ``CancelledError`` if the caller is cancelled; then the job does not stay claimed.
        """
        try:
            return await work
        except asyncio.CancelledError:
            await self._stop(claim)
            raise

    async def _stop(self, claim: Claim) -> None:
        if claim.status == "claimed":
            await self.stopper.stop(Attempt(claim, self.journal))

    async def wait_for_lease_expiry(
        self, claim: Claim, claim_again: Callable[[], Awaitable[Claim]]
    ) -> Claim:
        """Claim again until the lease of another attempt has expired, or was renewed."""
        until_ms = claim.leased_ms
        while claim.status == "leased" and claim.leased_ms == until_ms:
            if self.leases.holder(claim.job_id) is not None:
                break  # this process has the job: the connection broke, and not the worker
            left_s = (until_ms - claim.now_ms + 1) / 1000
            await asyncio.sleep(min(left_s, _CHECK_INTERVAL_S))
            claim = await claim_again()
        return claim
