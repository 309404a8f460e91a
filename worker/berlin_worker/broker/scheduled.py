"""Scheduled messages (``countdown``, ``eta``): a worker keeps few of them in memory.

Celery keeps each one in memory until its ETA, and takes one more message from the queue for it:
enough large ones would end the worker, and then its successors. This module lets a worker postpone
a message instead: it holds the message by its tag alone, and puts it back on its list at its ETA.
"""

from datetime import datetime
from time import time
from typing import Any, Final

from celery.exceptions import InvalidTaskError
from celery.worker import state

LONGEST_KEPT_BYTES: Final = 16 * 1024
"""The longest body that stays in memory."""
MOST_KEPT: Final = 1000
"""The most messages that stay in memory."""
SOON_S: Final = 0.5
"""A message that is due within this time stays in memory: it comes back with the same ETA."""


class Postponed(InvalidTaskError):  # type: ignore[misc]  # celery has no type information
    """Raised for a message that is not to be kept in memory until ``due`` (``time()``)."""

    def __init__(self, due: float) -> None:
        super().__init__("the message is postponed")
        self.due = due


def check_memory(message: Any, eta: datetime) -> None:
    """Raise :class:`Postponed` if this message has to wait without its body.

    Brokers that cannot postpone a message, which is RabbitMQ, keep all of them in memory.
    """
    due = eta.timestamp()
    qos = getattr(message.channel, "qos", None)
    if due < time() + SOON_S or not hasattr(qos, "postpone"):
        return
    if len(state.scheduled_requests) >= MOST_KEPT or len(message.body) > LONGEST_KEPT_BYTES:
        raise Postponed(due)
