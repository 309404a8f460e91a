"""State that consumer, channels and requests of one process share: one object."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final


def _ignore(job_id: str) -> None:
    """Do nothing: no consumer of jobs runs in this process."""


@dataclass(slots=True)
class BrokerState:
    """The state that outlives a connection to the broker. The main thread writes it."""

    pending_acks: dict[str, float] = field(default_factory=dict)
    """Delivery tags whose acknowledgement no connection has sent yet, and since when
    (``monotonic()``)."""
    suspended: bool = False
    """Whether this process cannot work: it takes no message and extends no visibility timeout."""
    restores_from: float = 0.0
    """When (``monotonic()``) this process may requeue expired messages of other workers. After an
    outage, in which no worker could extend its messages, each gets a whole timeout to do so."""
    restores_in_s: float = 0.0
    """How much of that time was left when the connection was lost."""
    extended_at: float = 0.0
    """When (``monotonic()``) this process last extended its messages."""
    clock_ahead_s: float = 0.0
    """By how much the clock of this process is ahead of Redis's, as of the last extension."""
    on_unreadable: Callable[[str], None] = _ignore
    """Hook: receives the job ID, or "", of a message that cannot be parsed."""


STATE: Final = BrokerState()
"""The state of this process. It is global, because kombu creates the channels, and Celery the
consumer and the requests."""
