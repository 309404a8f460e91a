"""Which job the running code works for: every line that it logs can say so.

Set in the asyncio task of the job, and seen by the tasks that it starts.
"""

from contextvars import ContextVar
from typing import Final

JOB: Final[ContextVar[tuple[str, int] | None]] = ContextVar("job", default=None)
"""Job ID and attempt; the attempt is 0 before the job is claimed."""
