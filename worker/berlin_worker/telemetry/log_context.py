"""The job that the running code works for, for the lines that it logs.

The asyncio task of the job sets it, and the tasks that it starts inherit it.
"""

from contextvars import ContextVar
from typing import Final, NamedTuple

JOB: Final[ContextVar[tuple[str, int] | None]] = ContextVar("job", default=None)
"""Job ID and attempt; the attempt is 0 before the job is claimed."""


class About(NamedTuple):
    """Labels of a job for its line in the log: none of them is a part of the prompt."""

    provider: str
    model: str | None
    tenant: str | None


ABOUT: Final[ContextVar[About | None]] = ContextVar("about", default=None)
"""Labels of the job; ``None`` if this worker has not parsed the job."""
