"""Jobs that are just being claimed: nobody holds them here yet, but somebody may cancel them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Arrival:
    """A claim on its way to the store and back."""

    job_id: str
    cancelled: bool = False
    """Whether somebody wanted the job cancelled meanwhile: the reply may be older than that."""


class Arrivals:
    """The claims of one process that are under way."""

    def __init__(self) -> None:
        self._coming: set[Arrival] = set()

    @contextlib.contextmanager
    def expected(self, job_id: str) -> Iterator[Arrival]:
        """Listen for cancellations of a job for as long as the block runs."""
        arrival = Arrival(job_id)
        self._coming.add(arrival)
        try:
            yield arrival
        finally:
            self._coming.discard(arrival)

    def cancel(self, job_id: str) -> None:
        """Note for each claim of the job that it is cancelled."""
        for arrival in self._coming:
            if arrival.job_id == job_id:
                arrival.cancelled = True
