"""The reply of ``claim.lua`` (pure)."""

from collections.abc import Sequence
from typing import Any

from berlin_worker.jobs.store import NO_PROGRESS, Claim, Progress
from berlin_worker.storage import stored_values


def claim_of(job_id: str, owner: str, reply: Sequence[Any]) -> tuple[Claim, bool]:
    """Return the claim, and whether the job has had no record before."""
    status, attempt, seq, chunks, failed_attempts, cancel_reason, *times, before, saved = reply
    created_ms, started_ms, now_ms, leased_ms, lost_after_ms = times
    progress = NO_PROGRESS
    if saved:
        progress = Progress.from_json(stored_values.json_object(saved))
    claim = Claim(
        job_id=job_id,
        status=status.decode(),
        attempt=attempt,
        owner=owner,
        seq=seq,
        chunks=chunks,
        failed_attempts=failed_attempts,
        cancel_reason=cancel_reason.decode(),
        created_ms=created_ms,
        started_ms=started_ms,
        now_ms=now_ms,
        leased_ms=leased_ms,
        lost_after_ms=lost_after_ms,
        never_began=before == b"cancelled" and seq <= 1,
        progress=progress,
    )
    return claim, status == b"claimed" and not before
