"""Jobs that are just being claimed: nobody holds them here yet, but somebody may cancel them."""

from typing import Self


class Arrival:
    """A claim on its way to the store and back, for as long as its ``with`` block runs.

    ``cancel_reason`` is set if the job is cancelled in the meantime, which the reply of the claim
    may be too early to contain; else it is empty.
    """

    # A class, no generator: this is done for each job.
    __slots__ = ("_coming", "cancel_reason", "job_id")

    def __init__(self, job_id: str, coming: "set[Arrival]") -> None:
        self.job_id = job_id
        self.cancel_reason = ""
        self._coming = coming

    def __enter__(self) -> Self:
        self._coming.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._coming.discard(self)


class PendingClaims:
    """The claims of one process that are under way."""

    def __init__(self) -> None:
        self._coming: set[Arrival] = set()

    def expected(self, job_id: str) -> Arrival:
        """Listen for cancellations of a job for as long as a ``with`` block runs."""
        return Arrival(job_id, self._coming)

    def cancel(self, job_id: str, reason: str) -> None:
        """Give each pending claim of the job this cancel reason."""
        for arrival in self._coming:
            if arrival.job_id == job_id:
                arrival.cancel_reason = reason
