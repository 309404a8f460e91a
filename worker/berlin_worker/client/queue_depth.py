"""Counts messages by their state, as far as the broker reports them. Blocks."""

from typing import Any

from celery import Celery
from kombu.exceptions import ChannelError
from redis.exceptions import ResponseError

from berlin_schemas import names


def count(app: Celery) -> dict[str, int]:
    """Return ``waiting`` on the queue, and (Redis) ``unacknowledged``: those that workers hold.

    Uses a connection of its own. Raises the errors of the broker's client.
    """
    with app.connection_for_write() as connection:
        channel = connection.channel()
        try:
            declared = channel.queue_declare(names.QUEUE, passive=True)
            counted = {"waiting": declared.message_count}
        except ChannelError as error:
            if not is_missing_queue(error):
                raise
            counted = {"waiting": 0}  # nothing waits on it
        if connection.transport.driver_type == "redis":
            counted |= _unacknowledged(channel)
    return counted


def is_missing_queue(error: ChannelError) -> bool:
    """Return whether the queue does not exist, rather than be forbidden to this user (pure)."""
    return str(error.reply_code) == "404"


def _unacknowledged(channel: Any) -> dict[str, int]:
    try:
        with channel.conn_or_acquire() as client:
            # The index has an entry for each message that is held, as the hash beside it.
            return {"unacknowledged": client.zcard(channel.unacked_index_key)}
    except ResponseError:  # a user without the right to ask
        return {}
