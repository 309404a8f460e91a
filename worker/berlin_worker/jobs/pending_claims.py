"""Jobs that this process is claiming: no attempt holds them yet, but a client may cancel them."""

from typing import Self


class PendingClaim:
    """A claim on its way to the store and back, for as long as its ``with`` block runs.

    ``cancel_reason`` is set if the job is cancelled in the meantime, which the reply of the claim
    may be too early to contain; else it is empty.
    """

    # A class and no generator, since each job enters one.
    __slots__ = ("_pending", "cancel_reason", "job_id")

    def __init__(self, job_id: str, pending: "set[PendingClaim]") -> None:
        self.job_id = job_id
        self.cancel_reason = ""
        self._pending = pending

    def __enter__(self) -> Self:
        self._pending.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._pending.discard(self)


class PendingClaims:
    """The claims of one process that are under way."""

    def __init__(self) -> None:
        self._pending: set[PendingClaim] = set()

    def track(self, job_id: str) -> PendingClaim:
        """Note cancellations of a job for as long as a ``with`` block runs."""
        return PendingClaim(job_id, self._pending)

    def cancel(self, job_id: str, reason: str) -> None:
        """Give each pending claim of the job this cancel reason."""
        for claim in self._pending:
            if claim.job_id == job_id:
                claim.cancel_reason = reason
